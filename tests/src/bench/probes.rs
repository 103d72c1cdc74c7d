//! What checking a thousand servers once a second costs the agent: the share
//! of one core that its process takes.
//!
//! All servers are one node, which answers on every address of a network of
//! its own. On a veth, whoever sends a packet does the receivers' work as well,
//! all the way to the answer. So that it counts for nobody, the kernel is told
//! to receive on the last CPU (RPS), as if an interrupt of a NIC had come there;
//! the node and the bench run there as well, and the agent on the others.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
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
        Effort::Smoke => (20, 1, Duration::from_secs(1)),
    };
    let mut rows = Vec::new();
    for (name, check, role) in CHECKS {
        let mut shares = Vec::new();
        for _ in 0..runs {
            if interrupted() {
                return Ok(rows);
            }
            shares.push(100.0 * share(servers, check, role, window)?);
        }
        let name = format!("{name}, {servers} servers a second");
        rows.push(Row::new(BENCH, &name, "agent", "% of a core", &shares));
    }
    Ok(rows)
}

/// The share of one core that `lb` takes for such checks.
fn share(servers: u16, check: &str, role: &str, window: Duration) -> Result<f64> {
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
    let mut balancer = Balancer::with_configuration(&lab, &configuration(servers, check, role))?;
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
        let [high, low] = server.to_be_bytes();
        let at = Ipv4Addr::new(10, 99, high + 1, low);
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
