//! What becomes of the connections of a target that is in no slot: by what
//! its server is now, and by what its service says.

use lb_common::target::TargetId;

use crate::config::{OnChange, OnDown, Route, Service};
use crate::engine::agent::Agent;
use crate::engine::departures::{Deadline, Fate};
use crate::engine::event::Role;
use crate::engine::route::{self, Standing, Usability};

impl Agent {
    /// What becomes of the connections of a target that is in no slot.
    pub(super) fn fate(&self, id: TargetId) -> Fate {
        let Some(target) = self.installed.targets.get(&id) else {
            return Fate::Keep;
        };
        let Some((service, pool)) = self.owner(target) else {
            let place = self.places.get(&target.service);
            let time = place.map_or(Service::DRAIN_TIMEOUT, |place| place.drain_timeout);
            return Fate::Drain(Deadline::After(time));
        };
        let standings = pool.standings();
        let Some(standing) = standings.iter().find(|one| one.server == target.server) else {
            return of_a_stranger(service, pool.leader().is_some());
        };
        // Those that it has are none of those that failed.
        let calm = standings.iter().map(|one| Standing {
            tripped: false,
            ..*one
        });
        let calm: Vec<Standing> = calm.collect();
        if route::choose(service.route, &calm).contains(&target.server) {
            // Only the way to it is lost, and may come back.
            return Fate::Keep;
        }
        of_a_member(service, standing)
    }
}

/// Of connections to a server that its pool no longer has. Once another leads,
/// it does not.
fn of_a_stranger(service: &Service, led: bool) -> Fate {
    if service.route == Route::Leader && led {
        drained(service).max(changed(service))
    } else {
        drained(service)
    }
}

/// Of connections to a server of the pool that the service may not use.
fn of_a_member(service: &Service, standing: &Standing) -> Fate {
    let lost_the_lead = service.route == Route::Leader && standing.role != Role::Leader;
    let by_usability = match standing.usability {
        Usability::Down | Usability::Maint => down(service),
        Usability::Leaving => drained(service),
        Usability::Unchecked | Usability::Resting => Fate::Keep,
        Usability::Up => changed(service),
    };
    if lost_the_lead {
        // Whatever else it is, it is the leader no more.
        by_usability.max(changed(service))
    } else {
        by_usability
    }
}

fn drained(service: &Service) -> Fate {
    Fate::Drain(Deadline::After(service.drain_timeout))
}

fn changed(service: &Service) -> Fate {
    match service.on_change {
        OnChange::Reset => Fate::Cut,
        OnChange::Drain => drained(service),
        OnChange::Keep => Fate::Keep,
    }
}

fn down(service: &Service) -> Fate {
    match service.on_down {
        OnDown::Reset => Fate::Cut,
        OnDown::Drain => drained(service),
        OnDown::Keep => Fate::Keep,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::fixtures::{self, server};

    const TIME: Duration = Duration::from_secs(7);
    const DRAIN: Fate = Fate::Drain(Deadline::After(TIME));

    /// In the order reset, drain, keep.
    const FATES: [Fate; 3] = [Fate::Cut, DRAIN, Fate::Keep];

    fn service(route: Route, change: usize, down: usize) -> Service {
        Service {
            on_change: OnChange::ALL[change],
            on_down: OnDown::ALL[down],
            drain_timeout: TIME,
            ..fixtures::service("one", 80, route)
        }
    }

    fn standing(usability: Usability, role: Role) -> Standing {
        Standing {
            server: server(1),
            usability,
            role,
            lagging: false,
            tripped: false,
            backup: false,
        }
    }

    /// Every `on_change` times every `on_down`.
    fn policies(route: Route) -> Vec<(Service, Fate, Fate)> {
        let pairs = (0..3).flat_map(|change| (0..3).map(move |down| (change, down)));
        pairs
            .map(|(change, down)| (service(route, change, down), FATES[change], FATES[down]))
            .collect()
    }

    #[test]
    fn the_words_are_in_the_order_that_the_other_tests_take_them_in() {
        for (index, fate) in FATES.into_iter().enumerate() {
            let service = service(Route::Any, index, index);
            assert_eq!((changed(&service), down(&service)), (fate, fate));
        }
        assert!(Fate::Cut > DRAIN && DRAIN > Fate::Keep);
    }

    /// Every pair of policies, times every usability, times who leads.
    #[test]
    fn connections_of_a_write_service() {
        for (service, change, down) in policies(Route::Leader) {
            let of = |usability, role| of_a_member(&service, &standing(usability, role));
            for role in [Role::Replica, Role::Unknown] {
                assert_eq!(of(Usability::Down, role), change.max(down));
                assert_eq!(of(Usability::Maint, role), change.max(down));
                assert_eq!(of(Usability::Leaving, role), change.max(DRAIN));
                for usability in [Usability::Unchecked, Usability::Resting, Usability::Up] {
                    assert_eq!(of(usability, role), change, "{usability:?}");
                }
            }
            // It leads, and gets nothing new all the same.
            assert_eq!(of(Usability::Maint, Role::Leader), down);
            assert_eq!(of(Usability::Leaving, Role::Leader), DRAIN);
            assert_eq!(of(Usability::Resting, Role::Leader), Fate::Keep);
            assert_eq!(of_a_stranger(&service, false), DRAIN);
            assert_eq!(of_a_stranger(&service, true), change.max(DRAIN));
        }
    }

    /// The same of a service that reads: who leads does not matter.
    #[test]
    fn connections_of_a_read_service() {
        for route in [Route::Replicas, Route::ReplicasFirst, Route::Any] {
            for (service, change, down) in policies(route) {
                for role in [Role::Leader, Role::Replica, Role::Unknown] {
                    let of = |usability| of_a_member(&service, &standing(usability, role));
                    assert_eq!(of(Usability::Down), down);
                    assert_eq!(of(Usability::Maint), down);
                    assert_eq!(of(Usability::Leaving), DRAIN);
                    assert_eq!(of(Usability::Unchecked), Fate::Keep);
                    assert_eq!(of(Usability::Resting), Fate::Keep);
                    assert_eq!(of(Usability::Up), change);
                }
                assert_eq!(of_a_stranger(&service, true), DRAIN);
            }
        }
    }
}
