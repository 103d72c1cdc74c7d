//! What checking a thousand servers once a second costs the agent: the share
//! of one core that its process takes.
//!
//! All servers are one node, which answers on every address of a network of
//! its own: what it takes for that is its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

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
const CHECKS: [(&str, &str, &str); 4] = [
    ("connect", r#"type = "tcp""#, ""),
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
    let lab = Lab::new(&Spec::for_test(1))?;
    ip(lab.node(1), &format!("route add local {NETWORK} dev lo"))?;
    let node = address::node(1);
    ip(lab.balancer(), &format!("route add {NETWORK} via {node}"))?;
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let _node = FakeNode::start(lab.node(1), 1, any, Claim::replica(5))?;
    let mut balancer = Balancer::with_configuration(&lab, &configuration(servers, check, role))?;
    balancer.start_again()?;
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
