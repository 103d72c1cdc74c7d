//! What the kernel's tables should hold.
//!
//! From what each service asks for ([`Demand`]) to a whole [`Installed`]:
//! ids, the places of the tables in SLOTS, and their contents. What is
//! installed already decides nothing but ids and places: those never move
//! without need. Health and roles end at [`choose`].

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::config::Route;
use crate::engine::event::{NextHop, Role};
use crate::engine::health::Phase;
use crate::engine::maglev;
use crate::engine::plan::{Installed, ServiceEntry, TargetEntry};
use crate::engine::space::Space;

/// One server, as far as routes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where its connections go.
    pub server: SocketAddr,
    /// Whether its checks let it be used.
    pub phase: Phase,
    /// The role that the pool grants it: `Leader` for one server at most,
    /// whatever others claim.
    pub role: Role,
}

/// The servers that a route may use.
#[must_use]
pub fn choose(route: Route, standings: &[Standing]) -> Vec<SocketAddr> {
    let up = |accepts: &dyn Fn(Role) -> bool| -> Vec<SocketAddr> {
        let usable = standings
            .iter()
            .filter(|one| one.phase.is_up() && accepts(one.role));
        usable.map(|one| one.server).collect()
    };
    match route {
        Route::Leader => up(&|role| role == Role::Leader),
        Route::Replicas => up(&|role| role == Role::Replica),
        Route::ReplicasFirst => match up(&|role| role == Role::Replica) {
            replicas if replicas.is_empty() => up(&|role| role == Role::Leader),
            replicas => replicas,
        },
        Route::Any => up(&|_| true),
    }
}

/// What one service asks of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The VIP and port.
    pub listen: SocketAddr,
    /// A single slot or a Maglev table.
    pub route: Route,
    /// All of its servers to which the way is known.
    pub reachable: Vec<(SocketAddr, NextHop)>,
    /// Those of them that may get new connections.
    pub usable: Vec<SocketAddr>,
}

/// A service, or a server of it, for which the kernel's tables have no room.
pub type NoRoom = (SocketAddr, Option<SocketAddr>);

/// The tables that meet `demands`, and what found no room in them. Installed
/// targets that no demand names stay, except those in `retired`.
#[must_use]
pub fn tables(
    installed: &Installed,
    demands: &[Demand],
    retired: &BTreeSet<TargetId>,
) -> (Installed, Vec<NoRoom>) {
    let mut desired = Installed {
        targets: installed.targets.clone(),
        ..Installed::default()
    };
    let mut left_out = Vec::new();
    for demand in demands {
        let Some(service) = service_id(installed, &desired, demand.listen) else {
            left_out.push((demand.listen, None));
            continue;
        };
        let mut members = Vec::new();
        for &(server, NextHop { hop, snat }) in &demand.reachable {
            let Some(id) = target_id(&desired, service, server) else {
                left_out.push((demand.listen, Some(server)));
                continue;
            };
            desired.targets.insert(
                id,
                TargetEntry {
                    service,
                    server,
                    snat,
                    hop,
                },
            );
            if demand.usable.contains(&server) {
                members.push((server, id));
            }
        }
        let slots = slots(installed, demand, &members);
        let Some(first_slot) = place(installed, &desired, demand.listen, &slots) else {
            left_out.push((demand.listen, None));
            continue;
        };
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let entry = ServiceEntry {
            id: service,
            first_slot,
            slots: count,
        };
        desired.services.insert(demand.listen, entry);
        desired.slots.insert(first_slot, slots);
    }
    // Only now: an id that retires in this plan must not return in it.
    desired.targets.retain(|id, _| !retired.contains(id));
    (desired, left_out)
}

/// The number of the service at `listen`: as installed, or one that neither a
/// service nor a target bears.
fn service_id(installed: &Installed, desired: &Installed, listen: SocketAddr) -> Option<ServiceId> {
    if let Some(service) = installed.services.get(&listen) {
        return Some(service.id);
    }
    let services = installed.services.values().chain(desired.services.values());
    let taken: BTreeSet<ServiceId> = services
        .map(|service| service.id)
        .chain(desired.targets.values().map(|target| target.service))
        .collect();
    let capacity = u16::try_from(ServiceId::CAPACITY).unwrap_or(u16::MAX);
    (0..capacity).map(ServiceId).find(|id| !taken.contains(id))
}

/// The id of `server` in `service`: as it is, or one that is not in use.
fn target_id(desired: &Installed, service: ServiceId, server: SocketAddr) -> Option<TargetId> {
    let mut targets = desired.targets.iter();
    targets
        .find(|(_, target)| target.service == service && target.server == server)
        .map(|(&id, _)| id)
        .or_else(|| {
            let ids = (1..TargetId::CAPACITY).map(TargetId);
            ids.into_iter().find(|id| !desired.targets.contains_key(id))
        })
}

/// The contents of a service's table. A table that has the right members
/// already stays as it is.
fn slots(
    installed: &Installed,
    demand: &Demand,
    members: &[(SocketAddr, TargetId)],
) -> Vec<TargetId> {
    let single = demand.route == Route::Leader;
    if single {
        return vec![members.first().map_or(TargetId::NONE, |&(_, id)| id)];
    }
    let now = installed.slots_of(demand.listen);
    let ids: BTreeSet<TargetId> = members.iter().map(|&(_, id)| id).collect();
    if now.len() == maglev::SLOTS && installed.selectable(demand.listen) == ids {
        return now.to_vec();
    }
    if members.is_empty() {
        return vec![TargetId::NONE; maglev::SLOTS];
    }
    // By address, not by id: ids depend on a balancer's history.
    let mut members = members.to_vec();
    members.sort_unstable();
    let keys: Vec<String> = members
        .iter()
        .map(|(server, _)| server.to_string())
        .collect();
    let table = maglev::fill(&keys);
    table.into_iter().map(|member| members[member].1).collect()
}

/// Where a service's table goes: it stays where its contents do not change; a
/// single slot is changed in place; a Maglev table goes to the idle half.
fn place(
    installed: &Installed,
    desired: &Installed,
    listen: SocketAddr,
    slots: &[TargetId],
) -> Option<u32> {
    let now = installed
        .services
        .get(&listen)
        .map(|service| service.first_slot);
    if installed.slots_of(listen) == slots {
        return now;
    }
    let space = Space::of([installed, desired]);
    if slots.len() > 1 {
        return now
            .and_then(|half| space.idle(half))
            .or_else(|| space.table());
    }
    let in_place = now.filter(|_| installed.slots_of(listen).len() == 1);
    in_place.or_else(|| space.single())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::target::Hop;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::plan::plan;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 8081))
    }

    fn vip(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 100], port))
    }

    fn standing(number: u8, phase: Phase, role: Role) -> Standing {
        Standing {
            server: server(number),
            phase,
            role,
        }
    }

    /// Every route times every kind of server, alone and beside the others.
    #[test]
    fn routes() {
        let all = [
            standing(1, Phase::UP, Role::Leader),
            standing(2, Phase::UP, Role::Replica),
            standing(3, Phase::DOWN, Role::Replica),
            standing(4, Phase::UP, Role::Unknown),
            standing(5, Phase::Unchecked, Role::Replica),
            standing(6, Phase::Up { failures: 1 }, Role::Replica),
        ];
        let no_replica = [all[0], all[2], all[3], all[4]];
        let nobody = [all[2], all[4]];
        let table: &[(Route, &[Standing], &[u8])] = &[
            (Route::Leader, &all, &[1]),
            (Route::Leader, &no_replica, &[1]),
            (Route::Leader, &nobody, &[]),
            (Route::Replicas, &all, &[2, 6]),
            (Route::Replicas, &no_replica, &[]),
            (Route::Replicas, &nobody, &[]),
            (Route::ReplicasFirst, &all, &[2, 6]),
            (Route::ReplicasFirst, &no_replica, &[1]),
            (Route::ReplicasFirst, &nobody, &[]),
            (Route::Any, &all, &[1, 2, 4, 6]),
            (Route::Any, &no_replica, &[1, 4]),
            (Route::Any, &nobody, &[]),
        ];
        for (route, standings, expected) in table {
            let expected: Vec<_> = expected.iter().copied().map(server).collect();
            assert_eq!(
                choose(*route, standings),
                expected,
                "{route} of {standings:?}"
            );
        }
    }

    fn demand(port: u16, route: Route, reachable: &[u8], usable: &[u8]) -> Demand {
        let way = NextHop {
            hop: Hop::default(),
            snat: IpAddr::from([10, 0, 0, 100]),
        };
        Demand {
            listen: vip(port),
            route,
            reachable: reachable
                .iter()
                .map(|&number| (server(number), way))
                .collect(),
            usable: usable.iter().copied().map(server).collect(),
        }
    }

    fn next(installed: &Installed, demands: &[Demand]) -> Installed {
        let (desired, left_out) = tables(installed, demands, &BTreeSet::new());
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
        assert_eq!(shares(&tables, 1), [5461, 5460, 5460]);
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
        let (cleared, _) = tables(&kept, &new, &BTreeSet::from([TargetId(1)]));
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
        let (cleared, _) = tables(&gone, &[], &BTreeSet::from([TargetId(1)]));
        let new = next(&cleared, &[one(2)]);
        assert_eq!(new.services[&vip(2)].id, ServiceId(0));
    }

    #[test]
    fn servers_beyond_the_last_id_are_left_out_and_named() {
        let numbers: Vec<u8> = (1..=255).collect();
        let demands: Vec<Demand> = (1..=17)
            .map(|port| demand(port, Route::Leader, &numbers, &[]))
            .collect();
        let (tables, left_out) = tables(&Installed::default(), &demands, &BTreeSet::new());
        assert_eq!(tables.targets.len() as u32, TargetId::CAPACITY - 1);
        assert_eq!(left_out.len() as u32, 17 * 255 - (TargetId::CAPACITY - 1));
        assert!(
            left_out
                .iter()
                .all(|&(listen, server)| listen == vip(17) && server.is_some())
        );
    }

    fn demands() -> impl Strategy<Value = Vec<Demand>> {
        let servers = || prop::sample::subsequence(vec![1, 2, 3, 4], 0..=4);
        let route = prop_oneof![Just(Route::Leader), Just(Route::Any)];
        let service = prop::option::of((route, servers())).prop_map(|found| {
            found.map(|(route, usable)| {
                let count = if route == Route::Leader {
                    1.min(usable.len())
                } else {
                    usable.len()
                };
                demand(0, route, &[1, 2, 3, 4], &usable[..count])
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
                    installed.apply(&op);
                }
                prop_assert_eq!(&installed, &desired);
                prop_assert_eq!(&next(&installed, demands), &installed, "not settled");
            }
        }
    }
}
