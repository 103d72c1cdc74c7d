//! `examples/etcd`: etcd alone.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::http::Connection;
use lb_tests::lab::address;
use lb_tests::patience::pause;
use lb_tests::privileged;
use serde_json::{Value, json};

use super::Dialect;
use super::dialect::{Silence, http_silence};
use super::servers::Loss;
use super::stage::{READ, Stage};

const TIMEOUT: Duration = Duration::from_secs(3);
const PORT: u16 = 2379;

/// The members' numbers are etcd's own choice: they are found out by asking
/// each node, and stay.
#[derive(Default)]
struct Etcd(Mutex<Vec<(String, usize)>>);

impl Etcd {
    /// The node whose number stands in an answer.
    fn node_of(&self, answer: &Value) -> Result<usize> {
        let member = answer["header"]["member_id"].as_str();
        let member = member.context("an answer without a member's number")?;
        let mut known = self.0.lock().expect("nobody panicked with it");
        if known.is_empty() {
            for id in 1..=3 {
                let status = status((address::node(id), PORT).into())?;
                let member = status["header"]["member_id"]
                    .as_str()
                    .context("no number")?;
                known.push((member.to_owned(), id));
            }
        }
        let node = known.iter().find(|(one, _)| one == member);
        Ok(node.context("a member that nobody is")?.1)
    }
}

impl Dialect for Etcd {
    const EXAMPLE: &'static str = "etcd";
    const PROGRAMS: &'static [&'static str] = &["etcd"];
    const PORT: u16 = PORT;
    const SERVICES: [u16; 2] = [2379, 2381];
    const PATIENCE: Duration = Duration::from_secs(30);

    // Its JSON has keys and values in base64; the story's are that as they are.

    fn write(&self, target: SocketAddr, key: &str, value: &str) -> Result<usize> {
        let body = json!({ "key": key, "value": value });
        let answer = ask(target, "/v3/kv/put", &body)?;
        let node = self.node_of(&answer)?;
        // A follower takes writes too, and passes them on.
        let status = status((address::node(node), PORT).into())?;
        ensure!(
            status["leader"] == status["header"]["member_id"],
            "n{node} follows: {status}"
        );
        Ok(node)
    }

    fn read(&self, target: SocketAddr, key: &str) -> Result<(usize, Option<String>)> {
        let body = json!({ "key": key, "serializable": true });
        let answer = ask(target, "/v3/kv/range", &body)?;
        let value = answer["kvs"][0]["value"].as_str();
        Ok((self.node_of(&answer)?, value.map(str::to_owned)))
    }

    fn session(&self, target: SocketAddr, limit: Duration) -> Result<Silence> {
        let mut connection = Connection::open(target, limit)?;
        connection.request("GET", "/health", None)?;
        Ok(http_silence(connection))
    }
}

fn status(target: SocketAddr) -> Result<Value> {
    ask(target, "/v3/maintenance/status", &json!({}))
}

fn ask(target: SocketAddr, path: &str, body: &Value) -> Result<Value> {
    let answer = Connection::open(target, TIMEOUT)?.request("POST", path, Some(body))?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(answer.json())
}

#[test]
fn writes_follow_the_leader_of_etcd_and_reads_its_followers() {
    privileged!();
    let Some(mut stage) = Stage::start(Etcd::default(), |_| {}) else {
        return;
    };
    for loss in [Loss::Kill, Loss::Power] {
        let lost = stage.lose_the_primary(loss);
        stage.must_come_back_as_a_replica(lost);
    }
    stage.conclude();
}

/// etcd 3.4 does not ask before it stands for election: a member that is cut
/// off from the others raises its own term again and again, while `lb` still
/// reaches it.
#[test]
fn a_follower_of_etcd_that_is_cut_off_does_not_take_the_writes_away() {
    privileged!();
    let Some(mut stage) = Stage::start(Etcd::default(), |_| {}) else {
        return;
    };
    let leader = stage.must_write(Duration::ZERO);
    let lost = leader % 3 + 1;
    stage.lab.isolate(lost).unwrap();
    stage.wait_for("reads from the other follower alone", |status| {
        status.targets(READ).len() == 1
    });
    for _ in 0..50 {
        assert_eq!(
            stage.must_write(Duration::ZERO),
            leader,
            "{}",
            stage.story()
        );
        pause(Duration::from_millis(60));
    }
    stage.lab.rejoin(lost).unwrap();
    stage.must_write(Etcd::PATIENCE);
    stage.wait_for("reads from both followers", |status| {
        status.targets(READ).len() == 2
    });
    stage.conclude();
}
