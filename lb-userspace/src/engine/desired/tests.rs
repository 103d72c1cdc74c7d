//! What the tables come to hold, and how they come to hold it.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::config::Algorithm;
use crate::engine::fixtures::way;
use crate::engine::plan::{Op, plan};

fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8081))
}

fn vip(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 100], port))
}

fn demand(port: u16, route: Route, reachable: &[u8], usable: &[u8]) -> Demand {
    let reachable = reachable.iter().map(|&number| Reachable {
        server: server(number),
        way: way(),
        weight: 1,
        max_connections: None,
        usable: usable.contains(&number),
    });
    Demand {
        listen: vip(port),
        route,
        settings: Settings::default(),
        mode: Mode::Nat,
        rules: BTreeMap::new(),
        half: 16_384,
        reachable: reachable.collect(),
    }
}

/// A round-robin service of servers 1, 2, … with these weights.
fn weighted(port: u16, weights: &[u32]) -> Demand {
    let all: Vec<u8> = (1..).take(weights.len()).collect();
    let mut demand = demand(port, Route::Any, &all, &all);
    demand.settings.algorithm = Algorithm::RoundRobin;
    demand.half = 64;
    for (one, &weight) in demand.reachable.iter_mut().zip(weights) {
        one.weight = weight;
    }
    demand
}

fn next(installed: &Installed, demands: &[Demand]) -> Installed {
    let (desired, left_out) = tables(installed, &BTreeMap::new(), demands, &BTreeSet::new());
    assert_eq!(left_out, []);
    desired
}

fn shares(tables: &Installed, port: u16) -> Vec<usize> {
    let slots = tables.slots_of(vip(port));
    let share = |id| slots.iter().filter(|&&slot| slot == id).count();
    tables
        .selectable(vip(port))
        .into_iter()
        .map(share)
        .collect()
}

#[test]
fn a_read_service_shares_its_slots_evenly() {
    let tables = next(
        &Installed::default(),
        &[demand(1, Route::Any, &[1, 2, 3], &[1, 2, 3])],
    );
    assert_eq!(shares(&tables, 1), [5120, 5120, 5119]);
    assert_eq!(tables.members_of(vip(1)), [1, 2, 3].map(TargetId));
}

#[test]
fn two_balancers_with_different_ids_fill_the_same_table() {
    let demands = [demand(1, Route::Any, &[1, 2], &[1, 2])];
    let here = next(&Installed::default(), &demands);
    // There, server 2 came first.
    let there = next(&Installed::default(), &[demand(1, Route::Any, &[2], &[2])]);
    let there = next(&there, &demands);
    let servers = |tables: &Installed| -> Vec<SocketAddr> {
        tables
            .slots_of(vip(1))
            .iter()
            .map(|id| tables.targets[id].server)
            .collect()
    };
    assert_ne!(
        here.slots_of(vip(1)),
        there.slots_of(vip(1)),
        "the ids differ"
    );
    assert_eq!(servers(&here), servers(&there));
}

#[test]
fn weights_share_out_the_turns_exactly_and_a_changed_one_anew() {
    let before = next(&Installed::default(), &[weighted(1, &[3, 2, 1])]);
    assert_eq!(before.slots_of(vip(1)), [1, 2, 1, 3, 2, 1].map(TargetId));
    assert_eq!(before.members_of(vip(1)), [1, 2, 3].map(TargetId));
    let after = next(&before, &[weighted(1, &[3, 3, 1])]);
    assert_eq!(shares(&after, 1), [3, 3, 1]);
    assert_eq!(after.targets[&TargetId(2)].weight, 3);
    let places = [&before, &after].map(|tables| tables.services[&vip(1)].first_slot);
    assert_eq!(places, [0, 64]);
}

#[test]
fn another_algorithm_needs_another_table_only_where_it_uses_it_otherwise() {
    let mut demand = weighted(1, &[3, 2, 1]);
    let before = next(&Installed::default(), std::slice::from_ref(&demand));
    demand.settings.algorithm = Algorithm::LeastConnections;
    let after = next(&before, std::slice::from_ref(&demand));
    assert_eq!(before.slots, after.slots);
    demand.settings.algorithm = Algorithm::SourceHash;
    demand.half = 16_384;
    let hashed = next(&after, &[demand]);
    assert_eq!(hashed.slots_of(vip(1)).len(), maglev::SLOTS);
    assert_eq!(shares(&hashed, 1), [7680, 5119, 2560]);
}

#[test]
fn servers_that_are_not_usable_or_not_asked_for_do_not_accept() {
    let accepting = |tables: &Installed| -> Vec<bool> {
        tables
            .targets
            .values()
            .map(|target| target.accepts)
            .collect()
    };
    let tables = next(
        &Installed::default(),
        &[demand(1, Route::Any, &[1, 2], &[1])],
    );
    assert_eq!(accepting(&tables), [true, false]);
    let unreachable = next(&tables, &[demand(1, Route::Any, &[2], &[2])]);
    assert_eq!(accepting(&unreachable), [false, true]);
    assert_eq!(accepting(&next(&tables, &[])), [false, false]);
}

#[test]
fn a_number_that_rules_bear_still_is_not_given_to_another_service() {
    let mut old = Installed::default();
    let rule = (ServiceId(0), "10.0.0.0/8".parse().unwrap());
    old.rules.insert(rule, Access::Deny);
    let new = next(&old, &[demand(1, Route::Any, &[1], &[1])]);
    assert_eq!(new.services[&vip(1)].id, ServiceId(1));
    assert_eq!(new.rules, BTreeMap::new());
}

#[test]
fn a_server_that_may_not_be_used_keeps_its_id_and_gets_no_slot() {
    let tables = next(
        &Installed::default(),
        &[demand(1, Route::Leader, &[1, 2], &[])],
    );
    assert_eq!(tables.targets.len(), 2);
    assert_eq!(tables.slots_of(vip(1)), [TargetId::NONE]);
}

#[test]
fn an_id_in_use_is_not_given_to_another_server_and_a_retired_one_is() {
    let old = next(&Installed::default(), &[demand(1, Route::Any, &[1], &[1])]);
    let new = [demand(1, Route::Any, &[2], &[2])];
    let kept = next(&old, &new);
    assert_eq!(kept.targets[&TargetId(1)].server, server(1));
    assert_eq!(kept.targets[&TargetId(2)].server, server(2));
    let (cleared, _) = tables(
        &kept,
        &BTreeMap::new(),
        &new,
        &BTreeSet::from([TargetId(1)]),
    );
    assert!(!cleared.targets.contains_key(&TargetId(1)));
    let reused = next(&cleared, &[demand(1, Route::Any, &[2, 3], &[2])]);
    assert_eq!(reused.targets[&TargetId(1)].server, server(3));
}

#[test]
fn a_service_number_is_not_reused_while_a_target_bears_it() {
    let one = |port| demand(port, Route::Any, &[1], &[1]);
    let old = next(&Installed::default(), &[one(1)]);
    let gone = next(&old, &[]);
    assert_eq!(gone.services.len(), 0);
    let new = next(&gone, &[one(2)]);
    assert_eq!(new.services[&vip(2)].id, ServiceId(1));
    let (cleared, _) = tables(&gone, &BTreeMap::new(), &[], &BTreeSet::from([TargetId(1)]));
    let new = next(&cleared, &[one(2)]);
    assert_eq!(new.services[&vip(2)].id, ServiceId(0));
}

#[test]
fn servers_beyond_the_last_id_are_left_out_and_named() {
    let numbers: Vec<u8> = (1..=255).collect();
    let demands: Vec<Demand> = (1..=129)
        .map(|port| demand(port, Route::Leader, &numbers, &[]))
        .collect();
    let (tables, left_out) = tables(
        &Installed::default(),
        &BTreeMap::new(),
        &demands,
        &BTreeSet::new(),
    );
    assert_eq!(tables.targets.len() as u32, TargetId::CAPACITY - 1);
    assert_eq!(left_out.len() as u32, 129 * 255 - (TargetId::CAPACITY - 1));
    assert!(
        left_out
            .iter()
            .all(|&(listen, server)| listen == vip(129) && server.is_some())
    );
}

fn demands() -> impl Strategy<Value = Vec<Demand>> {
    let servers = prop::sample::subsequence(vec![1, 2, 3, 4], 0..=4);
    let route = prop_oneof![Just(Route::Leader), Just(Route::Any)];
    let algorithm = prop_oneof![
        1 => Just(Algorithm::Maglev),
        3 => Just(Algorithm::RoundRobin),
        1 => Just(Algorithm::Random),
    ];
    let weights = prop::array::uniform4(1..5_u32);
    let limit = prop::option::of(1..3_u32);
    let rules = prop::collection::btree_map(0..4_u8, Just(Access::Deny), 0..3);
    let service = (route, servers, algorithm, weights, limit, rules);
    let service = prop::option::of(service).prop_map(|found| {
        found.map(|(route, mut usable, algorithm, weights, limit, rules)| {
            usable.truncate(if route == Route::Leader { 1 } else { 4 });
            let mut demand = demand(0, route, &[1, 2, 3, 4], &usable);
            demand.settings.algorithm = algorithm;
            demand.settings.max_connections = limit;
            if !algorithm.hashes() {
                demand.half = 32;
            }
            for (one, weight) in demand.reachable.iter_mut().zip(weights) {
                one.weight = weight;
            }
            let rules = rules.into_iter();
            demand.rules = rules
                .map(|(host, access)| (IpNet::from(IpAddr::from([10, 0, 0, host])), access))
                .collect();
            demand
        })
    });
    prop::collection::vec(service, 1..4).prop_map(|services| {
        let named = services.into_iter().enumerate();
        let named = named.filter_map(|(port, found)| found.map(|one| (port, one)));
        named
            .map(|(port, one)| Demand {
                listen: vip(port as u16),
                ..one
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The promise that `plan` asks of its `desired`.
    #[test]
    fn the_plan_to_the_next_tables_leads_there(steps in prop::collection::vec(demands(), 1..5)) {
        let mut installed = Installed::default();
        for demands in &steps {
            let desired = next(&installed, demands);
            for op in plan(&installed, &desired, &BTreeSet::new()) {
                let read = installed.services.values().map(|service| service.first_slot);
                if let Op::SetSlots { first, targets } = &op && targets.len() > 1 {
                    prop_assert!(!read.into_iter().any(|one| one == *first), "{:?}", op);
                }
                installed.apply(&op);
                for &listen in installed.services.keys() {
                    let found = installed.selectable(listen);
                    let accepts = |id| installed.targets.get(id).is_some_and(|one| one.accepts);
                    prop_assert!(found.iter().all(accepts), "after {:?}", op);
                    let slots = installed.slots_of(listen).iter().copied();
                    let named: BTreeSet<_> = slots.filter(|&id| id != TargetId::NONE).collect();
                    prop_assert_eq!(named, found, "after {:?}", op);
                }
            }
            prop_assert_eq!(&installed, &desired);
            prop_assert_eq!(&next(&installed, demands), &installed, "not settled");
        }
    }
}
