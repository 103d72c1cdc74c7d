//! A cluster of real `raft-node` processes on loopback, each on an IP of its own, with the means to hurt them and to look at them.
//!
//! Everything is waited for with a deadline. Processes are ended when the cluster is dropped; on a failed test their logs are printed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use raft_node::cluster::{Member, NodeId};
use raft_node::outbound::{Answer, Outbound, SendError};
use serde_json::Value;
use tempfile::TempDir;

/// Far beyond what anything here takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);
const REQUEST_LIMIT: Duration = Duration::from_secs(4);

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_raft-node");

pub struct Cluster {
    pub members: BTreeMap<NodeId, Member>,
    pub outbound: Outbound,
    directory: TempDir,
    running: BTreeMap<NodeId, Child>,
    initial: Vec<NodeId>,
    options: Vec<&'static str>,
}

/// Addresses that no other test, in this process or another, uses: an IP per node, a port that was free on it.
pub fn free_member() -> Member {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let [_, _, high, low] = (pid % 0xfffe + 1).to_be_bytes();
    let host = NEXT.fetch_add(1, Ordering::Relaxed);
    let ip = IpAddr::V4(Ipv4Addr::new(127, high.max(2), low, host));
    // Held together, so that the three differ.
    let listeners = [(); 3].map(|()| TcpListener::bind((ip, 0)).unwrap());
    let [raft, api, health] = listeners.map(|listener| listener.local_addr().unwrap());
    Member { raft, api, health }
}

/// Looks again and again until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    /// Prepares `size` nodes; starts none.
    pub fn new(size: u64, options: &[&'static str]) -> Self {
        let members: BTreeMap<_, _> = (1..=size).map(|id| (id, free_member())).collect();
        Self {
            initial: members.keys().copied().collect(),
            members,
            outbound: Outbound::new(),
            directory: TempDir::new().unwrap(),
            running: BTreeMap::new(),
            options: options.to_vec(),
        }
    }

    /// Three running nodes that have a leader.
    pub async fn of_three(options: &[&'static str]) -> Self {
        let mut cluster = Self::new(3, options);
        cluster.start_all();
        cluster.leader().await;
        cluster
    }

    pub fn start_all(&mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
    }

    pub fn data(&self, id: NodeId) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    /// The command that starts a node; a node beyond the initial ones waits to be added.
    pub fn command(&self, id: NodeId) -> Command {
        let mut command = Command::new(BINARY);
        command
            .arg("serve")
            .arg("--id")
            .arg(id.to_string())
            .arg("--data")
            .arg(self.data(id));
        let joins = !self.initial.contains(&id);
        for (peer, Member { raft, api, health }) in &self.members {
            if self.initial.contains(peer) || *peer == id {
                command
                    .arg("--peer")
                    .arg(format!("{peer}={raft},{api},{health}"));
            }
        }
        if joins {
            command.arg("--join");
        }
        command.args(&self.options).env_remove("RUST_LOG");
        command
    }

    pub fn start(&mut self, id: NodeId) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(id))
            .unwrap();
        let child = self
            .command(id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        assert!(
            self.running.insert(id, child).is_none(),
            "node {id} already runs"
        );
    }

    /// Prepares one more node, which is not in the initial cluster.
    pub fn prepare_node(&mut self, id: NodeId) {
        self.members.insert(id, free_member());
    }

    /// SIGKILL: nothing is written, nothing is closed.
    pub fn kill(&mut self, id: NodeId) {
        let mut child = self.running.remove(&id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, id: NodeId, signal: &str) {
        let pid = self.running[&id].id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(sent.success(), "cannot send {signal} to {pid}");
    }

    /// Waits for a node to end by itself.
    pub async fn exit_status(&mut self, id: NodeId) -> ExitStatus {
        let mut child = self.running.remove(&id).unwrap();
        eventually("the node ends", async || child.try_wait().unwrap()).await
    }

    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, SendError> {
        let uri = format!("http://{address}{path}");
        self.outbound
            .send(hyper::Method::GET, &uri, Default::default(), REQUEST_LIMIT)
            .await
    }

    pub async fn post(
        &self,
        address: SocketAddr,
        path: &str,
        body: Value,
    ) -> Result<Answer, SendError> {
        let uri = format!("http://{address}{path}");
        self.outbound
            .send(
                hyper::Method::POST,
                &uri,
                body.to_string().into(),
                REQUEST_LIMIT,
            )
            .await
    }

    pub async fn delete(&self, address: SocketAddr, path: &str) -> Result<Answer, SendError> {
        let uri = format!("http://{address}{path}");
        self.outbound
            .send(
                hyper::Method::DELETE,
                &uri,
                Default::default(),
                REQUEST_LIMIT,
            )
            .await
    }

    /// The status and body of a probe; `None` where there is no answer.
    pub async fn probe(&self, id: NodeId, path: &str) -> Option<(u16, Value)> {
        let answer = self.get(self.members[&id].health, path).await.ok()?;
        Some((answer.status.as_u16(), json(&answer)))
    }

    /// The one running node that proves that it leads.
    pub async fn leader(&self) -> NodeId {
        eventually("there is a leader", async || self.leader_now().await).await
    }

    pub async fn leader_now(&self) -> Option<NodeId> {
        for &id in self.running.keys() {
            if self.says(id, "/primary").await {
                return Some(id);
            }
        }
        None
    }

    /// A leader other than `old`.
    pub async fn leader_after(&self, old: NodeId) -> NodeId {
        eventually("there is another leader", async || {
            self.leader_now().await.filter(|id| *id != old)
        })
        .await
    }

    pub async fn replica_ready(&self, id: NodeId) {
        eventually("the replica is ready", async || {
            self.says(id, "/replica").await.then_some(())
        })
        .await;
    }

    /// All running nodes but `id`.
    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        self.running
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect()
    }

    async fn says(&self, id: NodeId, path: &str) -> bool {
        let uri = format!("http://{}{path}", self.members[&id].health);
        let limit = Duration::from_millis(500);
        let answer = self
            .outbound
            .send(hyper::Method::GET, &uri, Default::default(), limit)
            .await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn log_path(&self, id: NodeId) -> PathBuf {
        self.directory.path().join(format!("node-{id}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // SIGKILL ends a stopped process, too.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for id in self.members.keys() {
                let log = fs::read_to_string(self.log_path(*id)).unwrap_or_default();
                eprintln!("--- node {id}\n{log}");
            }
        }
    }
}

pub fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}
