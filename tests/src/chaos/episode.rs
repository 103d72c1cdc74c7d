//! One deployment, struck by the faults of one seed, and judged.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::check::check;
use super::clients::{Crowd, read_all};
use super::faults::Strikes;
use super::history::{Clock, History, Operation, Outcome};
use super::schedule::schedule;
use crate::balancer::succession::contradictions;
use crate::balancer::{Balancer, Configuration, READ_SERVICE, Status, WRITE_SERVICE};
use crate::cluster::{self, RaftCluster};
use crate::deployment::Deployment;
use crate::http;
use crate::lab::{Lab, Spec, address};
use crate::patience::{pause, wait_for, wait_until};
use crate::traffic::sampling::Sample;
use crate::traffic::witness::Witness;

/// How many nodes there are.
const NODES: usize = 3;
/// How many clients.
const CLIENTS: usize = 8;
/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries between two snapshots: often enough that nodes which were away are
/// sent some.
const SNAPSHOT_EVERY: u64 = 500;
/// Between two looks at `lb status`, each of which is a process.
const STATUS_PAUSE: Duration = Duration::from_millis(15);
/// For so long nothing may fail in the end.
const CALM: Duration = Duration::from_secs(3);
/// How many of a kind of complaints are shown.
const SHOWN: usize = 5;
/// How long one node may take to say what it has.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where all that is random comes from.
    pub seed: u64,
    /// For how long faults strike.
    pub faults: Duration,
    /// Where the history goes, and, when something is wrong, the logs.
    pub out: PathBuf,
}

/// What an episode came to.
#[derive(Debug)]
pub struct Summary {
    /// Where the history lies.
    pub history: PathBuf,
    incidents: usize,
    written: usize,
    found: usize,
    unknown: usize,
    refused: usize,
    terms: usize,
    longest_gap: Duration,
    statuses: usize,
    sightings: usize,
}

/// Runs one, and judges it. `tell` is told what happens.
///
/// # Errors
/// If something was seen that must not be; the error says how to see it again.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Summary> {
    let file = plan.out.join(format!("{}.jsonl", plan.seed));
    let mut deployment = deploy(plan.seed).context("cannot start what is to be struck")?;
    let observed = observe(plan, &mut deployment, tell)?;
    observed.history.write(&file)?;
    let mut complaints = observed.complaints;
    let violations = check(&observed.history);
    complaints.extend(some(violations.iter().map(ToString::to_string)));
    if !complaints.is_empty() {
        let logs = plan.out.join(plan.seed.to_string());
        keep_logs(deployment.lab.run_directory(), &logs)?;
        bail!(
            "{}\n\nhistory: {}; logs: {}; again: cargo xtask chaos --minutes 1 --seed {}",
            complaints.join("\n\n"),
            file.display(),
            logs.display(),
            plan.seed
        );
    }
    deployment.leave()?;
    Ok(summary(
        file,
        &observed.history,
        observed.statuses,
        observed.sightings,
    ))
}

/// Three nodes that take snapshots often. Every other seed, `lb` polls them;
/// every other, it is told of changes.
fn deploy(seed: u64) -> Result<Deployment> {
    let lab = Lab::new(&Spec::for_test(NODES))?;
    let mut cluster = RaftCluster::new(&lab).snapshot_every(SNAPSHOT_EVERY);
    for id in cluster.ids() {
        cluster.start_node(id)?;
    }
    cluster.wait_until_settled(PATIENCE)?;
    let mut toml = Configuration::for_nodes(&lab).to_toml();
    if seed % 2 == 1 {
        let role = "replica = \"/replica\"";
        toml = toml.replace(role, &format!("{role}, watch = \"/watch\""));
    }
    let mut balancer = Balancer::with_configuration(&lab, &toml)?;
    balancer.start_again()?;
    balancer.wait_until_serving(PATIENCE)?;
    Ok(Deployment {
        balancer,
        cluster,
        lab,
    })
}

struct Observed {
    history: History,
    /// What was wrong already as it happened.
    complaints: Vec<String>,
    statuses: usize,
    sightings: usize,
}

fn observe(
    plan: &Plan,
    deployment: &mut Deployment,
    tell: &mut dyn FnMut(&str),
) -> Result<Observed> {
    let client = deployment.lab.client().clone();
    let clock = Clock::start();
    let crowd = Crowd::start(&client, clock, plan.seed, CLIENTS);
    let statuses = deployment.balancer.watch_status(STATUS_PAUSE);
    let witness = Witness::start(&client, address::WRITE);
    let steps = schedule(plan.seed, NODES, plan.faults);
    let mut strikes = Strikes::new(deployment, &steps, clock, tell);
    let struck = strikes.carry_out();
    let incidents = std::mem::take(&mut strikes.incidents);
    drop(strikes);
    let calm = struck.and_then(|()| become_calm(deployment, &crowd, tell));

    let mut operations = crowd.stop();
    let testimony = witness.stop();
    let statuses = statuses.stop();
    let mut complaints = Vec::new();
    match calm {
        Ok(()) => {
            let keys: BTreeSet<&str> = operations.iter().map(|one| one.key.as_str()).collect();
            let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
            let last = read_all(&client, clock, CLIENTS, &keys)?;
            complaints.extend(differences(deployment, &last));
            operations.extend(last);
        }
        Err(error) => complaints.push(format!("{error:#}")),
    }
    complaints.extend(some(contradictions(&statuses).into_iter()));
    let answers = testimony.contradictions();
    complaints.extend(some(answers.iter().map(ToString::to_string)));
    let seen = |sample: &&Sample<Result<Status>>| sample.seen.is_ok();
    Ok(Observed {
        complaints,
        statuses: statuses.iter().filter(seen).count(),
        sightings: testimony.answers().count(),
        history: History {
            operations,
            incidents,
        },
    })
}

/// Waits until all is as it was before, and stays so for a while: one node
/// leads, all others follow it, `lb` knows, and nothing fails at any client.
fn become_calm(
    deployment: &mut Deployment,
    crowd: &Crowd,
    tell: &mut dyn FnMut(&str),
) -> Result<()> {
    let begun = Instant::now();
    let mut failed = String::from("nothing was ever settled");
    let calm = wait_for(PATIENCE, || {
        let leader = settled(deployment)?;
        let before = crowd.progress();
        pause(CALM);
        let after = crowd.progress();
        if after.smooth_since(&before) && settled(deployment) == Some(leader) {
            return Some(());
        }
        failed = format!("n{leader} led, but then: {before:?}, {after:?}");
        None
    });
    if calm.is_none() {
        bail!(
            "after the last fault it did not become calm within {PATIENCE:?}: {failed}; {:?}; {:?}",
            deployment.cluster.roles(),
            deployment.balancer.status()
        );
    }
    tell(&format!(
        "calm {:.1} s after the last fault",
        (begun.elapsed() - CALM).as_secs_f64()
    ));
    Ok(())
}

/// The leader that all agree upon, `lb` included.
fn settled(deployment: &Deployment) -> Option<usize> {
    let Deployment {
        balancer, cluster, ..
    } = deployment;
    let leader = cluster.leader()?;
    let status = balancer.status().ok()?;
    let name = |id| format!("n{id}");
    let others = cluster.ids().filter(|&id| id != leader);
    let replicas: Vec<String> = others.map(name).collect();
    let mut reads = status.targets(READ_SERVICE);
    reads.sort_unstable();
    (status.targets(WRITE_SERVICE) == [name(leader)] && reads == replicas).then_some(leader)
}

/// Where a node has something else than the last linearizable reads found,
/// also after a while.
fn differences(deployment: &Deployment, reads: &[Operation]) -> Vec<String> {
    let client = deployment.lab.client();
    let differs = |id, read: &Operation| {
        let Outcome::Found { value, .. } = &read.outcome else {
            return false;
        };
        let path = format!("/kv/{}?consistency=eventual", read.key);
        let answer = http::get(cluster::api(id), &path, READ_TIMEOUT);
        !answer.is_ok_and(|answer| answer.json()["value"].as_str() == value.as_deref())
    };
    let hot = || reads.iter().filter(|read| read.key.starts_with("hot-"));
    let compare = |id| -> Option<String> {
        let read = client.enter(|| {
            let mut differing = hot().find(|read| differs(id, read));
            wait_until(PATIENCE / 3, || {
                differing = hot().find(|read| differs(id, read));
                differing.is_none()
            });
            differing
        })?;
        Some(format!("n{id} has something else than {read:?} found"))
    };
    deployment.cluster.ids().filter_map(compare).collect()
}

/// The first few of them, and how many there are.
fn some(complaints: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let count = complaints.len();
    let mut some: Vec<String> = complaints.take(SHOWN).collect();
    if count > SHOWN {
        some.push(format!("and {} more of these", count - SHOWN));
    }
    some
}

fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    let kept = || -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let is_log = entry.path().extension().is_some_and(|kind| kind == "log");
            if is_log {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    };
    kept().with_context(|| format!("cannot keep the logs in {}", to.display()))
}

fn summary(file: PathBuf, history: &History, statuses: usize, sightings: usize) -> Summary {
    let count = |wanted: fn(&Outcome) -> bool| {
        let operations = history.operations.iter();
        operations.filter(|one| wanted(&one.outcome)).count()
    };
    let mut ends: Vec<u64> = Vec::new();
    let mut terms = BTreeSet::new();
    for operation in &history.operations {
        if let Outcome::Written { term, .. } = operation.outcome {
            ends.push(operation.ended);
            terms.insert(term);
        }
    }
    ends.sort_unstable();
    let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
    Summary {
        history: file,
        incidents: history.incidents.len(),
        written: ends.len(),
        found: count(|outcome| matches!(outcome, Outcome::Found { .. })),
        unknown: count(|outcome| matches!(outcome, Outcome::Unknown(_))),
        refused: count(|outcome| matches!(outcome, Outcome::Refused(_))),
        terms: terms.len(),
        longest_gap: Duration::from_nanos(gaps.max().unwrap_or_default()),
        statuses,
        sightings,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            history,
            incidents,
            written,
            found,
            unknown,
            refused,
            terms,
            longest_gap,
            statuses,
            sightings,
        } = self;
        writeln!(
            out,
            "{written} writes acknowledged in {terms} terms, {found} reads, {unknown} writes of unknown outcome, {refused} refusals; \
             the longest time without a write: {:.2} s",
            longest_gap.as_secs_f64()
        )?;
        write!(
            out,
            "linearizable, nothing lost, one writer at a time: {incidents} incidents, {statuses} looks at lb, {sightings} at the write VIP; {}",
            history.display()
        )
    }
}
