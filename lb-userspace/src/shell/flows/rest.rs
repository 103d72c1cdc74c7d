//! When a connection is forgotten, and the sweep that forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use lb_common::addr::Address;
use lb_common::flow::{Direction, Flow, Progress, Tick};
use lb_common::reaping::Candidate;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use super::Sweep;
use super::meter::Meter;
use super::table::{FamilyFlows, FlowTable, Generations, now};
use crate::config::{Service, Timeouts};
use crate::shell::tables::Family;

const SLICE: usize = 4096;

/// How many connections of a family a sweep forgets at most, and handshakes
/// besides, so that it ends soon, whatever has become due at once: a fifth of a
/// second of CPU time.
const FORGOTTEN_MAX: usize = 1 << 17;

/// How long a stale connection stays, so that its ends get their RST.
pub(super) const STALE_REST: Duration = Duration::from_secs(5);

/// How long connections are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rests {
    /// Those that are not open.
    pub timeouts: Timeouts,
    /// Open ones, by service.
    pub idle: BTreeMap<ServiceId, Duration>,
}

impl Rests {
    /// How long a connection may go without a segment before it is forgotten.
    fn of(&self, service: ServiceId, progress: Progress, stale: bool) -> Duration {
        let idle = self.idle.get(&service).copied();
        // A service that is not configured any more has none.
        let idle = idle.unwrap_or(Service::IDLE_TIMEOUT);
        if stale {
            STALE_REST
        } else if progress.contain(Progress::RESET) {
            self.timeouts.reset.min(idle)
        } else if !progress.closed() {
            idle
        } else if progress.contain(Progress::SERVER_FIRST) {
            self.timeouts.rest
        } else {
            self.timeouts.fin
        }
    }
}

/// Walks over all connections, counts them, and forgets those whose time has
/// come. The stale ones of `cut` stay for now: their ends are yet to
/// be provoked.
pub(super) fn sweep(
    table: &mut FlowTable,
    rests: &Rests,
    cut: &BTreeSet<TargetId>,
) -> io::Result<Sweep> {
    let mut generations = Generations::of(&table.generations);
    let mut sweep = Sweep::default();
    let mut meter = Meter::start();
    let v4 = sweep_family(&mut table.v4, rests, cut, &mut generations, &mut meter)?;
    let v6 = sweep_family(&mut table.v6, rests, cut, &mut generations, &mut meter)?;
    let of_v4 = percent(v4.sweep.flows, table.v4.room);
    let of_v6 = percent(v6.sweep.flows, table.v6.room);
    v4.add_to(&mut sweep);
    v6.add_to(&mut sweep);
    // Two flows for each connection that may be open, in a family that is used.
    let open_max = table.v4.room.max(table.v6.room) / 2;
    let of_open = percent(sweep.open.values().sum(), open_max);
    sweep.full = of_v4.max(of_v6).max(of_open);
    sweep.cost = meter.finish();
    Ok(sweep)
}

/// How many of a hundred `used` is of `room`.
fn percent(used: u64, room: u64) -> u64 {
    used * 100 / room.max(1)
}

fn sweep_family<A: Family>(
    flows: &mut FamilyFlows<A>,
    rests: &Rests,
    cut: &BTreeSet<TargetId>,
    generations: &mut Generations<'_>,
    meter: &mut Meter,
) -> io::Result<Census> {
    let mut census = Census::default();
    let now = now();
    let mut overdue = Vec::new();
    let mut targets = flows.targets();
    let mut walk = flows.walk(SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            let stale = generations.outdate(flow)?;
            census.count_flow(flow, stale);
            // The kernel looks at the other direction when it takes them out.
            if flow.direction() != Direction::Forward || (stale && cut.contains(&flow.target())) {
                continue;
            }
            let rest = rests.of(targets.of(flow)?.service, flow.progress(), stale);
            let idle_since = before(now, rest);
            if !is_idle(flow, idle_since) {
                continue;
            }
            if overdue.len() < FORGOTTEN_MAX {
                overdue.push(Candidate {
                    key: *key,
                    idle_since,
                });
            } else {
                census.sweep.unfinished = true;
            }
        }
        meter.slice();
    }
    drop(walk);
    let suspects = flows
        .surplus
        .after(&census.sweep.holding, &census.replies_holding);
    census.sweep.forgotten = flows.reap(&overdue, meter)?;
    // Where all of them talk in the other direction, there is no hurry.
    census.sweep.unfinished &= census.sweep.forgotten > 0;
    if !suspects.is_empty() {
        forget_orphans(flows, &suspects, before(now, rests.timeouts.fin), meter)?;
    }
    sweep_pending(
        flows,
        rests.timeouts.half_open,
        generations,
        now,
        &mut census,
        meter,
    )?;
    Ok(census)
}

/// Whether the last segment of `flow` passed at `idle_since`, or earlier.
fn is_idle<A: Address>(flow: &Flow<A>, idle_since: Tick) -> bool {
    !flow.last_seen.is_after(idle_since)
}

/// The moment so long before `now`.
fn before(now: Tick, rest: Duration) -> Tick {
    let Tick(ticks) = Tick::at(u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX));
    now.minus(ticks)
}

/// Forgets reply flows of `suspects` whose other half is gone: what was left by
/// somebody who was stopped between two removals.
fn forget_orphans<A: Family>(
    flows: &FamilyFlows<A>,
    suspects: &BTreeSet<TargetId>,
    idle_since: Tick,
    meter: &mut Meter,
) -> io::Result<()> {
    let mut orphans = Vec::new();
    let mut targets = flows.targets();
    let mut walk = flows.walk(SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            if flow.direction() == Direction::Reply
                && suspects.contains(&flow.target())
                && is_idle(flow, idle_since)
                && flows
                    .flow(&flow.pair_key(key, &targets.of(flow)?))?
                    .is_none()
            {
                orphans.push(Candidate {
                    key: *key,
                    idle_since,
                });
            }
        }
        meter.slice();
    }
    flows.reap(&orphans, meter)?;
    Ok(())
}

/// Forgets handshakes that nobody will finish, so that they do not hold a
/// target for ever where no new ones push them out.
fn sweep_pending<A: Family>(
    flows: &FamilyFlows<A>,
    half_open: Duration,
    generations: &mut Generations<'_>,
    now: Tick,
    census: &mut Census,
    meter: &mut Meter,
) -> io::Result<()> {
    // A handshake is two entries.
    let mut left = 2 * FORGOTTEN_MAX;
    let mut overdue = Vec::new();
    let mut walk = flows.walk_pending(SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, pending) in entries {
            let stale = generations.outdate(&pending.flow)?;
            let rest = if stale { STALE_REST } else { half_open };
            let due = is_idle(&pending.flow, before(now, rest));
            if due && overdue.len() < left {
                overdue.push(*key);
            } else {
                census.sweep.unfinished |= due;
                census.count_pending(&pending.flow);
            }
        }
        flows.forget_pending(&overdue)?;
        left -= overdue.len();
        overdue.clear();
        meter.slice();
    }
    Ok(())
}

/// The count of a family's sweep in progress.
#[derive(Debug, Default)]
struct Census {
    sweep: Sweep,
    replies_holding: BTreeMap<TargetId, u64>,
}

impl Census {
    fn count_flow<A: Address>(&mut self, flow: &Flow<A>, stale: bool) {
        self.sweep.flows += 1;
        match flow.direction() {
            Direction::Forward => {
                *self.sweep.holding.entry(flow.target()).or_default() += 1;
                if !stale && !flow.progress().closed() {
                    *self.sweep.open.entry(flow.target()).or_default() += 1;
                }
            }
            Direction::Reply => {
                *self.replies_holding.entry(flow.target()).or_default() += 1;
            }
        }
    }

    fn count_pending<A: Address>(&mut self, flow: &Flow<A>) {
        self.sweep.pending += 1;
        if flow.direction() == Direction::Forward {
            *self.sweep.holding.entry(flow.target()).or_default() += 1;
        }
    }

    /// A reply flow alone holds its target too.
    fn add_to(mut self, sweep: &mut Sweep) {
        for (target, replies) in self.replies_holding {
            let holding = self.sweep.holding.entry(target).or_default();
            *holding = replies.max(*holding);
        }
        sweep.holding.extend(self.sweep.holding);
        sweep.open.extend(self.sweep.open);
        sweep.flows += self.sweep.flows;
        sweep.forgotten += self.sweep.forgotten;
        sweep.unfinished |= self.sweep.unfinished;
        sweep.pending += self.sweep.pending;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_connection_rests() {
        let rests = Rests::default();
        let Timeouts {
            fin, reset, rest, ..
        } = rests.timeouts;
        let client_fin = Progress::CLIENT_FIN;
        let server_first = Progress::SERVER_FIN.with(Progress::SERVER_FIRST);
        let table = [
            (Progress(0), false, Service::IDLE_TIMEOUT),
            (client_fin, false, Service::IDLE_TIMEOUT),
            (server_first, false, Service::IDLE_TIMEOUT),
            (client_fin.with(Progress::SERVER_FIN), false, fin),
            (client_fin.with(server_first), false, rest),
            (Progress::RESET, false, reset),
            (Progress(0), true, STALE_REST),
            (
                client_fin.with(server_first).with(Progress::RESET),
                true,
                STALE_REST,
            ),
        ];
        for (progress, stale, expected) in table {
            let found = rests.of(ServiceId(1), progress, stale);
            assert_eq!(found, expected, "{progress:?} {stale}");
        }
    }

    #[test]
    fn each_service_has_its_own_idle_timeout() {
        let minute = Duration::from_secs(60);
        let rests = Rests {
            idle: [(ServiceId(1), minute)].into(),
            ..Rests::default()
        };
        assert_eq!(rests.of(ServiceId(1), Progress(0), false), minute);
        let other = rests.of(ServiceId(2), Progress(0), false);
        assert_eq!(other, Service::IDLE_TIMEOUT);
    }
}
