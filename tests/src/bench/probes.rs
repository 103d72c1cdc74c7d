//! What checking a thousand servers once a second costs the agent: the share
//! of one core that its process takes.
//!
//! All servers are one node, which answers on every address of a network of
//! its own. On a veth, whoever sends a packet does the receivers' work as well,
//! all the way to the answer. So that it counts for nobody, the kernel is told
//! to receive on the last CPU (RPS), as if an interrupt of a NIC had come there;
//! the node and the bench run there as well, and the agent on the others.
//!
//! What is left for *connect* is mostly the kernel's TCP. How much that takes alone is
//! measured beside it (`floor`).

mod floor;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::Effort;
use super::report::Row;
use super::scale::cpu_seconds;
use crate::balancer::Balancer;
use crate::cluster::{API_PORT, HEALTH_PORT};
use crate::fake::{Claim, FakeNode};
use crate::lab::{Lab, NIC, Namespace, Spec, address};
use crate::patience::{interrupted, pause};

const BENCH: &str = "probes";
/// The network of the servers' addresses.
const NETWORK: &str = "10.99.0.0/16";
/// How long the agent may take until it has checked everybody.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of each server: a name, and the pool's `check` and `role`.
const CHECKS: [(&str, &str, &str); 6] = [
    ("connect", r#"type = "tcp", service_port = false"#, ""),
    ("connect and service port", r#"type = "tcp""#, ""),
    (
        "page",
        r#"type = "http", path = "/health", service_port = false"#,
        "",
    ),
    (
        "page and service port",
        r#"type = "http", path = "/health""#,
        "",
    ),
    (
        "role",
        r#"type = "http", service_port = false"#,
        r#"role = { leader = "/primary", replica = "/replica" }"#,
    ),
    (
        "role and service port",
        r#"type = "http""#,
        r#"role = { leader = "/primary", replica = "/replica" }"#,
    ),
];

/// Measures everything.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let (servers, runs, window) = match effort {
        Effort::Full => (1000, 3, Duration::from_secs(10)),
        Effort::Quick => (1000, 1, Duration::from_secs(5)),
        Effort::Smoke => (20, 1, Duration::from_millis(200)),
    };
    let floor = measure(runs, || floor(servers, window))?;
    let floor = row("connect", servers, "bare loop", &floor);
    let mut rows = Vec::new();
    for (name, check, role) in CHECKS {
        let shares = measure(runs, || share(servers, check, role, window))?;
        if shares.is_empty() {
            return Ok(rows);
        }
        rows.push(row(name, servers, "agent", &shares));
    }
    if let Some(connect) = rows.first_mut() {
        *connect = connect.clone().against(&floor, "bare loop");
    }
    rows.insert(0, floor);
    Ok(rows)
}

/// Measures so often, or until somebody has enough.
fn measure(runs: usize, share: impl Fn() -> Result<f64>) -> Result<Vec<f64>> {
    let runs = (0..runs).take_while(|_| !interrupted());
    runs.map(|_| share()).collect()
}

fn row(name: &str, servers: u16, path: &str, shares: &[f64]) -> Row {
    let percent: Vec<f64> = shares.iter().map(|share| 100.0 * share).collect();
    let name = format!("{name}, {servers} servers a second");
    Row::new(BENCH, &name, path, "% of a core", &percent)
}

/// The servers, and whoever asks them.
struct Stage {
    cpus: Cpus,
    /// It goes before its namespace does.
    _node: FakeNode,
    lab: Lab,
}

impl Stage {
    fn new() -> Result<Self> {
        let cpus = Cpus::of_this_process()?;
        let lab = Lab::new(&Spec::for_test(1))?;
        for namespace in [lab.balancer(), lab.switch(), lab.node(1)] {
            cpus.receive_on_the_last(namespace)?;
        }
        ip(lab.node(1), &format!("route add local {NETWORK} dev lo"))?;
        let node = address::node(1);
        ip(lab.balancer(), &format!("route add {NETWORK} via {node}"))?;
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let node = || FakeNode::start(lab.node(1), 1, any, Claim::replica(5));
        let _node = cpus.on_the_last(node)?;
        Ok(Self { cpus, _node, lab })
    }
}

/// The share of one core that the bare loop takes.
fn floor(servers: u16, window: Duration) -> Result<f64> {
    let Stage { cpus, lab, .. } = &Stage::new()?;
    let servers = (0..servers).map(|server| SocketAddr::from((at(server), HEALTH_PORT)));
    let servers: Vec<SocketAddr> = servers.collect();
    cpus.on_the_others(|| lab.balancer().enter(|| floor::share(&servers, window)))
}

/// The share of one core that `lb` takes for such checks.
fn share(servers: u16, check: &str, role: &str, window: Duration) -> Result<f64> {
    let Stage { cpus, lab, .. } = &Stage::new()?;
    let mut balancer = Balancer::with_configuration(lab, &configuration(servers, check, role))?;
    cpus.on_the_others(|| balancer.start_again())?;
    balancer.wait_for_status("all servers are UP", PATIENCE, |status| {
        let servers = &status.pools[0].servers;
        servers.iter().all(|server| server.state == "UP")
    })?;
    let pid = balancer.pid().context("lb ended")?;
    let (before, begun) = (cpu_seconds(pid)?, Instant::now());
    pause(window);
    let share = (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64();
    let status = balancer.status()?;
    let up = |server: &&crate::balancer::Server| server.state == "UP";
    let up = status.pools[0].servers.iter().filter(up).count();
    ensure!(
        up == usize::from(servers),
        "{up} of {servers} servers are UP"
    );
    Ok(share)
}

/// Where a server is.
const fn at(server: u16) -> Ipv4Addr {
    let [high, low] = server.to_be_bytes();
    Ipv4Addr::new(10, 99, high + 1, low)
}

/// The CPUs that this process may use: one for the servers and for all that is
/// received, the others for the agent.
struct Cpus {
    all: CpuSet,
    last: usize,
}

impl Cpus {
    fn of_this_process() -> Result<Self> {
        let all = sched_getaffinity(None).context("cannot tell our CPUs")?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu));
        let last = last.context("we may use no CPU")?;
        ensure!(
            all.count() > 1,
            "two CPUs are needed: one of them is the servers'"
        );
        Ok(Self { all, last })
    }

    /// Threads that `work` starts, and processes, stay on the last CPU.
    fn on_the_last<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut last = CpuSet::new();
        last.set(self.last);
        self.on(&last, work)
    }

    /// The same for all but the last.
    fn on_the_others<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut others = self.all;
        others.unset(self.last);
        self.on(&others, work)
    }

    fn on<T>(&self, some: &CpuSet, work: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, some).context("cannot choose CPUs")?;
        let done = work();
        sched_setaffinity(None, &self.all).context("cannot choose CPUs")?;
        done
    }

    /// Has the NICs of `namespace` receive on the last CPU, whoever sends.
    fn receive_on_the_last(&self, namespace: &Namespace) -> Result<()> {
        // Words of 32 bits, the highest first.
        let words = (0..=self.last / 32).rev();
        let mask = words.map(|word| match word == self.last / 32 {
            true => format!("{:08x}", 1_u32 << (self.last % 32)),
            false => "00000000".to_owned(),
        });
        let mask = mask.collect::<Vec<_>>().join(",");
        // In a new namespace `ip` mounts the /sys that shows its NICs.
        let script = r#"for queue in /sys/class/net/*/queues/rx-*/rps_cpus; do
            echo "$1" > "$queue" || exit 1
        done"#;
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            namespace.name(),
            "sh",
            "-c",
            script,
            "sh",
            &mask,
        ]);
        let status = command.status().context("cannot start ip")?;
        ensure!(
            status.success(),
            "cannot choose who receives in {}",
            namespace.name()
        );
        Ok(())
    }
}

fn configuration(servers: u16, check: &str, role: &str) -> String {
    let mut list = String::new();
    for server in 0..servers {
        let at = at(server);
        // Writing to a String cannot fail.
        let _ = writeln!(
            list,
            "  {{ name = \"s{server}\", address = \"{at}:{API_PORT}\" }},"
        );
    }
    format!(
        r#"interface = "{NIC}"
[pool.p]
check = {{ {check}, port = {HEALTH_PORT}, interval = "1s", fast_interval = "1s", fall = 5 }}
{role}
server = [
{list}]
[service.s]
listen = "{}"
pool = "p"
route = "any"
"#,
        address::READ,
    )
}

fn ip(namespace: &Namespace, arguments: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name()]);
    command.args(arguments.split(' '));
    let status = command.status().context("cannot start ip")?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}
