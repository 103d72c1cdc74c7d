//! A cluster, two balancers with an example's configuration, and clients that
//! write.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::balancer::Balancer;
use lb_tests::cluster::RaftCluster;
use lb_tests::lab::{Lab, Namespace, Spec, address};
use lb_tests::patience::wait_until;
use lb_tests::privilege;
use lb_tests::traffic::writes::{Plan, Report, WriteStream};

use super::PATIENCE;

/// How long it may take until they do: also a new leader may be due, on a busy machine.
const RESUME: Duration = Duration::from_secs(40);
/// So many acknowledgements show that writes go on: more than can have been
/// under way from before.
const RESUMED: usize = 40;

/// The file `name` of the example `example`.
pub fn example(example: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    root.join(example).join(name)
}

/// Two balancers in front of the sample cluster.
pub struct Pair {
    // In the order in which they are dropped.
    pub balancers: Vec<Balancer>,
    pub cluster: RaftCluster,
    pub lab: Lab,
}

impl Pair {
    /// With the `lb.toml` of an example. `None`, said aloud, where one of
    /// `programs` is missing.
    pub fn start(name: &str, spec: Spec, programs: &[&str]) -> Option<Self> {
        if !privilege::installed(programs) {
            return None;
        }
        let lab = Lab::new(&spec.balancers(2)).unwrap();
        let cluster = RaftCluster::start(&lab).unwrap();
        cluster.wait_until_settled(PATIENCE).unwrap();
        let toml = fs::read_to_string(example(name, "lb.toml")).unwrap();
        let mut balancers = Balancer::on_each(&lab, &toml).unwrap();
        for balancer in &mut balancers {
            balancer.start_again().unwrap();
        }
        for balancer in &mut balancers {
            balancer.wait_until_serving(PATIENCE).unwrap();
        }
        Some(Self {
            balancers,
            cluster,
            lab,
        })
    }

    /// The balancer `number`, counted from 1.
    pub fn balancer(&mut self, number: usize) -> &mut Balancer {
        &mut self.balancers[number - 1]
    }

    /// The namespace of the balancer `number`, counted from 1.
    pub fn namespace(&self, number: usize) -> &Namespace {
        &self.lab.balancers()[number - 1]
    }

    /// The term of the cluster, as the first balancer knows it.
    pub fn cluster_term(&self) -> Option<u64> {
        self.balancers[0].status().unwrap().pools[0].term
    }

    /// Waits until writes go on.
    pub fn must_go_on(&self, clients: &Clients) {
        for stream in [&clients.hasty, &clients.patient] {
            if !stream.wait_for_more(RESUMED, RESUME) {
                panic!("no write is acknowledged any more:\n{}", self.logs());
            }
        }
    }

    /// How the logs of all who run in the lab end.
    pub fn logs(&self) -> String {
        let files = fs::read_dir(self.lab.run_directory()).unwrap().flatten();
        let logs = files.map(|file| file.path()).filter(|path| path.is_file());
        let ends = logs.map(|path| {
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            format!("{}:\n{end}\n", path.display())
        });
        ends.collect()
    }

    /// Lets everybody leave by itself.
    pub fn leave(mut self) {
        for balancer in &mut self.balancers {
            if balancer.pid().is_some() {
                assert!(balancer.terminate().unwrap().success());
            }
        }
        self.cluster.terminate_all().unwrap();
    }
}

/// Clients that write without a pause worth mentioning.
pub struct Clients {
    /// They give a write up soon, and ask anew.
    hasty: WriteStream,
    /// They leave it to TCP, for three seconds.
    patient: WriteStream,
}

impl Clients {
    pub fn start(namespace: &Namespace) -> Self {
        let stream = |timeout: Duration| {
            let plan = Plan {
                pause: Duration::from_millis(4),
                timeout,
                ..Plan::steady(&format!("pair-{}", timeout.as_millis()))
            };
            WriteStream::start(namespace, address::WRITE, &plan)
        };
        Self {
            hasty: stream(Duration::from_millis(100)),
            patient: stream(Duration::from_secs(3)),
        }
    }

    pub fn stop(self) -> Seen {
        Seen {
            hasty: self.hasty.stop(),
            patient: self.patient.stop(),
        }
    }
}

/// What the clients saw.
#[derive(Debug)]
pub struct Seen {
    pub hasty: Report,
    pub patient: Report,
}

impl Seen {
    /// How long writes were out after `event`, in words.
    pub fn outage(&self, event: Instant) -> String {
        let (hasty, patient) = (
            Outage::new(&self.hasty, event),
            Outage::new(&self.patient, event),
        );
        format!("clients that ask anew after 100 ms: {hasty}; after 3 s: {patient}")
    }
}

/// How long each writer of a stream was without an acknowledgement.
struct Outage(Vec<Duration>);

impl Outage {
    fn new(report: &Report, event: Instant) -> Self {
        let mut writers = BTreeMap::new();
        for attempt in report
            .acknowledged()
            .filter(|attempt| attempt.begun >= event)
        {
            let (writer, _) = attempt.key.rsplit_once('-').unwrap();
            writers.entry(writer).or_insert(attempt.ended - event);
        }
        let mut outages: Vec<Duration> = writers.into_values().collect();
        outages.sort_unstable();
        Self(outages)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds: Vec<String> = self
            .0
            .iter()
            .map(|one| one.as_millis().to_string())
            .collect();
        write!(out, "{} ms", milliseconds.join(" / "))
    }
}

/// Whether the host has the VIP.
pub fn has_vip(namespace: &Namespace) -> bool {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name(), "-o", "address", "show", "to"]);
    let output = command.arg(address::VIP.to_string()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    !output.stdout.is_empty()
}

/// Waits until it holds; how long that took.
pub fn wait(what: &str, holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    assert!(wait_until(PATIENCE, holds), "{what}: in vain");
    begun.elapsed()
}
