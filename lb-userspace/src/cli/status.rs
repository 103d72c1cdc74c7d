//! `lb status`: services, their targets, and what the servers say.

use std::io::{self, Write};

use super::table::{Align, Table, duration, or_dash};
use crate::api::{CheckStatus, DrainingStatus, PoolStatus, ServerStatus, ServiceStatus, Status};

/// A cell names no more targets than this; `--json` has them all.
const TARGETS_SHOWN: usize = 5;

pub(super) fn print(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let Status {
        version,
        interface,
        hook,
        pid,
        uptime_ms,
        services,
        pools,
        draining,
        overrides,
    } = status;
    let uptime = duration(*uptime_ms);
    writeln!(
        out,
        "lb {version} on {interface} ({hook}), pid {pid}, up {uptime}"
    )?;
    writeln!(out)?;
    print_services(services, out)?;
    for pool in pools {
        writeln!(out)?;
        print_pool(pool, out)?;
    }
    if !draining.is_empty() {
        writeln!(out)?;
        print_draining(draining, out)?;
    }
    if !overrides.is_empty() {
        writeln!(out)?;
        writeln!(out, "overrides")?;
        let mut table = Table::new(&[("SERVER", Align::Left), ("OVERRIDE", Align::Left)]);
        for one in overrides {
            let server = format!("{}/{}", one.pool, one.server);
            table.row([server, one.what.clone().unwrap_or_default()]);
        }
        table.print(out)?;
    }
    Ok(())
}

/// Who has connections left that will be reset.
fn print_draining(draining: &[DrainingStatus], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "draining")?;
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("SERVER", Align::Left),
        ("ADDRESS", Align::Left),
        ("OPEN", Align::Right),
        ("RESET-IN", Align::Right),
    ]);
    for target in draining {
        table.row([
            target.service.to_string(),
            target.server.to_string(),
            target.address.to_string(),
            target.connections.to_string(),
            duration(target.reset_in_ms),
        ]);
    }
    table.print(out)
}

fn print_services(services: &[ServiceStatus], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("LISTEN", Align::Left),
        ("ROUTE", Align::Left),
        ("POOL", Align::Left),
        ("STATE", Align::Left),
        ("OPEN", Align::Right),
        ("TARGETS", Align::Left),
    ]);
    for service in services {
        let open: u64 = service
            .targets
            .iter()
            .map(|target| target.connections)
            .sum();
        table.row([
            service.name.to_string(),
            service.listen.to_string(),
            service.route.to_string(),
            service.pool.to_string(),
            service.state.to_string(),
            open.to_string(),
            targets(service),
        ]);
    }
    table.print(out)
}

fn targets(service: &ServiceStatus) -> String {
    let all = service.targets.len();
    let shown = service.targets.iter().take(TARGETS_SHOWN);
    let mut cell: Vec<String> = shown.map(|target| target.server.to_string()).collect();
    if all > TARGETS_SHOWN {
        cell.push(format!("+{}", all - TARGETS_SHOWN));
    }
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.join(" ")
}

fn print_pool(pool: &PoolStatus, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "pool {}", pool.name)?;
    // A pool that is not asked for roles has no leader to miss.
    match (&pool.leader, pool.term) {
        (Some(leader), Some(term)) => write!(out, ", leader {leader}, term {term}")?,
        (Some(leader), None) => write!(out, ", leader {leader}")?,
        (None, _) => {}
    }
    if let Some(members) = &pool.members {
        // Servers wrote parts of it.
        write!(out, ", members {}", members.replace(char::is_control, "?"))?;
    }
    if let Some(problem) = &pool.problem {
        write!(out, ", problem: {}", problem.replace(char::is_control, "?"))?;
    }
    writeln!(out)?;
    // Columns that nobody has something for would only take room.
    let lag = pool.servers.iter().any(|server| server.lag.is_some());
    let agent = pool.servers.iter().any(|server| server.agent.is_some());
    let share = pool.servers.iter().any(|server| share(server) != "1");
    let columns = [
        (true, ("SERVER", Align::Left)),
        (true, ("ADDRESS", Align::Left)),
        (true, ("STATE", Align::Left)),
        (true, ("SINCE", Align::Right)),
        (share, ("WEIGHT", Align::Left)),
        (true, ("ROLE", Align::Left)),
        (true, ("TERM", Align::Right)),
        (lag, ("LAG", Align::Right)),
        (agent, ("AGENT", Align::Left)),
        (true, ("CHECK", Align::Left)),
    ];
    let shown = columns.iter().filter(|(shown, _)| *shown);
    let mut table = Table::new(&shown.map(|(_, column)| *column).collect::<Vec<_>>());
    for server in &pool.servers {
        let cells = [
            server.name.to_string(),
            server.address.to_string(),
            server.state.to_string(),
            duration(server.since_ms),
            self::share(server),
            server.role.to_string(),
            or_dash(server.term),
            // Too far for reads.
            or_dash(server.lag) + if server.lagging { "!" } else { "" },
            server.agent.clone().unwrap_or_else(|| "-".to_owned()),
            check(server),
        ];
        let cells = cells.into_iter().zip(&columns);
        table.row(cells.filter_map(|(cell, (shown, _))| shown.then_some(cell)));
    }
    table.print(out)
}

/// What it gets of new connections: `3`, `3 at 40 %`, `1, backup`.
fn share(server: &ServerStatus) -> String {
    let mut share = server.weight.to_string();
    if server.warmth < 100 {
        share += &format!(" at {} %", server.warmth);
    }
    if server.backup {
        share += ", backup";
    }
    share
}

fn check(server: &ServerStatus) -> String {
    let Some(check) = &server.check else {
        return "none yet".to_owned();
    };
    let CheckStatus {
        code,
        detail,
        took_ms,
        ago_ms,
    } = check;
    let (took, ago) = (duration(*took_ms), duration(*ago_ms));
    let detail = if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    };
    format!("{code} in {took}, {ago} ago{detail}")
}
