//! `examples/raft`: the sample cluster.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::http::Connection;
use lb_tests::privileged;
use serde_json::json;

use super::Dialect;
use super::dialect::{Silence, http_silence};
use super::servers::Loss;
use super::stage::Stage;

const TIMEOUT: Duration = Duration::from_secs(3);

struct Raft;

impl Dialect for Raft {
    const EXAMPLE: &'static str = "raft";
    const PROGRAMS: &'static [&'static str] = &[];
    const PORT: u16 = 8081;
    const SERVICES: [u16; 2] = [8080, 8081];
    const PATIENCE: Duration = Duration::from_secs(20);

    fn write(&self, target: SocketAddr, key: &str, value: &str) -> Result<usize> {
        let body = json!({ "key": key, "value": value });
        let answer = Connection::open(target, TIMEOUT)?.request("POST", "/kv", Some(&body))?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let node = answer.header("x-raft-node").context("no node")?;
        Ok(node.parse()?)
    }

    fn read(&self, target: SocketAddr, key: &str) -> Result<(usize, Option<String>)> {
        let path = format!("/kv/{key}?consistency=eventual");
        let answer = Connection::open(target, TIMEOUT)?.request("GET", &path, None)?;
        ensure!(
            [200, 404].contains(&answer.status),
            "status {}",
            answer.status
        );
        let node = answer.header("x-raft-node").context("no node")?.parse()?;
        Ok((node, answer.json()["value"].as_str().map(str::to_owned)))
    }

    fn session(&self, target: SocketAddr, limit: Duration) -> Result<Silence> {
        let mut connection = Connection::open(target, limit)?;
        connection.request("GET", "/whoami", None)?;
        Ok(http_silence(connection))
    }
}

#[test]
fn writes_follow_the_leader_of_the_sample_cluster_and_reads_its_replicas() {
    privileged!();
    let Some(mut stage) = Stage::start(Raft, |_| {}) else {
        return;
    };
    for loss in [Loss::Kill, Loss::Power] {
        let lost = stage.lose_the_primary(loss);
        stage.must_come_back_as_a_replica(lost);
    }
    stage.conclude();
}
