//! The diff between the tables that are installed and those that we want, as
//! steps in an order that is safe to stop at any point.
//!
//! The order: targets, so that no slot ever names one that is not there; then
//! slots and services, the flip; then cuts, so that a client which is reset
//! and comes back at once finds the new table; then what nobody refers to any
//! more. Plain data in, plain data out: what the tables should hold is decided
//! by `desired`, and whose flows are cut by `departures`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::service::ServiceId;
use lb_common::target::{Hop, TargetId};

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

/// One server as one service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetEntry {
    /// The service.
    pub service: ServiceId,
    /// Where connections go.
    pub server: SocketAddr,
    /// What the server sees as its client's address.
    pub snat: IpAddr,
    /// The way to the server.
    pub hop: Hop,
}

/// A service, and where its table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service's number.
    pub id: ServiceId,
    /// The first of its slots.
    pub first_slot: u32,
    /// How many there are.
    pub slots: u32,
}

/// What the kernel's tables hold: as read back from the pinned maps at the
/// start, empty where there are none; and what we want them to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// By listener.
    pub services: BTreeMap<SocketAddr, ServiceEntry>,
    /// By id.
    pub targets: BTreeMap<TargetId, TargetEntry>,
    /// By first slot: the range of every service, and no other.
    pub slots: BTreeMap<u32, Vec<TargetId>>,
}

impl Installed {
    /// The table of the service at `listen`; empty where there is none.
    #[must_use]
    pub fn slots_of(&self, listen: SocketAddr) -> &[TargetId] {
        self.services
            .get(&listen)
            .and_then(|service| self.slots.get(&service.first_slot))
            .map_or(&[], Vec::as_slice)
    }

    /// The targets that the service at `listen` may give to new connections.
    #[must_use]
    pub fn selectable(&self, listen: SocketAddr) -> BTreeSet<TargetId> {
        let slots = self.slots_of(listen).iter().copied();
        slots.filter(|&id| id != TargetId::NONE).collect()
    }

    /// What one step does to the tables.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetTarget { id, target } => {
                self.targets.insert(*id, *target);
            }
            Op::SetSlots { first, targets } => {
                self.slots.insert(*first, targets.clone());
            }
            Op::SetService { listen, service } => {
                let before = self.services.insert(*listen, *service);
                if let Some(before) = before
                    && before.first_slot != service.first_slot
                {
                    self.slots.remove(&before.first_slot);
                }
            }
            Op::RemoveService { listen } => {
                if let Some(service) = self.services.remove(listen) {
                    self.slots.remove(&service.first_slot);
                }
            }
            Op::Cut { .. } => {}
            Op::ClearTarget { id } => {
                self.targets.remove(id);
            }
        }
    }
}

/// The steps from `installed` to `desired`, and the cuts between them.
///
/// `desired` must have taken the range of every service that changes from
/// what `installed` does not use (a single slot is changed in place).
#[must_use]
pub fn plan(installed: &Installed, desired: &Installed, cuts: &BTreeSet<TargetId>) -> Vec<Op> {
    let mut ops = Vec::new();
    for (&id, &target) in &desired.targets {
        if installed.targets.get(&id) != Some(&target) {
            ops.push(Op::SetTarget { id, target });
        }
    }
    let withdrawn = withdrawals(installed, desired);
    ops.extend(withdrawn.iter().map(|&first| store(first, EMPTY)));
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
        let targets = desired.slots_of(listen);
        if now != Some(targets) {
            ops.push(store(first, targets));
        }
        if installed.services.get(&listen) != Some(&service) {
            ops.push(Op::SetService { listen, service });
        }
    }
    ops.extend(cuts.iter().map(|&id| Op::Cut { id }));
    for &id in installed.targets.keys() {
        if !desired.targets.contains_key(&id) {
            ops.push(Op::ClearTarget { id });
        }
    }
    ops
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
    let single = |tables: &Installed, listen| match tables.slots_of(listen) {
        &[id] if id != TargetId::NONE => Some(id),
        _ => None,
    };
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANY: u32 = 4;

    /// A table of `contents.len()` services: `Some(n)` one slot with target
    /// n, `None` a range in the half that `half` names.
    fn tables(contents: &[Content]) -> Installed {
        let mut tables = Installed::default();
        for (number, content) in contents.iter().enumerate() {
            let n = u32::try_from(number).unwrap();
            let (first_slot, slots) = match content {
                Content::Absent => continue,
                Content::One(target) => (n, vec![TargetId(*target)]),
                Content::Many(targets) => {
                    let half = targets.iter().sum::<u32>() % 2;
                    (
                        100 + (2 * n + half) * MANY,
                        targets.iter().copied().map(TargetId).collect(),
                    )
                }
            };
            let service = ServiceEntry {
                id: ServiceId(number as u16),
                first_slot,
                slots: slots.len() as u32,
            };
            for &id in slots.iter().filter(|&&id| id != TargetId::NONE) {
                let target = TargetEntry {
                    service: ServiceId(0),
                    server: SocketAddr::from(([10, 0, 0, id.0 as u8], 80)),
                    snat: IpAddr::from([10, 0, 0, 100]),
                    hop: Hop::default(),
                };
                tables.targets.insert(id, target);
            }
            tables.slots.insert(first_slot, slots);
            tables.services.insert(listen(number), service);
        }
        tables
    }

    fn listen(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 100], 8000 + number as u16))
    }

    #[derive(Clone, Debug)]
    enum Content {
        Absent,
        One(u32),
        Many(Vec<u32>),
    }

    /// Services keep their kind: single slots first, ranges after them.
    fn contents() -> impl Strategy<Value = Vec<Content>> {
        let one = prop_oneof![Just(Content::Absent), (0..5_u32).prop_map(Content::One)];
        let many = prop_oneof![
            Just(Content::Absent),
            // Differ by parity, so that a change goes to the other half.
            (1..5_u32).prop_map(|id| Content::Many(vec![id, 0, id, 0])),
            (1..5_u32).prop_map(|id| Content::Many(vec![id, 1 + id % 2, 0, 1])),
        ];
        (
            prop::collection::vec(one, 3),
            prop::collection::vec(many, 2),
        )
            .prop_map(|(one, many)| [one, many].concat())
    }

    /// Ranges whose half is the one in use already cannot be written.
    fn compatible(a: &Installed, b: &Installed) -> bool {
        b.services.iter().all(|(&listen, service)| {
            service.slots == 1
                || a.slots
                    .get(&service.first_slot)
                    .is_none_or(|slots| slots == b.slots_of(listen))
        })
    }

    fn cuts(ids: &[u32]) -> BTreeSet<TargetId> {
        ids.iter().copied().map(TargetId).collect()
    }

    proptest! {
        #[test]
        fn a_plan_from_a_table_to_itself_is_empty(contents in contents()) {
            let tables = tables(&contents);
            prop_assert_eq!(plan(&tables, &tables, &cuts(&[])), vec![]);
        }

        #[test]
        fn applying_the_plan_from_a_to_b_gives_b(a in contents(), b in contents()) {
            let (mut a, b) = (tables(&a), tables(&b));
            prop_assume!(compatible(&a, &b));
            for op in plan(&a, &b, &cuts(&[1, 2])) {
                a.apply(&op);
            }
            prop_assert_eq!(a, b);
        }

        /// The three single slots are write services of one pool: whichever
        /// targets they name, it must be the same one. Here all three go from
        /// one target to another.
        #[test]
        fn at_every_prefix_there_is_one_writer_at_most(
            old in 0..5_u32, new in 0..5_u32, present in prop::array::uniform3(any::<[bool; 2]>()),
        ) {
            let side = |side: usize, id| {
                let one = |on: bool| if on { Content::One(id) } else { Content::Absent };
                tables(&present.map(|p| one(p[side])))
            };
            let (mut now, desired) = (side(0, old), side(1, new));
            let ops = plan(&now, &desired, &cuts(&[]));
            for op in ops {
                now.apply(&op);
                let writers: BTreeSet<_> =
                    now.services.keys().flat_map(|&listen| now.selectable(listen)).collect();
                prop_assert!(writers.len() <= 1, "{:?} after {:?}", writers, op);
            }
            prop_assert_eq!(now, desired);
        }

        #[test]
        fn no_step_leaves_a_slot_that_names_a_missing_target(a in contents(), b in contents()) {
            let (mut a, b) = (tables(&a), tables(&b));
            prop_assume!(compatible(&a, &b));
            for op in plan(&a, &b, &cuts(&[])) {
                a.apply(&op);
                for id in a.services.keys().flat_map(|&listen| a.selectable(listen)) {
                    prop_assert!(a.targets.contains_key(&id), "{:?} after {:?}", id, op);
                }
            }
        }
    }

    #[test]
    fn a_leader_change_is_one_store_between_the_new_target_and_the_cut() {
        let (from, to) = (tables(&[Content::One(1)]), tables(&[Content::One(2)]));
        let ops = plan(&from, &to, &cuts(&[1]));
        assert!(
            matches!(
                &ops[..],
                [
                    Op::SetTarget { id: TargetId(2), .. },
                    Op::SetSlots { first: 0, targets },
                    Op::Cut { id: TargetId(1) },
                    Op::ClearTarget { id: TargetId(1) },
                ] if *targets == [TargetId(2)]
            ),
            "{ops:?}"
        );
    }

    #[test]
    fn a_bigger_table_is_written_to_the_idle_half_before_it_is_flipped() {
        let from = tables(&[Content::Many(vec![1, 1, 1, 1])]);
        let to = tables(&[Content::Many(vec![1, 1, 1, 2])]);
        let ops = plan(&from, &to, &cuts(&[]));
        assert!(
            matches!(
                &ops[..],
                [
                    Op::SetTarget {
                        id: TargetId(2),
                        ..
                    },
                    Op::SetSlots { first: 104, .. },
                    Op::SetService {
                        service: ServiceEntry {
                            first_slot: 104,
                            ..
                        },
                        ..
                    },
                ]
            ),
            "{ops:?}"
        );
    }
}
