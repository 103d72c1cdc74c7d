//! `lab tour`: what `lb` is for, step by step, each step checked.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::balancer::{READ_SERVICE, WRITE_SERVICE};
use lb_tests::cluster::{self, Role};
use lb_tests::deployment::Deployment;
use lb_tests::http::Connection;
use lb_tests::lab::{Namespace, Spec, address};
use lb_tests::patience::{interrupted, pause};
use lb_tests::traffic::writes::{Plan, Report, WriteStream};
use lb_tests::{binaries, traffic};
use serde_json::json;

use crate::Verdict;
use crate::up::NODES;

/// Writes, and reads, of the steps that count them.
const REQUESTS: usize = 100;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long the stream writes before, and after, the leader is killed.
const STREAM: Duration = Duration::from_secs(2);
/// How long writes may fail. An election here takes about half a second.
const OUTAGE_MAX: Duration = Duration::from_secs(5);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the tour; prints PASS or FAIL for each step.
pub fn tour() -> Result<Verdict> {
    println!("A tour of lb: three Raft nodes, one address to write to, one to read from.\n");
    let begun = Instant::now();
    let deployment = Deployment::start_with(
        &Spec::interactive(NODES),
        |_| {},
        |next| println!("      {next} …"),
    )?;
    println!(
        "PASS  the lab is up ({:.1} s)",
        begun.elapsed().as_secs_f64()
    );
    let mut tour = Tour {
        deployment,
        killed: None,
        failed: 0,
    };
    tour.step("writes land on the leader", Tour::write)?;
    tour.step("reads come from the replicas", Tour::read)?;
    tour.step("this machine reaches the VIP too", Tour::reach_from_root)?;
    tour.step(
        "the leader is killed under a stream of writes",
        Tour::kill_leader,
    )?;
    tour.step("the killed node comes back as a replica", Tour::restart)?;
    tour.step("lb has counted all of it", Tour::stats)?;
    tour.finish()
}

struct Tour {
    deployment: Deployment,
    /// The node that was killed and not started again.
    killed: Option<usize>,
    failed: usize,
}

impl Tour {
    /// Runs a step. A failed one is reported and the tour goes on.
    ///
    /// # Errors
    /// Only if the user interrupts the tour.
    fn step(&mut self, title: &str, act: fn(&mut Self) -> Result<String>) -> Result<()> {
        let outcome = act(self);
        if interrupted() {
            bail!("interrupted");
        }
        match outcome {
            Ok(detail) => println!("PASS  {title}: {detail}"),
            Err(error) => {
                self.failed += 1;
                println!("FAIL  {title}: {error:#}");
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Verdict> {
        let Self {
            deployment, failed, ..
        } = self;
        let left = deployment.leave();
        match &left {
            Ok(()) => println!("PASS  everything left in order, and was removed"),
            Err(error) => println!("FAIL  everything leaves in order: {error:#}"),
        }
        if failed == 0 && left.is_ok() {
            println!("\nAll steps held.");
            return Ok(Verdict::AllHeld);
        }
        println!("\nNot all steps held.");
        Ok(Verdict::SomethingFailed)
    }

    fn client(&self) -> &Namespace {
        self.deployment.lab.client()
    }

    /// Each write on a connection of its own: each is steered anew.
    fn write(&mut self) -> Result<String> {
        let leader = self.deployment.cluster.wait_for_leader(None, PATIENCE)?;
        let by = self.client().enter(|| {
            count_nodes(|number| {
                let body = json!({ "key": tour_key(number), "value": tour_value(number) });
                let mut connection = Connection::open(address::WRITE, TIMEOUT)?;
                let answer = connection.request("POST", "/kv", Some(&body))?;
                ensure!(answer.status == 200, "status {}", answer.status);
                node_of(&answer)
            })
        })?;
        ensure!(
            by.keys().eq([&leader]),
            "node {leader} leads, but the writes were answered by {}",
            shown(&by)
        );
        Ok(format!(
            "{REQUESTS} of {REQUESTS} were answered by n{leader}, which leads"
        ))
    }

    fn read(&mut self) -> Result<String> {
        let by = self.client().enter(|| {
            count_nodes(|number| {
                let mut connection = Connection::open(address::READ, TIMEOUT)?;
                let answer =
                    connection.request("GET", &format!("/kv/{}", tour_key(number)), None)?;
                ensure!(answer.status == 200, "status {}", answer.status);
                let value = &answer.json()["value"];
                ensure!(*value == tour_value(number), "the value is {value}");
                node_of(&answer)
            })
        })?;
        let roles = self.deployment.cluster.roles();
        let replicas = roles.iter().filter(|(_, role)| **role == Role::Replica);
        ensure!(
            by.keys().eq(replicas.map(|(id, _)| id)),
            "the roles are {roles:?}, but the reads were answered by {}",
            shown(&by)
        );
        Ok(format!("every value was right; answered by {}", shown(&by)))
    }

    fn reach_from_root(&mut self) -> Result<String> {
        let node = traffic::connections::who_is_at(address::READ);
        let node = node.map_err(|failure| anyhow::anyhow!("{} is {failure}", address::READ))?;
        Ok(format!("n{node} answered at {}", address::READ))
    }

    fn kill_leader(&mut self) -> Result<String> {
        let old = self.deployment.cluster.wait_for_leader(None, PATIENCE)?;
        let stream =
            WriteStream::start(self.client(), address::WRITE, &Plan::steady("tour-stream"));
        pause(STREAM);
        self.deployment.cluster.kill(old)?;
        self.killed = Some(old);
        let killed_at = Instant::now();
        println!("      n{old}, the leader, was killed (SIGKILL)");
        let new = self
            .deployment
            .cluster
            .wait_for_leader(Some(old), PATIENCE)?;
        pause(STREAM);
        let report = stream.stop();

        let outage = report
            .outage(killed_at)
            .context("no write was acknowledged after the leader was killed")?;
        println!(
            "      n{new} leads; first acknowledged write after {} ms, last failed one after {} ms",
            outage.until_acknowledged.as_millis(),
            outage.until_last_failure.unwrap_or_default().as_millis()
        );
        ensure!(
            outage.until_acknowledged < OUTAGE_MAX,
            "writes were out for {:?}",
            outage.until_acknowledged
        );
        let status = self.deployment.balancer.status()?;
        let target = status.targets(WRITE_SERVICE);
        ensure!(
            target == [format!("n{new}")],
            "n{new} leads, but the write service uses {target:?}"
        );
        self.check_nothing_lost(&report, new)?;
        Ok(format!(
            "writes went on at n{new} after {} ms; {} acknowledged, none of them lost, {} failed",
            outage.until_acknowledged.as_millis(),
            report.acknowledged().count(),
            report.failures().count()
        ))
    }

    fn check_nothing_lost(&self, report: &Report, leader: usize) -> Result<()> {
        let lost = report.lost(self.client(), cluster::api(leader))?;
        ensure!(
            lost.is_empty(),
            "{} acknowledged writes are lost, {:?} for one",
            lost.len(),
            lost.first()
        );
        Ok(())
    }

    fn restart(&mut self) -> Result<String> {
        let id = self.killed.take().context("no node was killed")?;
        self.deployment.cluster.start_node(id)?;
        let begun = Instant::now();
        let name = format!("n{id}");
        self.deployment.balancer.wait_for_status(
            "waiting for the node to serve reads",
            PATIENCE,
            |status| status.targets(READ_SERVICE).contains(&name.as_str()),
        )?;
        Ok(format!(
            "n{id} serves reads again after {} ms",
            begun.elapsed().as_millis()
        ))
    }

    fn stats(&mut self) -> Result<String> {
        let shown = Command::new(binaries::find("lb")?)
            .args(["stats", "--socket"])
            .arg(self.deployment.balancer.socket())
            .output()?;
        ensure!(
            shown.status.success(),
            "`lb stats` failed: {}",
            shown.status
        );
        for line in String::from_utf8_lossy(&shown.stdout).lines() {
            println!("      {line}");
        }
        let stats = self.deployment.balancer.stats()?;
        let connections = |service: &str| {
            let targets = stats.targets.iter().filter(|one| one.service == service);
            targets.map(|target| target.connections).sum::<u64>()
        };
        let (writes, reads) = (connections(WRITE_SERVICE), connections(READ_SERVICE));
        // The stream's writers had connections of their own besides.
        ensure!(
            writes > REQUESTS as u64 && reads > REQUESTS as u64,
            "it counted {writes} connections for writes and {reads} for reads"
        );
        Ok(format!(
            "{writes} connections for writes, {reads} for reads"
        ))
    }
}

fn tour_key(number: usize) -> String {
    format!("tour-{number}")
}

fn tour_value(number: usize) -> String {
    format!("value {number}")
}

/// Makes [`REQUESTS`] requests; which node answered how many.
fn count_nodes(mut request: impl FnMut(usize) -> Result<usize>) -> Result<BTreeMap<usize, usize>> {
    let mut by = BTreeMap::new();
    for number in 0..REQUESTS {
        let node = request(number).with_context(|| format!("request {number}"))?;
        *by.entry(node).or_default() += 1;
    }
    Ok(by)
}

fn node_of(answer: &lb_tests::http::Response) -> Result<usize> {
    let id = answer
        .header("x-raft-node")
        .context("the answer names no node")?;
    id.parse()
        .with_context(|| format!("the node's id is {id:?}"))
}

fn shown(by: &BTreeMap<usize, usize>) -> String {
    let parts: Vec<String> = by
        .iter()
        .map(|(id, count)| format!("n{id} ({count})"))
        .collect();
    parts.join(", ")
}
