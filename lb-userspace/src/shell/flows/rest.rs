//! When a connection is forgotten, and the sweep that forgets.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use lb_common::addr::Ipv4;
use lb_common::flow::{Direction, Flow, Pending, Progress, Tick};
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use super::Sweep;
use super::table::{FlowTable, Generations, Key, now};
use crate::shell::batch::Walk;

const SLICE: usize = 4096;

/// How long a connection rests when the server sent its FIN first: as long as
/// Linux keeps TIME_WAIT. Its source port serves nobody else meanwhile.
const TIME_WAIT_REST: Duration = Duration::from_secs(60);

/// How long it rests when the client did: for stragglers.
const CLOSED_REST: Duration = Duration::from_secs(10);

/// How long it rests after a RST. The RST may have been a forgery that both
/// ends ignore; whoever goes on talking is not forgotten.
const RESET_REST: Duration = Duration::from_secs(10);

/// How long a stale connection stays, so that its ends get their RST.
pub(super) const STALE_REST: Duration = Duration::from_secs(5);

/// How long a handshake may take: Linux gives up on a SYN after 127 s, and
/// has long sent it anew by then.
const HANDSHAKE_REST: Duration = Duration::from_secs(130);

/// Idle timeout of a service that is not configured any more.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(350);

/// How long a connection may go without a segment before it is forgotten.
fn rest(progress: Progress, stale: bool, idle_timeout: Duration) -> Duration {
    if stale {
        STALE_REST
    } else if progress.reset != 0 {
        RESET_REST.min(idle_timeout)
    } else if !progress.closed() {
        idle_timeout
    } else if progress.server_fin == Progress::FIRST {
        TIME_WAIT_REST
    } else {
        CLOSED_REST
    }
}

/// Walks over all connections, forgets those whose time has come, and counts
/// the others. The stale ones of `cut` stay for now: their ends are yet to
/// be provoked.
pub(super) fn sweep(
    table: &mut FlowTable,
    idle_timeouts: &BTreeMap<ServiceId, Duration>,
    cut: &[TargetId],
) -> io::Result<Sweep> {
    let mut census = Census::default();
    let generations = table.generations()?;
    let now = now();
    let mut walk = Walk::<_, Key, Flow<Ipv4>>::new(table.flows_walk.fd(), SLICE);
    let mut overdue = Vec::new();
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            let stale = generations.outdate(flow);
            census.count_flow(flow, stale);
            if stale && cut.contains(&flow.target) {
                continue;
            }
            let timeout = idle_timeouts.get(&flow.service).copied();
            let rest = rest(
                flow.progress,
                stale,
                timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            );
            if flow.direction() == Direction::Forward && idle(flow, now) >= rest {
                overdue.push((*key, rest));
            }
        }
    }
    let orphans_possible = census.forward != census.reply;
    for (key, rest) in overdue {
        forget(table, &key, rest, now, &mut census)?;
    }
    if orphans_possible {
        forget_orphans(table, now)?;
    }
    sweep_pending(table, &generations, now, &mut census)?;
    Ok(census.into_sweep())
}

fn idle(flow: &Flow<Ipv4>, now: Tick) -> Duration {
    Duration::from_millis(flow.last_seen.milliseconds_before(now))
}

/// Forgets a connection, if neither direction has seen a segment for `rest`.
/// Looks again just before it does: the kernel may have put a new connection
/// in the place of the finished one.
fn forget(
    table: &mut FlowTable,
    key: &Key,
    rest: Duration,
    now: Tick,
    census: &mut Census,
) -> io::Result<()> {
    let Some(flow) = table.flow(key).map_err(io::Error::other)? else {
        return Ok(());
    };
    let pair = flow.pair_key();
    let reply = table.flow(&pair).map_err(io::Error::other)?;
    // A reverse key that serves another connection by now is not ours.
    let reply = reply.filter(|reply| reply.pair_key() == *key);
    let alive = |flow: &Flow<Ipv4>| idle(flow, now) < rest;
    if alive(&flow) || reply.as_ref().is_some_and(alive) {
        return Ok(());
    }
    if reply.is_some() {
        remove(&mut table.flows, &pair)?;
    }
    remove(&mut table.flows, key)?;
    census.forgotten(&flow, reply.is_some());
    Ok(())
}

/// Forgets reply flows whose other half is gone: what an agent left that was
/// killed between two removals.
fn forget_orphans(table: &mut FlowTable, now: Tick) -> io::Result<()> {
    let mut orphans = Vec::new();
    let mut walk = Walk::<_, Key, Flow<Ipv4>>::new(table.flows_walk.fd(), SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            if flow.direction() == Direction::Reply
                && idle(flow, now) >= CLOSED_REST
                && table
                    .flow(&flow.pair_key())
                    .map_err(io::Error::other)?
                    .is_none()
            {
                orphans.push(*key);
            }
        }
    }
    for key in orphans {
        remove(&mut table.flows, &key)?;
    }
    Ok(())
}

/// Forgets handshakes that nobody will finish, so that they do not hold a
/// target for ever where no new ones push them out.
fn sweep_pending(
    table: &mut FlowTable,
    generations: &Generations,
    now: Tick,
    census: &mut Census,
) -> io::Result<()> {
    let mut overdue = Vec::new();
    let mut walk = Walk::<_, Key, Pending<Ipv4>>::new(table.pending_walk.fd(), SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, pending) in entries {
            let stale = generations.outdate(&pending.flow);
            let rest = if stale { STALE_REST } else { HANDSHAKE_REST };
            if idle(&pending.flow, now) >= rest {
                overdue.push(*key);
            } else {
                census.count_pending(&pending.flow);
            }
        }
    }
    for key in overdue {
        remove(&mut table.pending, &key)?;
    }
    Ok(())
}

/// Removes an entry; one that the kernel has removed already is as good.
fn remove<V: aya::Pod>(map: &mut HashMap<MapData, Key, V>, key: &Key) -> io::Result<()> {
    match map.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(())
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The count of a sweep in progress.
#[derive(Debug, Default)]
struct Census {
    sweep: Sweep,
    forward: u64,
    reply: u64,
    replies_holding: BTreeMap<TargetId, u64>,
}

impl Census {
    fn count_flow(&mut self, flow: &Flow<Ipv4>, stale: bool) {
        self.sweep.flows += 1;
        match flow.direction() {
            Direction::Forward => {
                self.forward += 1;
                *self.sweep.holding.entry(flow.target).or_default() += 1;
                if !stale && !flow.progress.closed() {
                    *self.sweep.open.entry(flow.target).or_default() += 1;
                }
            }
            Direction::Reply => {
                self.reply += 1;
                *self.replies_holding.entry(flow.target).or_default() += 1;
            }
        }
    }

    fn count_pending(&mut self, flow: &Flow<Ipv4>) {
        self.sweep.pending += 1;
        if flow.direction() == Direction::Forward {
            *self.sweep.holding.entry(flow.target).or_default() += 1;
        }
    }

    fn forgotten(&mut self, flow: &Flow<Ipv4>, with_reply: bool) {
        self.sweep.flows -= 1 + u64::from(with_reply);
        less(&mut self.sweep.holding, flow.target);
        if with_reply {
            less(&mut self.replies_holding, flow.target);
        }
    }

    /// A reply flow alone holds its target too.
    fn into_sweep(mut self) -> Sweep {
        for (target, replies) in self.replies_holding {
            let holding = self.sweep.holding.entry(target).or_default();
            *holding = replies.max(*holding);
        }
        self.sweep.holding.retain(|_, count| *count > 0);
        self.sweep
    }
}

fn less(counts: &mut BTreeMap<TargetId, u64>, target: TargetId) {
    if let Some(count) = counts.get_mut(&target) {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(350);

    fn progress(client_fin: u8, server_fin: u8, reset: u8) -> Progress {
        Progress {
            client_fin,
            server_fin,
            reset,
            answered: 0,
        }
    }

    #[test]
    fn how_long_a_connection_rests() {
        let table = [
            (progress(0, 0, 0), false, IDLE),
            (progress(1, 0, 0), false, IDLE),
            (progress(0, Progress::FIRST, 0), false, IDLE),
            (progress(1, 1, 0), false, CLOSED_REST),
            (progress(1, Progress::FIRST, 0), false, TIME_WAIT_REST),
            (progress(0, 0, 1), false, RESET_REST),
            (progress(0, 0, 0), true, STALE_REST),
            (progress(1, Progress::FIRST, 1), true, STALE_REST),
        ];
        for (progress, stale, expected) in table {
            assert_eq!(
                rest(progress, stale, IDLE),
                expected,
                "{progress:?} {stale}"
            );
        }
    }
}
