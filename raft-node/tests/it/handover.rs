//! A leader that is told to, hands over; how long writers notice it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use raft_node::outbound::Outbound;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::{BINARY, Cluster, json as body_of};
use crate::writers::{Writers, check};

/// Timers under which an election that waits for them cannot be mistaken for a slow machine.
const SLOW: [&str; 6] = [
    "--heartbeat",
    "500ms",
    "--election-min",
    "2s",
    "--election-max",
    "4s",
];
/// Nobody else is elected for so long after a leader falls silent.
const LOYALTY: Duration = Duration::from_secs(4);

/// One client that writes without a pause and notes when each write was acknowledged.
struct Meter {
    stop: Arc<AtomicBool>,
    acknowledged: JoinHandle<Vec<Instant>>,
}

impl Meter {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes: Vec<SocketAddr> = cluster.members.values().map(|member| member.api).collect();
        let acknowledged = tokio::spawn(write(nodes, Arc::clone(&stop)));
        Self { stop, acknowledged }
    }

    /// The longest time without an acknowledged write that touches `since`..`until`.
    async fn outage(self, since: Instant, until: Instant) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.acknowledged.await.unwrap();
        let gaps = acknowledged.windows(2).filter_map(|pair| {
            let touches = pair[1] >= since && pair[0] <= until;
            touches.then_some(pair[1] - pair[0])
        });
        gaps.max().expect("writes before and after")
    }
}

async fn write(nodes: Vec<SocketAddr>, stop: Arc<AtomicBool>) -> Vec<Instant> {
    let outbound = Outbound::new();
    let mut turn = nodes.iter().copied().cycle();
    let mut target = turn.next().unwrap();
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let body = json!({"key": "meter", "value": "v"}).to_string();
        let uri = format!("http://{target}/kv");
        let limit = Duration::from_millis(700);
        match outbound.send(Method::POST, &uri, body.into(), limit).await {
            Ok(answer) if answer.status == 200 => acknowledged.push(Instant::now()),
            Ok(answer) => {
                let hint = body_of(&answer)["leader"]["api"].as_str().map(str::parse);
                match hint {
                    Some(hint) => target = hint.unwrap(),
                    None => {
                        target = turn.next().unwrap();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            Err(_) => target = turn.next().unwrap(),
        }
    }
    acknowledged
}

fn median(mut outages: Vec<Duration>) -> Duration {
    outages.sort();
    eprintln!("writers waited {outages:?}");
    outages[outages.len() / 2]
}

async fn term(cluster: &Cluster, id: u64) -> u64 {
    let (_, body) = cluster.probe(id, "/primary").await.unwrap();
    body["term"].as_u64().unwrap()
}

async fn transfer(cluster: &Cluster, from: u64, body: Value) -> (u16, Value) {
    let api = cluster.members[&from].api;
    let answer = cluster.post(api, "/transfer", body).await.unwrap();
    (answer.status.as_u16(), body_of(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_hands_over_within_one_term_and_writers_hardly_notice() {
    for size in [3, 5] {
        let mut cluster = Cluster::new(size, &SLOW);
        cluster.start_all();
        let writers = Writers::start(&cluster, 2);
        let mut outages = Vec::new();
        for _ in 0..7 {
            let leader = cluster.leader().await;
            writers.progress(30).await;
            let before = term(&cluster, leader).await;
            let meter = Meter::start(&cluster);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let asked = Instant::now();
            let (status, body) = transfer(&cluster, leader, json!({})).await;
            let done = Instant::now();
            assert_eq!(status, 200, "{body}");
            let next = body["leader"].as_u64().unwrap();
            assert_ne!(next, leader);
            assert_eq!(cluster.leader().await, next);
            assert_eq!(term(&cluster, next).await, before + 1);
            writers.progress(30).await;
            outages.push(meter.outage(asked, done).await);
        }
        let outage = median(outages);
        assert!(outage < LOYALTY / 4, "{size} nodes: {outage:?}");
        check(&cluster, &writers.stop().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let mut cluster = Cluster::of_three(&["--drain", "100ms"]).await;
    let mut outages = Vec::new();
    for _ in 0..7 {
        let leader = cluster.leader().await;
        let before = term(&cluster, leader).await;
        let meter = Meter::start(&cluster);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let told = Instant::now();
        cluster.signal(leader, "TERM");
        let next = cluster.leader_after(leader).await;
        assert_eq!(term(&cluster, next).await, before + 1);
        assert_eq!(cluster.exit_status(leader).await.code(), Some(0));
        outages.push(meter.outage(told, Instant::now()).await);
        cluster.start(leader);
        cluster.replica_ready(leader).await;
    }
    // The default timers: loyalty ends after 300 ms, and somebody stands 150 ms later at the earliest.
    let outage = median(outages);
    assert!(outage < Duration::from_millis(450), "{outage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_name_the_next_leader() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    for next in cluster.others(leader) {
        let endpoint = format!("http://{}", cluster.members[&leader].api);
        let mut command = tokio::process::Command::new(BINARY);
        command.args(["client", "--endpoint", &endpoint, "transfer", "--to"]);
        let output = command.arg(next.to_string()).output().await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(
            printed.starts_with(&format!("node {next} leads, term ")),
            "{printed}{:?}",
            output.stderr
        );
        assert_eq!(cluster.leader().await, next);
    }
    let leader = cluster.leader().await;
    let before = term(&cluster, leader).await;
    let (status, body) = transfer(&cluster, leader, json!({"to": leader})).await;
    assert_eq!((status, &body["leader"]), (200, &json!(leader)));
    let (status, body) = transfer(&cluster, leader, json!({"to": 9})).await;
    assert_eq!((status, body["error"].as_str()), (409, Some("not_voter")));
    let (status, body) = transfer(&cluster, leader, json!({"too": 9})).await;
    assert_eq!((status, body["error"].as_str()), (400, Some("malformed")));
    let replica = cluster.others(leader)[0];
    let (status, body) = transfer(&cluster, replica, json!({})).await;
    assert_eq!((status, &body["leader"]["id"]), (503, &json!(leader)));
    assert_eq!(term(&cluster, leader).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_not_chosen_and_where_it_is_asked_for_the_leader_stays() {
    let cluster = Cluster::of_three(&[]).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let (hung, well) = (others[0], others[1]);
    cluster.signal(hung, "STOP");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let api = cluster.members[&leader].api;
    let write = json!({"key": "k", "value": "v"});
    assert_eq!(cluster.post(api, "/kv", write).await.unwrap().status, 200);
    // It lacks that write.
    let (status, body) = transfer(&cluster, leader, json!({"to": hung})).await;
    assert_eq!(
        (status, body["error"].as_str()),
        (503, Some("not_handed_over")),
        "{body}"
    );
    assert_eq!(cluster.leader().await, leader);
    let (status, body) = transfer(&cluster, leader, json!({})).await;
    assert_eq!((status, &body["leader"]), (200, &json!(well)), "{body}");
    cluster.signal(hung, "CONT");
    cluster.replica_ready(hung).await;
    assert_eq!(cluster.leader().await, well);
}
