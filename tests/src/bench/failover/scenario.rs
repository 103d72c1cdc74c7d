//! What is done to the cluster, and how it is undone.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::cluster::{RaftCluster, api};
use crate::http::Connection;
use crate::lab::Lab;

/// How long a handover may take to be answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thing that happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The leader is killed (SIGKILL).
    Kill,
    /// The leader is stopped (SIGSTOP): its kernel still accepts connections.
    Stop,
    /// The leader's link goes down: nobody hears anything of it.
    LinkCut,
    /// The leader is cut off from the other nodes; balancers and clients still reach it.
    Isolate,
    /// The leader is told to hand over to another node.
    Handover,
    /// A replica is stopped (SIGSTOP), and read from.
    StoppedReplica,
}

impl Scenario {
    /// What the rows call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Stop => "SIGSTOP",
            Self::LinkCut => "link cut",
            Self::Isolate => "isolated",
            Self::Handover => "handover",
            Self::StoppedReplica => "SIGSTOP of a replica",
        }
    }

    /// For files, and in keys.
    pub fn slug(self) -> String {
        self.name().replace(' ', "-")
    }

    /// Does it to `node`.
    pub fn strike(self, lab: &Lab, cluster: &mut RaftCluster, node: usize) -> Result<()> {
        match self {
            Self::Kill => cluster.kill(node),
            Self::Stop | Self::StoppedReplica => cluster.freeze(node),
            Self::LinkCut => set_link(lab, node, "down"),
            Self::Isolate => lab.isolate(node),
            Self::Handover => hand_over(lab, node),
        }
    }

    /// Brings the node back.
    pub fn heal(self, lab: &Lab, cluster: &mut RaftCluster, node: usize) -> Result<()> {
        match self {
            Self::Kill => cluster.start_node(node),
            Self::Stop | Self::StoppedReplica => cluster.thaw(node),
            Self::LinkCut => set_link(lab, node, "up"),
            Self::Isolate => lab.rejoin(node),
            Self::Handover => Ok(()),
        }
    }
}

fn set_link(lab: &Lab, node: usize, state: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-n", lab.switch().name(), "link", "set"]);
    ip.args([&format!("n{node}"), state]);
    let status = ip.status().context("cannot start `ip`")?;
    ensure!(status.success(), "n{node} {state}: {status}");
    Ok(())
}

fn hand_over(lab: &Lab, node: usize) -> Result<()> {
    let answer = lab.client().enter(|| {
        let mut connection = Connection::open(api(node), PATIENCE)?;
        connection.request("POST", "/transfer", None)
    });
    let answer = answer.with_context(|| format!("n{node} does not hand over"))?;
    let (status, json) = (answer.status, answer.json());
    ensure!(status == 200, "n{node} does not hand over: {status} {json}");
    Ok(())
}
