//! The whole thing in a lab: a Raft cluster, and `lb` in front of it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::balancer::{Balancer, Configuration};
use crate::cluster::RaftCluster;
use crate::lab::{Lab, Spec};

/// How long a cluster may take to elect its first leader, and `lb` to find it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab whose nodes all run, and whose `lb` serves. Everything in it ends
/// when it is dropped.
#[derive(Debug)]
pub struct Deployment {
    /// Before the lab, so that it ends first.
    pub balancer: Balancer,
    /// The nodes.
    pub cluster: RaftCluster,
    /// Where it all runs.
    pub lab: Lab,
}

impl Deployment {
    /// Builds the lab and starts everything in it; returns when one node
    /// leads, all others follow, and both services have a target.
    pub fn start(spec: &Spec) -> Result<Self> {
        Self::start_with(spec, |_| {}, |_| {})
    }

    /// As [`start`](Self::start), with a changed configuration of `lb`.
    /// `progress` is told what comes next.
    pub fn start_with(
        spec: &Spec,
        change: impl FnOnce(&mut Configuration),
        mut progress: impl FnMut(&str),
    ) -> Result<Self> {
        progress("making the network namespaces");
        let lab = Lab::new(spec)?;
        progress("starting the Raft nodes");
        let cluster = RaftCluster::start(&lab)?;
        progress("waiting for a leader");
        cluster.wait_until_settled(PATIENCE)?;
        progress("starting lb");
        let mut configuration = Configuration::for_nodes(&lab);
        change(&mut configuration);
        let mut balancer = Balancer::start(&lab, &configuration)?;
        progress("waiting until both services have targets");
        balancer.wait_until_serving(PATIENCE)?;
        Ok(Self {
            balancer,
            cluster,
            lab,
        })
    }

    /// Lets everything leave by itself (SIGTERM), `lb` first, and removes the
    /// lab.
    ///
    /// # Errors
    /// If one of them does not leave, or not with exit status 0. All is
    /// removed nevertheless.
    pub fn leave(mut self) -> Result<()> {
        if self.balancer.pid().is_some() {
            let status = self.balancer.terminate()?;
            ensure!(status.success(), "lb left with {status}");
        }
        self.cluster.terminate_all()
    }
}
