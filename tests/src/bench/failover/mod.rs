//! How long writes are out when the leader is lost, and what of it is whose:
//! `lb` and HAProxy side by side, in front of one cluster, in the same rounds.
//!
//! - [`way`]: who is compared, and how each is set up; [`lane`]: one of them at
//!   work.
//! - [`scenario`]: what happens; [`round`]: one round of it, seen from all
//!   sides; [`reads`]: the one that readers feel.
//! - [`news`], [`decision`], [`idle`], [`collect`]: when a node knew that it
//!   leads, when a balancer decided, when a waiting client was told.
//! - [`mod@split`], [`table`], [`timeline`]: from there to numbers, rows and a
//!   figure.

pub mod collect;
pub mod decision;
pub mod idle;
pub mod lane;
pub mod news;
pub mod reads;
pub mod round;
pub mod scenario;
pub mod split;
pub mod table;
pub mod timeline;
pub mod way;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum as _;

use self::lane::Lane;
use self::news::News;
use self::round::Observed;
use self::scenario::Scenario;
use self::split::split;
use self::timeline::Line;
use self::way::Way;
use super::Effort;
use super::report::Row;
use crate::cluster::{RaftCluster, api};
use crate::lab::{Lab, Spec, joined};
use crate::patience::{interrupted, wait_for};
use crate::traffic::writes::Report;

/// How long the cluster and the slowest balancer may take to settle.
const PATIENCE: Duration = Duration::from_secs(45);

/// Three nodes, and a balancer on a host of its own for each way. Everything
/// in it ends when it is dropped.
#[derive(Debug)]
pub struct Site {
    /// Before the lab, so that they end first.
    pub lanes: Vec<Lane>,
    /// What the nodes say.
    news: News,
    /// The nodes.
    pub cluster: RaftCluster,
    /// Where it all runs.
    pub lab: Lab,
}

impl Site {
    /// Starts everything; returns when all balancers serve.
    pub fn start(ways: &[Way]) -> Result<Self> {
        // The first host of a balancer is the lab's own. The others are
        // where its further clients would be.
        let spec = Spec::for_test(3).clients(ways.len()).without_peer_program();
        let lab = Lab::new(&spec)?;
        let cluster = RaftCluster::start(&lab)?;
        cluster.wait_until_settled(PATIENCE)?;
        let hosts = [lab.balancer()].into_iter().chain(&lab.clients()[1..]);
        let lanes = ways.iter().zip(hosts);
        let lanes: Result<_> = lanes
            .map(|(&way, host)| Lane::start(&lab, host, way))
            .collect();
        Ok(Self {
            lanes: lanes?,
            news: News::follow(&lab),
            cluster,
            lab,
        })
    }

    /// Waits until one node leads, all others follow, and every balancer sends
    /// writes to that node alone.
    pub fn settle(&mut self) -> Result<usize> {
        let leader = self.cluster.wait_until_settled(PATIENCE)?;
        for lane in &mut self.lanes {
            lane.wait_for_writer(leader, PATIENCE)?;
        }
        Ok(leader)
    }

    /// Waits until a node other than `old` has said that it leads, after
    /// `struck`.
    pub fn await_election(
        &self,
        struck: Instant,
        old: usize,
        patience: Duration,
    ) -> Result<(Instant, usize)> {
        let elected = wait_for(patience, || self.news.elected(struck, old));
        elected.with_context(|| format!("nobody follows n{old} within {patience:?}"))
    }
}

/// Measures these scenarios, all where none is named, and draws a timeline of
/// each into `figures`.
pub fn run(effort: Effort, scenarios: &[Scenario], figures: &Path) -> Result<Vec<Row>> {
    let (rounds, ways) = match effort {
        Effort::Full => (20, &Way::ALL[..]),
        // Most of the time is spent on waiting for the last one.
        Effort::Quick => (3, &Way::ALL[..3]),
        // HAProxy need not be there.
        Effort::Smoke => (1, &Way::ALL[..2]),
    };
    let scenarios = match scenarios {
        [] => Scenario::value_variants(),
        some => some,
    };
    fs::create_dir_all(figures).with_context(|| format!("cannot make {}", figures.display()))?;
    let mut site = Site::start(ways)?;
    let mut rows = Vec::new();
    for &scenario in scenarios {
        let found = match scenario {
            Scenario::StoppedReplica => disturb(&mut site, rounds)?,
            Scenario::Kill
            | Scenario::Stop
            | Scenario::LinkCut
            | Scenario::Isolate
            | Scenario::Handover => strike(&mut site, scenario, rounds, figures)?,
        };
        if interrupted() {
            break;
        }
        rows.extend(found);
    }
    Ok(rows)
}

/// The rounds of a scenario in which the leader is struck.
fn strike(site: &mut Site, scenario: Scenario, rounds: usize, figures: &Path) -> Result<Vec<Row>> {
    let mut splits: BTreeMap<Way, Vec<_>> = BTreeMap::new();
    let mut written: BTreeMap<Way, Report> = BTreeMap::new();
    let mut lines = Vec::new();
    for round in 0..rounds {
        let observed = round::run(site, scenario, round);
        if interrupted() {
            return Ok(Vec::new());
        }
        let name = scenario.name();
        for observed in observed.with_context(|| format!("{name}, round {round}"))? {
            let split = split(&observed).map_err(|why| anyhow!("{name}, round {round}: {why}"))?;
            splits.entry(observed.way).or_default().push(split);
            lines.push(Line::of(&observed));
            let Observed { way, attempts, .. } = observed;
            let report = written.entry(way).or_insert(Report {
                attempts: Vec::new(),
            });
            report.attempts.extend(attempts);
        }
    }
    let mut rows = table::outages(scenario, &splits);
    rows.extend(read_back(site, scenario, &written)?);
    let title = format!("{}: writes of {rounds} rounds", scenario.name());
    let path = figures.join(format!("failover-{}-timeline.svg", scenario.slug()));
    timeline::draw(&path, &title, &lines)?;
    println!("{}", path.display());
    Ok(rows)
}

/// Looks for every acknowledged write at the leader, now that all is over.
fn read_back(
    site: &mut Site,
    scenario: Scenario,
    written: &BTreeMap<Way, Report>,
) -> Result<Vec<Row>> {
    let leader = api(site.settle()?);
    let client = site.lab.client();
    let lost: Vec<(Way, Result<Vec<String>>)> = thread::scope(|scope| {
        let start = |(&way, report)| {
            (
                way,
                scope.spawn(move || Report::lost(report, client, leader)),
            )
        };
        let threads: Vec<_> = written.iter().map(start).collect();
        let threads = threads.into_iter();
        threads
            .map(|(way, thread)| (way, joined(thread.join())))
            .collect()
    });
    let mut rows = Vec::new();
    for (way, lost) in lost {
        let acknowledged = written[&way].acknowledged().count();
        rows.extend(table::lost(scenario, way, acknowledged, lost?.len()));
    }
    Ok(rows)
}

/// The rounds of the scenario that readers feel.
fn disturb(site: &mut Site, rounds: usize) -> Result<Vec<Row>> {
    let mut found: BTreeMap<Way, Vec<_>> = BTreeMap::new();
    for round in 0..rounds {
        let disturbances = reads::run(site, round);
        if interrupted() {
            return Ok(Vec::new());
        }
        let name = Scenario::StoppedReplica.name();
        for one in disturbances.with_context(|| format!("{name}, round {round}"))? {
            found.entry(one.way).or_default().push(one);
        }
    }
    Ok(table::reads(&found))
}
