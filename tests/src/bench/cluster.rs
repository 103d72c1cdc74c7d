//! The sample cluster beside etcd: three members of each on loopback, on the
//! same disk, asked by the same clients (`raft-node client bench`), in turns.
//!
//! Both make every write durable on a quorum's disk before they acknowledge
//! it. etcd runs with its defaults. Where etcd is not installed, there is
//! nothing to compare with, and that is an error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Effort;
use super::report::Row;
use crate::binaries;
use crate::patience::{interrupted, wait_for};

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
const MEMBERS: [u8; 3] = [1, 2, 3];
/// What is measured, in the words of `raft-node client bench`.
const WORKLOADS: [&str; 3] = ["put", "linearizable", "eventual"];

/// A cluster of which every member runs.
struct Cluster {
    api: &'static str,
    /// The leader's first.
    endpoints: Vec<String>,
    members: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// A directory that is gone afterwards. Beside the binaries, because `/tmp`
/// is in memory on many machines, and this is about disks.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of it is below target/.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Measures both clusters, in turns.
///
/// # Errors
/// A cluster does not start, or a request fails.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let (rounds, duration) = match effort {
        Effort::Full => (7, "3s"),
        Effort::Quick => (3, "1s"),
        Effort::Smoke => (1, "200ms"),
    };
    let raft_node = binaries::find("raft-node")?;
    let beside = raft_node.parent().context("a binary has a directory")?;
    let directory = Directory(beside.join(format!("bench-cluster-{}", std::process::id())));
    fs::create_dir_all(&directory.0)?;
    let clusters = [
        start_etcd(&directory.0)?,
        start_raft_node(&raft_node, &directory.0)?,
    ];
    let mut samples = BTreeMap::new();
    let mut order = Vec::new();
    for workload in WORKLOADS {
        for _ in 0..rounds {
            for cluster in &clusters {
                if interrupted() {
                    return Ok(Vec::new());
                }
                for row in measure(&raft_node, cluster, workload, duration)? {
                    let key = (row.name, row.unit, row.path);
                    if !samples.contains_key(&key) {
                        order.push(key.clone());
                    }
                    let of_row: &mut Vec<f64> = samples.entry(key).or_default();
                    of_row.push(row.median);
                }
            }
        }
    }
    order.sort_by(|a, b| {
        let place = |name: &str| order_of(name);
        (place(&a.0), &a.0, &a.2).cmp(&(place(&b.0), &b.0, &b.2))
    });
    let row = |key: &(String, String, String)| {
        let (name, unit, path) = key;
        Row::new("cluster", name, path, unit, &samples[key])
    };
    let rows = order.iter().map(|key| {
        let etcd = (key.0.clone(), key.1.clone(), "etcd".to_owned());
        match key.2 == "etcd" || !samples.contains_key(&etcd) {
            true => row(key),
            false => row(key).against(&row(&etcd), "etcd"),
        }
    });
    Ok(rows.collect())
}

/// The place of a workload's rows in the table.
fn order_of(name: &str) -> Option<usize> {
    WORKLOADS
        .iter()
        .position(|workload| name.contains(workload))
}

fn measure(
    raft_node: &Path,
    cluster: &Cluster,
    workload: &str,
    duration: &str,
) -> Result<Vec<Row>> {
    let mut command = Command::new(raft_node);
    command.arg("client");
    for endpoint in &cluster.endpoints {
        command.args(["--endpoint", endpoint]);
    }
    command.args(["bench", "--json", "--runs", "1", "--duration", duration]);
    command.args(["--workload", workload, "--api", cluster.api]);
    let output = command.output().context("cannot start raft-node")?;
    ensure!(
        output.status.success(),
        "{} {workload}: {}",
        cluster.api,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("raft-node client bench prints rows")
}

fn start_raft_node(raft_node: &Path, directory: &Path) -> Result<Cluster> {
    let ip = |id: u8| format!("127.87.1.{id}");
    let peer = |id: u8| {
        let ip = ip(id);
        format!("{id}={ip}:9081,{ip}:8081,{ip}:10001")
    };
    let mut members = Vec::new();
    for id in MEMBERS {
        let mut command = Command::new(raft_node);
        command.args(["serve", "--id", &id.to_string(), "--data"]);
        command.arg(directory.join(format!("raft-node-{id}")));
        for id in MEMBERS {
            command.args(["--peer", &peer(id)]);
        }
        members.push(spawn(command, directory, &format!("raft-node-{id}.log"))?);
    }
    let endpoints = MEMBERS.iter().map(|&id| format!("http://{}:8081", ip(id)));
    let mut cluster = Cluster {
        api: "kv",
        endpoints: endpoints.collect(),
        members,
    };
    let first = cluster.endpoints[0].clone();
    let leads = wait_for(PATIENCE, || {
        let mut command = Command::new(raft_node);
        command.args(["client", "--timeout", "1s", "--endpoint", &first]);
        let output = command.args(["put", "started", "yes"]).output().ok()?;
        output.status.success().then_some(())
    });
    leads.context("the cluster of raft-node has no leader")?;
    cluster.endpoints.sort();
    Ok(cluster)
}

fn start_etcd(directory: &Path) -> Result<Cluster> {
    let client = |id: u8| format!("http://127.87.2.{id}:2379");
    let peer = |id: u8| format!("http://127.87.2.{id}:2380");
    let initial: Vec<String> = MEMBERS
        .iter()
        .map(|&id| format!("e{id}={}", peer(id)))
        .collect();
    let mut members = Vec::new();
    for id in MEMBERS {
        let mut command = Command::new("etcd");
        command.arg("--name").arg(format!("e{id}"));
        command
            .arg("--data-dir")
            .arg(directory.join(format!("etcd-{id}")));
        command.arg("--listen-peer-urls").arg(peer(id));
        command.arg("--initial-advertise-peer-urls").arg(peer(id));
        command.arg("--listen-client-urls").arg(client(id));
        command.arg("--advertise-client-urls").arg(client(id));
        command.args(["--initial-cluster", &initial.join(",")]);
        command.args(["--initial-cluster-state", "new", "--log-level", "error"]);
        let started = spawn(command, directory, &format!("etcd-{id}.log"));
        members.push(started.context("try: apt-get install etcd-server etcd-client")?);
    }
    let mut cluster = Cluster {
        api: "etcd",
        endpoints: MEMBERS.iter().map(|&id| client(id)).collect(),
        members,
    };
    let all = cluster.endpoints.join(",");
    let leader = wait_for(PATIENCE, || etcd_leader(&all));
    let leader = leader.context("the cluster of etcd has no leader")?;
    // False sorts first.
    cluster
        .endpoints
        .sort_by_key(|endpoint| *endpoint != leader);
    Ok(cluster)
}

/// The endpoint of the member that leads.
fn etcd_leader(endpoints: &str) -> Option<String> {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoints]);
    let output = command.args(["endpoint", "status", "-w", "json"]).output();
    let statuses: Vec<Value> = serde_json::from_slice(&output.ok()?.stdout).ok()?;
    let leads = |status: &&Value| {
        let leader = &status["Status"]["leader"];
        leader.as_u64().is_some_and(|id| id > 0)
            && *leader == status["Status"]["header"]["member_id"]
    };
    let leader = statuses.iter().find(leads)?;
    leader["Endpoint"].as_str().map(str::to_owned)
}

fn spawn(mut command: Command, directory: &Path, log: &str) -> Result<Child> {
    let log = File::create(directory.join(log))?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}
