//! A Raft cluster of `raft-node` processes, one in each node's namespace, and
//! what can be done to them. Nodes are counted from 1, as their ids are.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::lab::{Lab, Namespace, Process, address};
use crate::patience::wait_for;
use crate::{binaries, http};

/// Where a node serves its clients.
pub const API_PORT: u16 = 8081;
/// Where a node says how it is, and which role it has.
pub const HEALTH_PORT: u16 = 10001;
/// Where the nodes talk to each other.
const RAFT_PORT: u16 = 9081;
/// How long a node in the same machine may take to answer.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node may take to leave on SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `/primary` answers 200.
    Leader,
    /// `/replica` answers 200.
    Replica,
    /// It answers, but claims neither.
    Unknown,
    /// It does not answer.
    Silent,
}

/// The cluster of a lab. Its processes are killed when it is dropped.
#[derive(Debug)]
pub struct RaftCluster {
    nodes: Vec<Node>,
    client: Namespace,
    founders: usize,
    snapshot_every: Option<u64>,
}

#[derive(Debug)]
struct Node {
    id: usize,
    namespace: Namespace,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl RaftCluster {
    /// Starts a node in every node namespace of the lab. Does not wait.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mut cluster = Self::new(lab);
        for id in cluster.ids() {
            cluster.start_node(id)?;
        }
        Ok(cluster)
    }

    /// A cluster of which no node runs yet.
    pub fn new(lab: &Lab) -> Self {
        let nodes = (1..).zip(lab.nodes()).map(|(id, namespace)| Node {
            id,
            namespace: namespace.clone(),
            data: lab.data_directory().join(format!("n{id}")),
            log: lab.run_directory().join(format!("n{id}.log")),
            process: None,
        });
        Self {
            nodes: nodes.collect(),
            client: lab.client().clone(),
            founders: lab.nodes().len(),
            snapshot_every: None,
        }
    }

    /// Lets the first `count` nodes found the cluster; the others are to be
    /// added to it.
    pub fn founded_by(mut self, count: usize) -> Self {
        self.founders = count;
        self
    }

    /// Lets every node that is started from now on take a snapshot each time
    /// that so many entries were applied.
    pub fn snapshot_every(mut self, entries: u64) -> Self {
        self.snapshot_every = Some(entries);
        self
    }

    /// All ids.
    pub fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.nodes.len()
    }

    /// Starts node `id` on the data that it has, if any.
    pub fn start_node(&mut self, id: usize) -> Result<()> {
        let mut command = Command::new(binaries::find("raft-node")?);
        command.arg("serve").args(["--id", &id.to_string()]);
        if id <= self.founders {
            for peer in 1..=self.founders {
                command.arg("--peer").arg(member(peer));
            }
        } else {
            command.args(["--join", "--peer", &member(id)]);
        }
        if let Some(entries) = self.snapshot_every {
            command.args(["--snapshot-every", &entries.to_string()]);
        }
        let node = self.node_mut(id);
        ensure!(node.process.is_none(), "node {id} runs already");
        fs::create_dir_all(&node.data)
            .with_context(|| format!("cannot make {}", node.data.display()))?;
        command.arg("--data").arg(&node.data);
        node.process = Some(node.namespace.spawn(command, &node.log)?);
        Ok(())
    }

    /// SIGKILL: the node is gone at once, its data stays.
    pub fn kill(&mut self, id: usize) -> Result<()> {
        self.process_mut(id)?.kill()?;
        self.node_mut(id).process = None;
        Ok(())
    }

    /// SIGTERM, and waits until the node has left.
    pub fn terminate(&mut self, id: usize) -> Result<()> {
        let status = self.process_mut(id)?.terminate(PATIENCE)?;
        self.node_mut(id).process = None;
        ensure!(status.success(), "node {id} left with {status}");
        Ok(())
    }

    /// SIGTERM to every node that runs, and waits until all have left.
    pub fn terminate_all(&mut self) -> Result<()> {
        let running: Vec<usize> = self.ids().filter(|&id| self.pid(id).is_some()).collect();
        for &id in &running {
            // They drain side by side.
            self.signal(id, Signal::TERM)?;
        }
        running.into_iter().try_for_each(|id| self.terminate(id))
    }

    /// SIGSTOP: the node hangs; its kernel still accepts connections.
    pub fn freeze(&mut self, id: usize) -> Result<()> {
        self.signal(id, Signal::STOP)
    }

    /// SIGCONT: the node goes on where it was.
    pub fn thaw(&mut self, id: usize) -> Result<()> {
        self.signal(id, Signal::CONT)
    }

    /// Sends node `id` a signal.
    pub fn signal(&mut self, id: usize, signal: Signal) -> Result<()> {
        self.process_mut(id)?.signal(signal)
    }

    /// The process id of node `id`, if it runs.
    pub fn pid(&self, id: usize) -> Option<u32> {
        self.nodes[id - 1].process.as_ref().map(Process::pid)
    }

    /// Nodes that ended without being told to, since this was last asked.
    pub fn take_dead(&mut self) -> Vec<usize> {
        let mut dead = Vec::new();
        for node in &mut self.nodes {
            let ended = node.process.as_mut().and_then(Process::exit_status);
            if ended.is_some() {
                node.process = None;
                dead.push(node.id);
            }
        }
        dead
    }

    /// The end of a node's log, for messages.
    pub fn last_lines(&self, id: usize, count: usize) -> String {
        let node = &self.nodes[id - 1];
        let log = fs::read_to_string(&node.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// What every node says of itself, asked from the client's namespace.
    pub fn roles(&self) -> BTreeMap<usize, Role> {
        self.client
            .enter(|| self.ids().map(|id| (id, role_of(id))).collect())
    }

    /// The node that says it leads. Two of them are none: ask again.
    pub fn leader(&self) -> Option<usize> {
        let roles = self.roles();
        let mut leaders = roles.iter().filter(|(_, role)| **role == Role::Leader);
        match (leaders.next(), leaders.next()) {
            (Some((id, _)), None) => Some(*id),
            _ => None,
        }
    }

    /// Waits until one node leads and all others that run follow it.
    pub fn wait_until_settled(&self, patience: Duration) -> Result<usize> {
        let settled = wait_for(patience, || {
            let roles = self.roles();
            let running = self.nodes.iter().filter(|node| node.process.is_some());
            let known = running
                .map(|node| roles[&node.id])
                .all(|role| matches!(role, Role::Leader | Role::Replica));
            self.leader().filter(|_| known)
        });
        self.or_complain(settled, patience, "the cluster did not settle")
    }

    /// Waits for a leader other than `old`.
    pub fn wait_for_leader(&self, old: Option<usize>, patience: Duration) -> Result<usize> {
        let found = wait_for(patience, || {
            self.leader().filter(|&leader| Some(leader) != old)
        });
        self.or_complain(found, patience, "no leader was elected")
    }

    fn or_complain(&self, found: Option<usize>, patience: Duration, what: &str) -> Result<usize> {
        let Some(id) = found else {
            bail!(
                "{what} within {patience:?}: {:?}; node 1's log ends:\n{}",
                self.roles(),
                self.last_lines(1, 20)
            );
        };
        Ok(id)
    }

    fn node_mut(&mut self, id: usize) -> &mut Node {
        &mut self.nodes[id - 1]
    }

    fn process_mut(&mut self, id: usize) -> Result<&mut Process> {
        self.node_mut(id)
            .process
            .as_mut()
            .with_context(|| format!("node {id} does not run"))
    }
}

/// Where node `id` serves its clients.
pub fn api(id: usize) -> SocketAddrV4 {
    SocketAddrV4::new(address::node(id), API_PORT)
}

/// Where node `id` says how it is.
pub fn health(id: usize) -> SocketAddrV4 {
    SocketAddrV4::new(address::node(id), HEALTH_PORT)
}

/// Node `id` and its addresses, in the words of `raft-node`.
pub fn member(id: usize) -> String {
    let ip: Ipv4Addr = address::node(id);
    format!("{id}={ip}:{RAFT_PORT},{},{}", api(id), health(id))
}

/// Asks node `id` from the calling thread's namespace.
fn role_of(id: usize) -> Role {
    let says = |path| http::get(health(id), path, TIMEOUT).map(|answer| answer.status == 200);
    match says("/primary") {
        Err(_) => Role::Silent,
        Ok(true) => Role::Leader,
        Ok(false) => match says("/replica") {
            Err(_) => Role::Silent,
            Ok(true) => Role::Replica,
            Ok(false) => Role::Unknown,
        },
    }
}
