//! What dies in the lab is started again, after a rest: nodes, and `lb`.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_tests::balancer::Balancer;
use lb_tests::cluster::RaftCluster;
use lb_tests::deployment::Deployment;

use crate::view::View;

/// How long what died stays dead.
pub const REST: Duration = Duration::from_secs(10);
/// The end of a log that a message shows.
const LINES: usize = 20;
/// Outlives the lab: why an `lb` failed that did so again and again.
const KEPT_LOG: &str = "/var/log/lb-lab.log";

/// Who rests, and until when.
pub struct Revival {
    nodes: Vec<(usize, Instant)>,
    lb: Lb,
}

enum Lb {
    Answers,
    Rests(Instant),
    /// It was started again, and has not answered yet; its log was so long.
    Starts(usize),
}

impl Revival {
    pub fn new() -> Self {
        Self {
            nodes: Vec::new(),
            lb: Lb::Answers,
        }
    }

    /// Looks who died, and starts again who has rested.
    ///
    /// # Errors
    /// If that fails, or `lb` ended again before it answered.
    pub fn look(&mut self, deployment: &mut Deployment, view: &mut View) -> Result<()> {
        self.look_at_nodes(&mut deployment.cluster, view)?;
        if let Some(status) = deployment.balancer.take_dead() {
            if let Lb::Starts(_) = self.lb {
                bail!(given_up(&deployment.balancer, status));
            }
            let meanwhile = meanwhile(deployment.lab.bpffs());
            view.say(&format!(
                "lb ended ({status}); {meanwhile}; it is started again in {REST:?}"
            ));
            self.lb = Lb::Rests(Instant::now() + REST);
        }
        if matches!(self.lb, Lb::Rests(until) if Instant::now() >= until) {
            let log = deployment.balancer.output().len();
            deployment.balancer.start_again()?;
            self.lb = Lb::Starts(log);
        }
        Ok(())
    }

    fn look_at_nodes(&mut self, cluster: &mut RaftCluster, view: &mut View) -> Result<()> {
        for id in cluster.take_dead() {
            view.say(&format!("n{id} died; it is started again in {REST:?}"));
            self.nodes.push((id, Instant::now() + REST));
        }
        let now = Instant::now();
        for (id, _) in self.nodes.extract_if(.., |&mut (_, until)| now >= until) {
            cluster.start_node(id)?;
            let pid = cluster.pid(id).unwrap_or_default();
            view.say(&format!("n{id} is started again, its pid is {pid}"));
        }
        Ok(())
    }

    /// Takes note that `lb` answers.
    pub fn lb_answers(&mut self, balancer: &Balancer, view: &mut View) {
        if let Lb::Starts(log) = self.lb {
            let pid = balancer.pid().unwrap_or_default();
            let since = balancer.output().split_off(log);
            let found = match since.contains("adopted=true") {
                true => "; it adopted what the kernel steers by",
                false => "",
            };
            view.say(&format!("lb is started again, its pid is {pid}{found}"));
            self.lb = Lb::Answers;
        }
    }
}

/// What becomes of connections without `lb`. One that is told to end takes its
/// pins away.
fn meanwhile(bpffs: &Path) -> &'static str {
    match bpffs.join("lb").exists() {
        true => "the kernel goes on steering meanwhile",
        false => "it detached, and nothing is steered meanwhile",
    }
}

fn given_up(balancer: &Balancer, status: ExitStatus) -> String {
    let kept = match fs::copy(balancer.log(), KEPT_LOG) {
        Ok(_) => format!(", kept as {KEPT_LOG}"),
        Err(_) => String::new(),
    };
    format!(
        "lb ended again, before it answered ({status}); its log{kept}, ends:\n{}",
        balancer.last_lines(LINES)
    )
}
