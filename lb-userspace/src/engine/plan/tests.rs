//! Plans lead to where they should, and are safe to stop at any step.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::config::Mode;
use crate::engine::fixtures::way;
use crate::engine::installed::Settings;

/// The length of a half; see `Content::Many`.
const HALF: u32 = 8;

/// A table of `contents.len()` services: `One(n)` one slot with target n,
/// `Many` a range in the half that its contents choose.
fn tables(contents: &[Content]) -> Installed {
    let mut tables = Installed::default();
    for (number, content) in contents.iter().enumerate() {
        let n = u32::try_from(number).unwrap();
        let (first_slot, slots, members, rules) = match content {
            Content::Absent => continue,
            Content::One(target) => (n, vec![*target], vec![], &[][..]),
            Content::Many(slots, rules) => {
                let half = slots.iter().sum::<u32>() % 2;
                let members: BTreeSet<u32> = slots.iter().copied().filter(|&id| id != 0).collect();
                let members = members.into_iter().collect();
                (
                    100 + (2 * n + half) * HALF,
                    slots.clone(),
                    members,
                    &rules[..],
                )
            }
        };
        let id = ServiceId(number as u16);
        let deny = rules.iter().any(|(_, access)| *access == Access::Allow);
        let default = if deny { Access::Deny } else { Access::Allow };
        let service = ServiceEntry {
            id,
            first_slot,
            slots: slots.len() as u32,
            members: members.len() as u32,
            settings: Settings {
                rules: (!rules.is_empty()).then_some(default),
                ..Settings::default()
            },
        };
        let range: Vec<TargetId> = [slots, members]
            .concat()
            .into_iter()
            .map(TargetId)
            .collect();
        for &id in range.iter().filter(|&&id| id != TargetId::NONE) {
            tables.targets.insert(id, target(id, true));
        }
        tables.slots.insert(first_slot, range);
        tables.services.insert(listen(number), service);
        let rules = rules.iter();
        tables
            .rules
            .extend(rules.map(|&(prefix, access)| ((id, prefix), access)));
    }
    for id in (1..6).map(TargetId) {
        tables.targets.entry(id).or_insert(target(id, false));
    }
    tables
}

fn target(id: TargetId, accepts: bool) -> TargetEntry {
    TargetEntry {
        service: ServiceId(0),
        listen: listen(0),
        server: SocketAddr::from(([10, 0, 0, id.0 as u8], 80)),
        mode: Mode::Nat,
        weight: 1,
        max_connections: None,
        accepts,
        way: way(),
    }
}

fn listen(number: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 100], 8000 + number as u16))
}

#[derive(Clone, Debug)]
enum Content {
    Absent,
    One(u32),
    Many(Vec<u32>, Vec<(IpNet, Access)>),
}

/// Services keep their kind: single slots first, ranges after them.
fn contents() -> impl Strategy<Value = Vec<Content>> {
    let one = prop_oneof![Just(Content::Absent), (0..5_u32).prop_map(Content::One)];
    let many = prop_oneof![
        // Differ by parity, so that a change goes to the other half.
        (1..5_u32).prop_map(|id| vec![id, 0, id, 0]),
        (1..5_u32).prop_map(|id| vec![id, 1 + id % 2, 0, 1]),
    ];
    let many = (many, rules()).prop_map(|(slots, rules)| Content::Many(slots, rules));
    let many = prop_oneof![1 => Just(Content::Absent), 3 => many];
    (
        prop::collection::vec(one, 3),
        prop::collection::vec(many, 2),
    )
        .prop_map(|(one, many)| [one, many].concat())
}

/// Prefixes of one address, so that all of them matter to it.
fn rules() -> impl Strategy<Value = Vec<(IpNet, Access)>> {
    let access = prop_oneof![Just(Access::Allow), Just(Access::Deny)];
    prop::collection::btree_map(0..=32_u8, access, 0..5).prop_map(|rules| {
        let rules = rules.into_iter();
        rules
            .map(|(length, access)| (IpNet::new(CLIENT, length).unwrap().trunc(), access))
            .collect()
    })
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));

/// What the kernel makes of the rules for one client.
fn access(tables: &Installed, listen: SocketAddr, client: IpAddr) -> Option<Access> {
    let service = tables.services.get(&listen)?;
    let default = service.settings.rules?;
    let rules = tables.rules.iter();
    let matching = rules.filter(|((id, net), _)| *id == service.id && net.contains(&client));
    let longest = matching.max_by_key(|((_, net), _)| net.prefix_len());
    Some(longest.map_or(default, |(_, &access)| access))
}

/// Ranges whose half is the one in use already cannot be written.
fn compatible(a: &Installed, b: &Installed) -> bool {
    b.services.iter().all(|(&listen, service)| {
        service.slots == 1
            || a.slots
                .get(&service.first_slot)
                .is_none_or(|range| range == b.range_of(listen))
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

    /// Half of its prefixes would be neither what the operator wrote
    /// before nor what he writes now.
    #[test]
    fn a_client_meets_the_old_rules_or_the_new_ones(
        a in contents(), b in contents(), end in any::<u8>(),
    ) {
        let (old, new) = (tables(&a), tables(&b));
        prop_assume!(compatible(&old, &new));
        let mut now = old.clone();
        let clients = [CLIENT, IpAddr::from([198, 51, 100, end]), IpAddr::from([198, end, 0, 1])];
        for op in plan(&old, &new, &cuts(&[])) {
            now.apply(&op);
            for &listen in now.services.keys() {
                for client in clients {
                    let free = |access: Option<Access>| access.unwrap_or(Access::Allow);
                    let found = free(access(&now, listen, client));
                    let meant = [&old, &new].map(|tables| {
                        tables.services.contains_key(&listen).then(|| free(access(tables, listen, client)))
                    });
                    prop_assert!(meant.contains(&Some(found)), "{:?} after {:?}", found, op);
                }
            }
        }
    }

    #[test]
    fn no_step_leaves_a_slot_that_names_a_target_which_is_missing_or_does_not_accept(a in contents(), b in contents()) {
        let (mut a, b) = (tables(&a), tables(&b));
        prop_assume!(compatible(&a, &b));
        for op in plan(&a, &b, &cuts(&[])) {
            a.apply(&op);
            for id in a.services.keys().flat_map(|&listen| a.selectable(listen)) {
                let accepts = a.targets.get(&id).is_some_and(|target| target.accepts);
                prop_assert!(accepts, "{:?} after {:?}", id, op);
            }
        }
    }
}

#[test]
fn a_leader_change_is_one_store_between_the_new_target_and_the_cut() {
    let (from, mut to) = (tables(&[Content::One(1)]), tables(&[Content::One(2)]));
    to.targets.remove(&TargetId(3));
    let ops = plan(&from, &to, &cuts(&[1]));
    let (accepting, refusing) = (target(TargetId(2), true), target(TargetId(1), false));
    let expected = [
        Op::SetTarget {
            id: TargetId(2),
            target: accepting,
        },
        store(0, &[TargetId(2)]),
        Op::SetTarget {
            id: TargetId(1),
            target: refusing,
        },
        Op::Cut { id: TargetId(1) },
        Op::ClearTarget { id: TargetId(3) },
    ];
    assert_eq!(ops, expected);
}

#[test]
fn a_bigger_table_is_written_to_the_idle_half_before_it_is_flipped() {
    let from = tables(&[Content::Many(vec![1, 1, 1, 1], vec![])]);
    let to = tables(&[Content::Many(vec![1, 1, 1, 2], vec![])]);
    let ops = plan(&from, &to, &cuts(&[]));
    let written = [1, 1, 1, 2, 1, 2].map(TargetId);
    let [Op::SetTarget { .. }, slots, Op::SetService { service, .. }] = &ops[..] else {
        panic!("{ops:?}");
    };
    assert_eq!(*slots, store(108, &written));
    assert_eq!(
        (service.first_slot, service.slots, service.members),
        (108, 4, 2)
    );
}

#[test]
fn a_setting_that_changes_is_one_step() {
    let from = tables(&[Content::Many(vec![1, 1, 1, 1], vec![])]);
    let mut to = from.clone();
    let service = to.services.get_mut(&listen(0)).unwrap();
    service.settings.max_connections = Some(7);
    let service = *service;
    let listen = listen(0);
    assert_eq!(
        plan(&from, &to, &cuts(&[])),
        [Op::SetService { listen, service }]
    );
}

#[test]
fn a_service_opens_after_its_rules_and_loses_them_after_it_closed() {
    let closed = tables(&[Content::Absent]);
    let rule = ("10.0.0.0/8".parse().unwrap(), Access::Allow);
    let open = tables(&[Content::Many(vec![1, 0, 1, 0], vec![rule])]);
    let order = |ops: &[Op]| -> Vec<bool> {
        let ops = ops.iter();
        ops.filter_map(|op| match op {
            Op::SetRule { .. } | Op::RemoveRule { .. } => Some(true),
            Op::SetService { .. } | Op::RemoveService { .. } => Some(false),
            _ => None,
        })
        .collect()
    };
    assert_eq!(order(&plan(&closed, &open, &cuts(&[]))), [true, false]);
    assert_eq!(order(&plan(&open, &closed, &cuts(&[]))), [false, true]);
}
