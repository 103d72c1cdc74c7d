//! Clients that wait for a leader which will never answer, and send nothing
//! that could be answered with a RST.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::balancer::{Status, WRITE_SERVICE};
use lb_tests::deployment::Deployment;
use lb_tests::http::Connection;
use lb_tests::lab::{Spec, address};
use lb_tests::privileged;
use lb_tests::traffic::sampling::Sample;
use serde_json::json;

use super::trial::name;
use super::{PATIENCE, ip};

/// How long a blocked client may wait after the flip. It takes milliseconds;
/// on a machine that is busy with other things, somewhat more.
const RESET_MAX: Duration = Duration::from_millis(1500);

/// The pause between two looks at what `lb` says.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// How long after the news of a leader a client may still be refused.
const NEWS: Duration = Duration::from_millis(100);

/// How long a client that was refused waits before it comes again.
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn clients_blocked_on_a_leader_that_hangs_are_reset_without_sending_anything() {
    privileged!();
    let mut it = Deployment::start(&Spec::for_test(3)).unwrap();
    let blocked = Blocked::connect(&it);
    let old = blocked.leader;
    // From here on its kernel acknowledges, and nobody answers.
    blocked.check(&mut it, |it| it.cluster.freeze(old).unwrap());
    it.cluster.thaw(old).unwrap();
    it.cluster.wait_until_settled(PATIENCE).unwrap();
    it.leave().unwrap();
}

#[test]
fn a_client_whose_syn_went_to_a_lost_leader_gets_through_when_it_tries_again() {
    privileged!();
    let it = Deployment::start(&Spec::for_test(3)).unwrap();
    let old = it.cluster.wait_until_settled(PATIENCE).unwrap();
    let refusals_before = refusals(&it);
    let status = it.balancer.watch_status(LOOK_PAUSE);
    ip(it.lab.switch(), &format!("link set {} down", name(old)));
    let connecting = it.lab.client().background(|| {
        let begun = Instant::now();
        let mut refused = Vec::new();
        // The kernel sends the SYN again after a second, and again after two.
        // Where the election takes longer than that there is nobody to write
        // to just then: the client is refused at once, and comes again.
        let outcome = loop {
            let outcome = Connection::open(address::WRITE, PATIENCE)
                .and_then(|mut connection| connection.request("GET", "/whoami", None));
            match outcome {
                Err(error)
                    if error.kind() == ErrorKind::ConnectionRefused
                        && begun.elapsed() < PATIENCE =>
                {
                    refused.push(Instant::now());
                    thread::sleep(PAUSE);
                }
                other => break other,
            }
        };
        let node = outcome.map(|answer| answer.json()["node"].clone());
        (begun.elapsed(), refused, node)
    });
    let new = it.cluster.wait_for_leader(Some(old), PATIENCE).unwrap();
    let (took, refused, outcome) = connecting.join().unwrap();
    println!("{outcome:?} after {took:?} and {} refusals", refused.len());
    assert_eq!(outcome.unwrap(), new);
    let looks = status.stop();
    for at in &refused {
        let leaders = leaders_around(&looks, *at);
        let led = leaders.len() == 1 && !leaders.contains(&Vec::new());
        assert!(!led, "refused although {leaders:?} led all the time");
    }
    // Not one was refused for another reason than that nobody leads.
    let [all, leaderless] = refusals(&it);
    let count = refused.len() as u64;
    let [all_before, leaderless_before] = refusals_before;
    assert_eq!(leaderless - leaderless_before, count);
    assert_eq!(all - all_before, count);
    ip(it.lab.switch(), &format!("link set {} up", name(old)));
    it.cluster.wait_until_settled(PATIENCE).unwrap();
    it.leave().unwrap();
}

/// How often `lb` refused a write, and how often it refused anything because
/// there was no target.
fn refusals(it: &Deployment) -> [u64; 2] {
    let stats = it.balancer.stats().unwrap();
    let all = stats.service(WRITE_SERVICE).refused;
    [all, stats.packets("no_target")]
}

/// Who might be written to from [`NEWS`] before `at` on until after it: what
/// each look said, from the last one before that time to the first one after.
fn leaders_around(looks: &[Sample<Result<Status>>], at: Instant) -> BTreeSet<Vec<&str>> {
    let from = looks.iter().rposition(|look| look.ended + NEWS <= at);
    let to = looks.iter().position(|look| look.begun >= at);
    let looks = &looks[from.expect("a look before")..=to.expect("a look after")];
    looks
        .iter()
        .map(|look| look.seen.as_ref().expect("a status").targets(WRITE_SERVICE))
        .collect()
}

#[test]
fn clients_blocked_on_a_leader_whose_host_is_gone_are_reset_too() {
    privileged!();
    let mut it = Deployment::start(&Spec::for_test(3)).unwrap();
    let blocked = Blocked::connect(&it);
    let port = name(blocked.leader);
    // Not even its kernel answers any more.
    blocked.check(&mut it, |it| {
        ip(it.lab.switch(), &format!("link set {port} down"));
    });
    ip(it.lab.switch(), &format!("link set {port} up"));
    it.cluster.wait_until_settled(PATIENCE).unwrap();
    it.leave().unwrap();
}

/// Connections through the write VIP, each of which the leader has answered.
struct Blocked {
    leader: usize,
    idle: Connection,
    halfway: Connection,
    waiting: Connection,
}

impl Blocked {
    fn connect(it: &Deployment) -> Self {
        let leader = it.cluster.wait_until_settled(PATIENCE).unwrap();
        let connect = || {
            let mut connection = Connection::open(address::WRITE, PATIENCE).unwrap();
            let answer = connection.request("GET", "/whoami", None).unwrap();
            assert_eq!(answer.json()["node"], leader, "another leader, by chance");
            connection
        };
        let [idle, halfway, waiting] = it.lab.client().enter(|| [(); 3].map(|()| connect()));
        Self {
            leader,
            idle,
            halfway,
            waiting,
        }
    }

    /// Strikes the leader; all three must see a reset, not long after `lb` has
    /// taken the writes from it.
    fn check(self, it: &mut Deployment, strike: impl FnOnce(&mut Deployment)) {
        let Self {
            leader,
            idle,
            mut halfway,
            mut waiting,
        } = self;
        let status = it.balancer.watch_status(LOOK_PAUSE);
        strike(it);
        halfway
            .send_bytes(b"POST /kv HTTP/1.1\r\nhost: lab\r\ncontent-le")
            .unwrap();
        let body = json!({ "key": "blocked", "value": "for ever" });
        waiting.send("POST", "/kv", Some(&body)).unwrap();
        let ends = [
            ("idle", wait_in_recv(idle)),
            ("half-sent", wait_in_recv(halfway)),
            ("unanswered", wait_in_recv(waiting)),
        ];
        let ends = ends.map(|(client, end)| (client, end.join().unwrap()));
        // The status is asked for until the leader has lost the writes.
        it.balancer
            .wait_for_status("the flip", PATIENCE, |status| {
                !status
                    .targets(WRITE_SERVICE)
                    .contains(&name(leader).as_str())
            })
            .unwrap();
        let looks = status.stop();
        let before_flip = looks
            .iter()
            .filter(|look| look.seen.is_ok())
            .take_while(|look| {
                let status = look.seen.as_ref().unwrap();
                status.targets(WRITE_SERVICE) == [name(leader)]
            });
        let flipped_after = before_flip.last().expect("it served before").begun;
        for (client, (at, outcome)) in ends {
            assert_eq!(
                outcome,
                Err(io::ErrorKind::ConnectionReset),
                "the {client} connection"
            );
            let took = at.saturating_duration_since(flipped_after);
            println!("the {client} connection was reset {took:?} after the flip, at most");
            assert!(took < RESET_MAX, "{took:?}");
        }
    }
}

type End = (Instant, std::result::Result<u16, io::ErrorKind>);

/// Reads, and says when that ended, and how: a status, or an error.
fn wait_in_recv(mut connection: Connection) -> JoinHandle<End> {
    std::thread::spawn(move || {
        let outcome = connection.receive();
        let outcome = outcome
            .map(|answer| answer.status)
            .map_err(|error| error.kind());
        (Instant::now(), outcome)
    })
}
