//! Clients that write all the time and remember what was acknowledged, whatever happens to the cluster meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raft_node::outbound::Outbound;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, eventually, json as body_of};

const TRY_LIMIT: Duration = Duration::from_millis(700);

pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: JoinSet<Written>,
}

/// What one client wrote: `counter` only ever grows, and every key in `keys` was acknowledged.
pub struct Written {
    name: String,
    keys: Vec<String>,
    /// The last acknowledged value of the client's counter, and the last that it tried.
    acknowledged: u64,
    tried: u64,
}

impl Writers {
    pub fn start(cluster: &Cluster, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let nodes: Vec<SocketAddr> = cluster.members.values().map(|member| member.api).collect();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (stop, acknowledged, nodes) =
                (Arc::clone(&stop), Arc::clone(&acknowledged), nodes.clone());
            tasks.spawn(write(format!("w{number}"), nodes, stop, acknowledged));
        }
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    /// Returns when `more` further writes were acknowledged.
    pub async fn progress(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        let enough = async || (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(());
        eventually("writes are acknowledged", enough).await;
    }

    pub async fn stop(self) -> Vec<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}

async fn write(
    name: String,
    nodes: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Written {
    let outbound = Outbound::new();
    let mut written = Written {
        name,
        keys: Vec::new(),
        acknowledged: 0,
        tried: 0,
    };
    let mut turn = nodes.iter().copied().cycle();
    let mut target = turn.next().unwrap();
    while !stop.load(Ordering::Relaxed) {
        written.tried += 1;
        let number = written.tried;
        // Each write is a key of its own and a step of the client's counter, in turn.
        let (key, value) = match number % 2 {
            0 => (format!("{}-{number}", written.name), number),
            _ => (format!("{}-counter", written.name), number),
        };
        let body = json!({"key": key, "value": value.to_string()}).to_string();
        let uri = format!("http://{target}/kv");
        let answer = outbound
            .send(hyper::Method::POST, &uri, body.into(), TRY_LIMIT)
            .await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                count.fetch_add(1, Ordering::Relaxed);
                match number % 2 {
                    0 => written.keys.push(key),
                    _ => written.acknowledged = number,
                }
            }
            Ok(answer) => {
                let hint = body_of(&answer)["leader"]["api"]
                    .as_str()
                    .and_then(|api| api.parse().ok());
                target = hint.unwrap_or_else(|| turn.next().unwrap());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => {
                target = turn.next().unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    written
}

/// Reads everything back on every node that runs: an acknowledged write that is missing fails the test.
pub async fn check(cluster: &Cluster, written: &[Written]) {
    let leader = cluster.leader().await;
    let mut nodes = cluster.others(leader);
    nodes.push(leader);
    for id in nodes {
        let api = cluster.members[&id].api;
        let mut consistency = "linearizable";
        for Written {
            name,
            keys,
            acknowledged,
            tried,
        } in written
        {
            assert!(
                *acknowledged > 0 && !keys.is_empty(),
                "{name} wrote nothing"
            );
            let path = format!("/kv/{name}-counter?consistency={consistency}");
            let counter = value(cluster, api, &path)
                .await
                .unwrap_or_else(|| panic!("node {id} lost {name}-counter"));
            let counter: u64 = counter.parse().unwrap();
            assert!(
                (*acknowledged..=*tried).contains(&counter),
                "node {id}: {name}-counter is {counter}, acknowledged was {acknowledged}, tried {tried}"
            );
            // The first read caught up with everything; the rest may read what is there.
            consistency = "eventual";
            for key in keys {
                let found = value(
                    cluster,
                    api,
                    &format!("/kv/{key}?consistency={consistency}"),
                )
                .await;
                let number = key.rsplit('-').next().unwrap();
                assert_eq!(
                    found.as_deref(),
                    Some(number),
                    "node {id} lost {key}, which was acknowledged"
                );
            }
        }
    }
}

async fn value(cluster: &Cluster, api: SocketAddr, path: &str) -> Option<String> {
    let answer = cluster.get(api, path).await.unwrap();
    body_of(&answer)["value"].as_str().map(str::to_owned)
}
