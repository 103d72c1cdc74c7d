//! What many flows, and many services with many targets, cost: time a packet,
//! memory, time to install and to change, and the agent's CPU time.

use std::fs;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lb_common::addr::{Ipv4, Ipv6};

use super::Effort;
use super::crowd::{self, Findings};
use super::datapath::DataPath;
use super::measured::{Measured, Order, Packets, Place, Program};
use super::report::Row;
use crate::balancer::Balancer;
use crate::fake::Server;
use crate::lab::{Lab, NIC, Spec, address};
use crate::patience::{interrupted, pause};

const BENCH: &str = "scale";
/// Servers of each service.
const SERVERS: u16 = 32;
/// The first server's port; all of them are on one node.
const FIRST_PORT: u16 = 9001;
/// How long the agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures everything.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let (flows, services, runs): (&[u32], &[u16], usize) = match effort {
        Effort::Full => (
            &[1_000, 10_000, 100_000, 1_000_000],
            &[1, 10, 30, 100, 1000],
            9,
        ),
        Effort::Quick => (&[1_000, 1_000_000], &[1, 30, 1000], 3),
        Effort::Smoke => (&[1_000], &[1], 1),
    };
    let mut rows = Vec::new();
    for connections in flows {
        rows.extend(table::<Ipv4>(*connections, runs)?);
        rows.extend(table::<Ipv6>(*connections, runs)?);
    }
    let crowds: &[u32] = match effort {
        Effort::Full => &[50_000, 500_000],
        Effort::Quick | Effort::Smoke => &[],
    };
    for connections in crowds {
        if !interrupted() {
            rows.extend(crowd(*connections)?);
        }
    }
    for services in services {
        if interrupted() {
            break;
        }
        rows.extend(agent(*services)?);
    }
    Ok(rows)
}

/// A table that is as large as what is in it.
fn table<A: Measured>(connections: u32, runs: usize) -> Result<Vec<Row>> {
    let row = |name: &str, unit: &str, samples: &[f64]| {
        let name = format!("{}: {name}, {connections} connections", A::NAME);
        Row::new(BENCH, &name, Place::Xdp.name(), unit, samples)
    };
    let mut path = DataPath::<A>::load(connections)?;
    let begun = Instant::now();
    path.fill(connections)?;
    let filled = begun.elapsed().as_secs_f64();
    let mut time = |program, packets| {
        let order = Order::Random(connections);
        let mut once = |program| path.time(Place::Xdp, program, packets, order, 200_000);
        (0..runs)
            .map(|_| {
                let harness = once(Program::Pass)?;
                Ok(once(program)? - harness)
            })
            .collect::<Result<Vec<f64>>>()
    };
    let bare = row(
        "bare look-up",
        "ns",
        &time(Program::Lookup, Packets::Forward)?,
    );
    let used = row(
        "bare look-up, used",
        "ns",
        &time(Program::LookupUsed, Packets::Forward)?,
    );
    let forward = row("forward", "ns", &time(Program::Lb, Packets::Forward)?);
    let reply = row("reply", "ns", &time(Program::Lb, Packets::Reply)?);
    let (bytes, room) = path.memory()?;
    let bytes = bytes as f64 / f64::from(room);
    Ok(vec![
        bare.against(&used, &used.name),
        forward.against(&used, &used.name),
        reply.against(&used, &used.name),
        used,
        row("memory of a connection", "B", &[bytes]),
        row("filling two tables", "s", &[filled]),
    ])
}

/// What the agent takes for a table with so many connections in it.
fn crowd(connections: u32) -> Result<Vec<Row>> {
    let Findings {
        resting,
        reaping,
        reaping_mebibytes,
        slowest_status,
        listings,
        ..
    } = crowd::measure(connections)?;
    let row = |name: &str, unit: &str, value: f64| {
        let name = format!("{name}, {} flows", connections * 2);
        Row::new(BENCH, &name, "agent", unit, &[value])
    };
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut rows = vec![
        row("CPU of a sweep", "ms", ms(resting.cpu)),
        row("CPU of one that forgets most", "ms", ms(reaping.cpu)),
        row("its longest slice", "ms", ms(reaping.longest_slice)),
        row("its memory", "MiB", reaping_mebibytes),
        row("slowest lb status meanwhile", "ms", ms(slowest_status)),
    ];
    for (name, listing) in listings {
        let row = |what: &str, unit, value| row(&format!("lb flows, {name}: {what}"), unit, value);
        rows.extend([
            row("time", "ms", ms(listing.took)),
            row("agent", "MiB", listing.agent_mebibytes),
            row("CLI", "MiB", listing.cli_mebibytes),
        ]);
    }
    Ok(rows)
}

/// `lb` with so many services, each with the same 32 servers.
fn agent(services: u16) -> Result<Vec<Row>> {
    let lab = Lab::new(&Spec::for_test(1))?;
    let mut servers = (0..SERVERS)
        .map(|index| {
            let at = SocketAddrV4::new(address::node(1), FIRST_PORT + index);
            Server::echo(lab.node(1), at)
        })
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let mut balancer = Balancer::with_configuration(&lab, &configuration(services))?;
    balancer.start_again()?;
    wait_for_targets(&mut balancer, services, SERVERS)?;
    let installed = begun.elapsed().as_secs_f64();
    let pid = balancer.pid().context("lb ended")?;
    let cpu_installed = cpu_seconds(pid)?;

    let (before, begun) = (cpu_seconds(pid)?, Instant::now());
    servers.pop();
    wait_for_targets(&mut balancer, services, SERVERS - 1)?;
    let changed = begun.elapsed().as_secs_f64();
    let cpu_changed = cpu_seconds(pid)? - before;

    let (before, begun) = (cpu_seconds(pid)?, Instant::now());
    pause(Duration::from_secs(2));
    let idle = (cpu_seconds(pid)? - before) / begun.elapsed().as_secs_f64();
    let row = |name: &str, unit: &str, value: f64| {
        let name = format!("{name}, {services} x {SERVERS} targets");
        Row::new(BENCH, &name, "agent", unit, &[value])
    };
    Ok(vec![
        row("start to serving", "s", installed),
        row("CPU until then", "s", cpu_installed),
        row("a server leaves", "s", changed),
        row("CPU until it has left", "s", cpu_changed),
        row("CPU at rest", "% of a core", idle * 100.0),
        row("RSS", "MiB", resident_mebibytes(pid)?),
    ])
}

fn wait_for_targets(balancer: &mut Balancer, services: u16, servers: u16) -> Result<()> {
    let what = format!("waiting for {servers} targets of each of {services} services");
    let all = |count: usize, wanted: u16| count == usize::from(wanted);
    balancer.wait_for_status(&what, PATIENCE, |status| {
        all(status.services.len(), services)
            && status
                .services
                .iter()
                .all(|service| all(service.targets.len(), servers))
    })?;
    Ok(())
}

/// One pool, so that the checks are the same whatever is measured. A refused
/// connection counts at once.
fn configuration(services: u16) -> String {
    let mut toml = format!("interface = \"{NIC}\"\n[pool.all]\nserver = [\n");
    for index in 0..SERVERS {
        let at = SocketAddrV4::new(address::node(1), FIRST_PORT + index);
        toml += &format!("  {{ name = \"s{index}\", address = \"{at}\" }},\n");
    }
    toml += "]\ncheck = { type = \"tcp\", interval = \"500ms\", rise = 1 }\n";
    for index in 0..services {
        let listen = SocketAddrV4::new(address::VIP, 10_000 + index);
        toml += &format!(
            "[service.s{index}]\nlisten = \"{listen}\"\npool = \"all\"\nroute = \"any\"\n"
        );
    }
    toml
}

/// CPU time that a process has taken.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("lb ended")?;
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the name, in
    // brackets, is field 2.
    let (_, after) = stat.rsplit_once(')').context("no stat of a process")?;
    let ticks: f64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    Ok(ticks / super::load::TICKS_PER_SECOND)
}

fn resident_mebibytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("lb ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = kibibytes.context("no VmRSS")?.parse()?;
    Ok(kibibytes / 1024.0)
}
