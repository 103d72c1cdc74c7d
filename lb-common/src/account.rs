//! What is open: each connection is counted once when its handshake is done,
//! and once when it is over, whoever sees that first.

use crate::addr::Address;
use crate::flow::{Direction, Flow, FlowKey, Progress, Tick};
use crate::service::{ServiceId, SourceKey};
use crate::tables::{FlowEntry, SourceEntry, Tables};
use crate::target::{Target, TargetId};

/// How many connections were open before another one was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// In all.
    pub all: u32,
    /// Of its service.
    pub service: u32,
    /// Of its source and service; 0 where nobody counts them.
    pub source: u32,
    /// Of its target.
    pub target: u32,
}

/// Counts a connection as open.
#[inline(always)]
pub fn open<A: Address, T: Tables<A>>(
    tables: &T,
    service: ServiceId,
    target: TargetId,
    client: A,
) -> Before {
    let source = tables.known_source(&SourceKey::new(client, service));
    Before {
        source: source.map_or(0, |source| source.open()),
        all: tables.open(TargetId::NONE),
        service: tables.service_open(service),
        target: tables.open(target),
    }
}

/// Counts a connection as over.
#[inline(always)]
pub fn close<A: Address, T: Tables<A>>(
    tables: &T,
    service: ServiceId,
    target: TargetId,
    client: A,
) {
    if let Some(source) = tables.known_source(&SourceKey::new(client, service)) {
        source.close();
    }
    tables.close(TargetId::NONE);
    tables.service_close(service);
    tables.close(target);
}

/// Sets marks of a connection to `target` in its forward flow, whichever flow
/// this is, and counts it as over if these marks are what ends it.
#[inline(always)]
pub fn advance<A: Address, T: Tables<A>>(
    tables: &T,
    (key, flow): (&FlowKey<A>, &Flow<A>),
    target: &Target<A>,
    entry: &T::FlowEntry,
    marks: impl FnOnce(Progress) -> Progress,
) {
    let before = match flow.direction() {
        Direction::Forward => {
            let marks = marks(flow.progress());
            (entry.advance(marks), marks)
        }
        Direction::Reply => {
            let Some(forward) = tables.flow(&flow.pair_key(key, target)) else {
                return;
            };
            let other = forward.get();
            // Replies have no room for marks.
            if other.direction() == Direction::Reply {
                return;
            }
            let marks = marks(other.progress());
            (forward.advance(marks), marks)
        }
    };
    let (before, marks) = before;
    if !before.closed() && before.with(marks).closed() {
        close(tables, target.service, flow.target(), flow.client(key));
    }
}

/// Takes a connection to `target` out of FLOWS; this is one half of it. A
/// pair's key that serves another connection by now stays: an agent that was
/// killed between two removals may have left this half alone.
#[inline(always)]
pub fn remove<A: Address, T: Tables<A>>(
    tables: &T,
    (key, flow): (&FlowKey<A>, &Flow<A>),
    target: &Target<A>,
    entry: &T::FlowEntry,
) {
    advance(tables, (key, flow), target, entry, |_| Progress::REMOVED);
    let pair = flow.pair_key(key, target);
    if target.mode().replies()
        && let Some(other) = tables.flow(&pair)
        && flow.is_paired_with(key, target, &other.get())
    {
        tables.remove_flow(&pair);
    }
    tables.remove_flow(key);
}

/// Takes a connection out of FLOWS for the agent; `key` is one half's. Not if
/// a segment has passed later than `idle_since`, in either direction. Whether
/// it did.
#[inline(always)]
pub fn reap<A: Address, T: Tables<A>>(tables: &T, key: &FlowKey<A>, idle_since: Tick) -> bool {
    let Some(entry) = tables.flow(key) else {
        return false;
    };
    let flow = entry.get();
    let Some(target) = tables.target(flow.target()) else {
        return false;
    };
    if flow.last_seen.is_after(idle_since) {
        return false;
    }
    if target.mode().replies()
        && let Some(other) = tables.flow(&flow.pair_key(key, &target))
    {
        let other = other.get();
        if flow.is_paired_with(key, &target, &other) && other.last_seen.is_after(idle_since) {
            return false;
        }
    }
    remove(tables, (key, &flow), &target, &entry);
    true
}
