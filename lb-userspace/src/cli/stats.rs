//! `lb stats`: the counters of the data path.

use std::io::{self, Write};

use super::table::{Align, Table, quantity};
use crate::api::{ServiceStats, Stats, TableStats, TargetStats, VerdictStats};

pub(super) fn print(stats: &Stats, out: &mut dyn Write) -> io::Result<()> {
    let Stats {
        verdicts,
        services,
        targets,
        table,
    } = stats;
    print_services(services, out)?;
    if !targets.is_empty() {
        writeln!(out)?;
        print_targets(targets, out)?;
    }
    writeln!(out)?;
    print_verdicts(verdicts, out)?;
    print_room(table, out)
}

fn print_services(services: &[ServiceStats], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("LISTEN", Align::Left),
        ("CONNECTIONS", Align::Right),
        ("REFUSED", Align::Right),
    ]);
    for service in services {
        table.row([
            service.service.to_string(),
            service.listen.to_string(),
            quantity(service.connections),
            quantity(service.refused),
        ]);
    }
    table.print(out)
}

fn print_targets(targets: &[TargetStats], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("SERVER", Align::Left),
        ("ID", Align::Right),
        ("OPEN", Align::Right),
        ("TOTAL", Align::Right),
        ("REFUSED", Align::Right),
        ("PKTS-IN", Align::Right),
        ("BYTES-IN", Align::Right),
        ("PKTS-OUT", Align::Right),
        ("BYTES-OUT", Align::Right),
    ]);
    for target in targets {
        table.row([
            target.service.to_string(),
            target.server.to_string(),
            target.id.to_string(),
            quantity(target.open),
            quantity(target.connections),
            quantity(target.refused),
            quantity(target.packets_in),
            quantity(target.bytes_in),
            quantity(target.packets_out),
            quantity(target.bytes_out),
        ]);
    }
    table.print(out)
}

/// Only what occurred; `--json` has the whole list.
fn print_verdicts(verdicts: &[VerdictStats], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ("VERDICT", Align::Left),
        ("REASON", Align::Left),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    let occurred = verdicts.iter().filter(|verdict| verdict.packets > 0);
    let mut count = 0;
    for verdict in occurred {
        count += 1;
        table.row([
            verdict.action.clone(),
            verdict.reason.clone(),
            quantity(verdict.packets),
            quantity(verdict.bytes),
        ]);
    }
    if count == 0 {
        writeln!(out, "no packet seen yet")?;
    }
    table.print(out)
}

fn print_room(table: &TableStats, out: &mut dyn Write) -> io::Result<()> {
    let TableStats {
        flows,
        flows_max,
        pending,
        pending_max,
    } = table;
    writeln!(out)?;
    writeln!(
        out,
        "{} of {} connections, resting ones included, and {} of {} half-open ones",
        flows / 2,
        flows_max / 2,
        pending / 2,
        pending_max / 2,
    )
}
