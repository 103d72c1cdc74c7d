//! A deployment under a steady stream of writes, watched from all sides.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::balancer::succession::contradictions;
use lb_tests::balancer::{READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::cluster;
use lb_tests::deployment::Deployment;
use lb_tests::http::Connection;
use lb_tests::lab::{Lab, Spec, address};
use lb_tests::patience::wait_for;
use lb_tests::traffic::sampling::{Sample, Sampler};
use lb_tests::traffic::witness::{Testimony, Witness};
use lb_tests::traffic::writes::{Plan, Report, WriteStream};

use super::PATIENCE;

/// So many acknowledgements show that writes go on: more than can have been
/// under way from before.
const RESUMED: usize = 50;
/// Between two looks at who leads, to measure an election.
const ELECTION_PAUSE: Duration = Duration::from_millis(4);
/// Between two looks at `lb status`, each of which is a process.
const STATUS_PAUSE: Duration = Duration::from_millis(15);

/// A deployment of three nodes, and all who watch it.
pub struct Trial {
    pub deployment: Deployment,
    stream: WriteStream,
    witness: Witness,
    status: Sampler<Result<Status>>,
    outages: Vec<Outage>,
}

/// A time without acknowledged writes.
#[derive(Debug, Clone, Copy)]
struct Outage {
    struck: Instant,
    /// The leader before.
    old: usize,
    /// When another node's `/primary` said 200 first.
    elected: Option<Instant>,
}

impl Trial {
    /// Starts everything; clients write and look from now on.
    pub fn start() -> Self {
        let deployment = Deployment::start(&Spec::for_test(3)).unwrap();
        let client = deployment.lab.client();
        let plan = Plan {
            duration_max: Duration::from_secs(180),
            ..Plan::steady("trial")
        };
        Self {
            stream: WriteStream::start(client, address::WRITE, &plan),
            witness: Witness::start(client, address::WRITE),
            status: deployment.balancer.watch_status(STATUS_PAUSE),
            outages: Vec::new(),
            deployment,
        }
    }

    /// Waits until one node leads, all others follow it, and `lb` knows.
    pub fn settled(&self) -> usize {
        let Deployment {
            balancer, cluster, ..
        } = &self.deployment;
        let settled = wait_for(PATIENCE, || {
            let leader = cluster.leader()?;
            let status = balancer.status().ok()?;
            let replicas: Vec<String> =
                cluster.ids().filter(|&id| id != leader).map(name).collect();
            let mut reads = status.targets(READ_SERVICE);
            reads.sort_unstable();
            (status.targets(WRITE_SERVICE) == [name(leader)] && reads == replicas).then_some(leader)
        });
        settled.unwrap_or_else(|| {
            let (roles, status) = (cluster.roles(), balancer.status());
            panic!(
                "{roles:?} and {status:?} do not agree:\n{}",
                balancer.output()
            )
        })
    }

    /// Does something to the leader, and waits until writes go on. The node
    /// that was the leader.
    pub fn strike(&mut self, strike: impl FnOnce(&mut Deployment, usize)) -> usize {
        let old = self.settled();
        let election = watch_election(&self.deployment.lab, old);
        let struck = Instant::now();
        strike(&mut self.deployment, old);
        self.must_go_on();
        let mut looks = election.stop().into_iter();
        let elected = looks.find(|look| look.seen).map(|look| look.ended);
        self.outages.push(Outage {
            struck,
            old,
            elected,
        });
        old
    }

    /// Waits for further writes to be acknowledged.
    pub fn must_go_on(&self) {
        if !self.stream.wait_for_more(RESUMED, PATIENCE) {
            let roles = self.deployment.cluster.roles();
            panic!(
                "no write is acknowledged any more; {roles:?}:\n{}",
                self.deployment.balancer.output()
            );
        }
    }

    /// Ends it all, and checks what must hold whatever happened:
    ///
    /// - each acknowledged write can be read back, through the write VIP;
    /// - nobody answered at the write VIP after its successor had;
    /// - `lb status` never showed two write targets, nor a term after a newer
    ///   one, nor two leaders of one term;
    /// - everything leaves in order.
    pub fn conclude(self) -> Conclusion {
        self.settled();
        let Self {
            deployment,
            stream,
            witness,
            status,
            outages,
        } = self;
        let report = stream.stop();
        let lost = report.lost(deployment.lab.client(), address::WRITE);
        let testimony = witness.stop();
        let statuses = status.stop();
        assert_eq!(lost.unwrap(), Vec::<String>::new(), "lost writes");
        check_testimony(&testimony, &deployment);
        check_statuses(&statuses);
        deployment.leave().unwrap();
        Conclusion {
            report,
            testimony,
            outages,
        }
    }
}

pub fn check_testimony(testimony: &Testimony, deployment: &Deployment) {
    let contradictions = testimony.contradictions();
    let shown: Vec<String> = contradictions.iter().map(ToString::to_string).collect();
    assert!(
        shown.is_empty(),
        "{shown:#?}\n{}",
        deployment.balancer.output()
    );
}

/// At most one target, and the terms in order.
pub fn check_statuses(statuses: &[Sample<Result<Status>>]) {
    assert_eq!(contradictions(statuses), Vec::<String>::new());
    let seen = statuses.iter().any(|sample| sample.seen.is_ok());
    assert!(seen, "nobody ever saw `lb status`");
}

/// What a trial has shown.
pub struct Conclusion {
    pub report: Report,
    pub testimony: Testimony,
    outages: Vec<Outage>,
}

impl Conclusion {
    /// Prints how long the writes were out each time, and what of it was the
    /// balancer's share: from the new leader's first `/primary` 200 to the
    /// first write acknowledged through the VIP.
    pub fn print_outages(&self, what: &str) {
        let (mut outages, mut shares) = (Vec::new(), Vec::new());
        for outage in &self.outages {
            let by_another = |node: Option<u64>| node.is_some_and(|id| id != outage.old as u64);
            let mut acknowledged = self.report.acknowledged();
            let resumed = acknowledged.find(|attempt| {
                attempt.begun >= outage.struck
                    && attempt.outcome.as_ref().is_ok_and(|&node| by_another(node))
            });
            let resumed = resumed.expect("writes went on").ended;
            outages.push(resumed - outage.struck);
            shares.extend(
                outage
                    .elected
                    .map(|elected| resumed.saturating_duration_since(elected)),
            );
        }
        println!("{what}: writes out for {}", Spread(outages));
        println!("{what}: of it the balancer's share {}", Spread(shares));
        println!(
            "{what}: {} writes acknowledged, {} failed; answers at the write VIP: {} by {:?} in turn",
            self.report.acknowledged().count(),
            self.report.failures().count(),
            self.testimony.answers().count(),
            self.testimony.turns()
        );
    }
}

/// Durations as min / median / max.
struct Spread(Vec<Duration>);

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let Some((min, max)) = sorted.first().zip(sorted.last()) else {
            return out.write_str("unknown");
        };
        let median = sorted[sorted.len() / 2];
        write!(
            out,
            "{} / {} / {} ms (min / median / max of {})",
            min.as_millis(),
            median.as_millis(),
            max.as_millis(),
            sorted.len()
        )
    }
}

/// Looks whether a node other than `old` says that it leads.
fn watch_election(lab: &Lab, old: usize) -> Sampler<bool> {
    let others = (1..=lab.nodes().len()).filter(|&id| id != old);
    // Kept open: a connection for every look would load the machine.
    let mut connections: Vec<(usize, Option<Connection>)> = others.map(|id| (id, None)).collect();
    Sampler::start(lab.client(), ELECTION_PAUSE, move || {
        connections.iter_mut().any(|(id, connection)| {
            leads(*id, connection).unwrap_or_else(|_| {
                *connection = None;
                false
            })
        })
    })
}

fn leads(id: usize, connection: &mut Option<Connection>) -> std::io::Result<bool> {
    let timeout = Duration::from_millis(500);
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(cluster::health(id), timeout)?),
    };
    Ok(connection.request("GET", "/primary", None)?.status == 200)
}

/// As the balancer's configuration names a node.
pub fn name(id: usize) -> String {
    format!("n{id}")
}
