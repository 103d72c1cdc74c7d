//! The diff between the tables that are installed and those that we want, as
//! steps in an order that is safe to stop at any point.
//!
//! The order: targets, so that no slot ever names one that is not there or
//! does not accept; rules, so that no service opens without its own; then slots
//! and services, the flip; then the targets that accept no more, and cuts, so
//! that a client which is reset and comes back at once finds the new table;
//! then what nobody refers to any more. Plain data in, plain data out: what the
//! tables should hold is decided by `desired`, and whose flows are cut by
//! `departures`.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::config::Access;
use crate::engine::installed::{Installed, ServiceEntry, TargetEntry};

/// One step of a plan. The shell applies the steps in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `TARGETS[id] = target`.
    SetTarget {
        /// Never [`TargetId::NONE`].
        id: TargetId,
        /// Same service and server as before, if something was installed.
        target: TargetEntry,
    },
    /// `SLOTS[first..] = targets`: one aligned store where it is one slot, and
    /// otherwise a range that no service reads yet.
    SetSlots {
        /// The first slot.
        first: u32,
        /// The slots' targets.
        targets: Vec<TargetId>,
    },
    /// `SERVICES[listen] = service`: swaps a service's whole table.
    SetService {
        /// The VIP and port.
        listen: SocketAddr,
        /// Where its slots are.
        service: ServiceEntry,
    },
    /// Connections to this listener are not ours any more.
    RemoveService {
        /// The VIP and port.
        listen: SocketAddr,
    },
    /// `PREFIXES[service, prefix] = access`.
    SetRule {
        /// The service.
        service: ServiceId,
        /// Whose addresses.
        prefix: IpNet,
        /// Whether they may connect.
        access: Access,
    },
    /// `PREFIXES[service, prefix]` is gone: a shorter prefix decides, or the
    /// service's default.
    RemoveRule {
        /// The service.
        service: ServiceId,
        /// Whose addresses.
        prefix: IpNet,
    },
    /// `GENERATIONS[id] += 1`: from now on every flow of the target is stale.
    /// The shell then provokes a segment at both ends of each.
    Cut {
        /// The target.
        id: TargetId,
    },
    /// `TARGETS[id]` is empty. No flow holds the id.
    ClearTarget {
        /// The target.
        id: TargetId,
    },
}

/// The steps from `installed` to `desired`, and the cuts between them.
///
/// `desired` must have taken the range of every service that changes from
/// what `installed` does not use (a single slot is changed in place).
#[must_use]
pub fn plan(installed: &Installed, desired: &Installed, cuts: &BTreeSet<TargetId>) -> Vec<Op> {
    let mut ops = prepare(installed, desired);
    ops.extend(flip(installed, desired));
    for (&id, &target) in &desired.targets {
        let before = installed.targets.get(&id);
        if !target.accepts && before.is_some_and(|before| before.accepts) {
            ops.push(Op::SetTarget { id, target });
        }
    }
    ops.extend(cuts.iter().map(|&id| Op::Cut { id }));
    ops.extend(clear(installed, desired));
    ops
}

/// What nobody looks at before the flip: targets, and the rules that are new.
fn prepare(installed: &Installed, desired: &Installed) -> Vec<Op> {
    let mut ops = Vec::new();
    for (&id, &target) in &desired.targets {
        let before = installed.targets.get(&id);
        let accepts = target.accepts || before.is_some_and(|before| before.accepts);
        let target = TargetEntry { accepts, ..target };
        if before != Some(&target) {
            ops.push(Op::SetTarget { id, target });
        }
    }
    // The longest first, and removed last: whichever of old and new rules are
    // there, the longest that matches is the one that decides in the old
    // tables or in the new ones. No client meets a verdict of neither.
    let new = desired.rules.iter();
    let mut new: Vec<_> = new
        .filter(|&(rule, access)| installed.rules.get(rule) != Some(access))
        .collect();
    new.sort_by_key(|((_, prefix), _)| Reverse(prefix.prefix_len()));
    ops.extend(
        new.into_iter()
            .map(|(&(service, prefix), &access)| Op::SetRule {
                service,
                prefix,
                access,
            }),
    );
    ops
}

/// The slots and the services.
fn flip(installed: &Installed, desired: &Installed) -> Vec<Op> {
    let withdrawn = withdrawals(installed, desired);
    let mut ops: Vec<Op> = withdrawn.iter().map(|&first| store(first, EMPTY)).collect();
    for &listen in installed.services.keys() {
        if !desired.services.contains_key(&listen) {
            ops.push(Op::RemoveService { listen });
        }
    }
    for (&listen, &service) in &desired.services {
        let first = service.first_slot;
        let now = match installed.slots.get(&first) {
            Some(_) if withdrawn.contains(&first) => Some(EMPTY),
            now => now.map(Vec::as_slice),
        };
        let range = desired.range_of(listen);
        if now != Some(range) {
            ops.push(store(first, range));
        }
        if installed.services.get(&listen) != Some(&service) {
            ops.push(Op::SetService { listen, service });
        }
    }
    ops
}

/// What nobody refers to after the flip and the cuts.
fn clear(installed: &Installed, desired: &Installed) -> Vec<Op> {
    let old = installed.rules.keys();
    let mut old: Vec<_> = old
        .filter(|rule| !desired.rules.contains_key(rule))
        .collect();
    old.sort_by_key(|(_, prefix)| prefix.prefix_len());
    let rules = old
        .into_iter()
        .map(|&(service, prefix)| Op::RemoveRule { service, prefix });
    let targets = installed.targets.keys();
    let targets = targets
        .filter(|id| !desired.targets.contains_key(id))
        .map(|&id| Op::ClearTarget { id });
    rules.chain(targets).collect()
}

const EMPTY: &[TargetId] = &[TargetId::NONE];

fn store(first: u32, targets: &[TargetId]) -> Op {
    let targets = targets.to_vec();
    Op::SetSlots { first, targets }
}

/// Single slots that have to be empty before any other is filled.
///
/// One write service moves from leader to leader in one store. Two write
/// services of one pool cannot: while the first has moved and the second has
/// not, there would be two writers. So where several change, all let go first.
fn withdrawals(installed: &Installed, desired: &Installed) -> BTreeSet<u32> {
    let single = Installed::writer_of;
    let listeners: BTreeSet<SocketAddr> = installed
        .services
        .keys()
        .chain(desired.services.keys())
        .copied()
        .collect();
    let changing: Vec<SocketAddr> = listeners
        .into_iter()
        .filter(|&listen| single(installed, listen) != single(desired, listen))
        .collect();
    changing
        .iter()
        .filter(|&&listen| single(installed, listen).is_some())
        .filter(|&&listen| changing.len() > 1 || single(desired, listen).is_none())
        .filter_map(|listen| installed.services.get(listen))
        .map(|service| service.first_slot)
        .collect()
}

#[cfg(test)]
mod tests;
