//! What becomes of the connections of a target that is in no slot: by what
//! its server is now, and by what its service says.

use lb_common::target::TargetId;

use crate::config::{Duty, OnChange, OnDown, Route, Service};
use crate::engine::agent::Agent;
use crate::engine::departures::{Deadline, Fate};
use crate::engine::event::Role;
use crate::engine::pool::Pool;
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
        let mut members = pool.members.iter();
        let member = members.find(|member| member.server.address == target.server);
        let standing = standings.iter().find(|one| one.server == target.server);
        let (Some(member), Some(standing)) = (member, standing) else {
            return of_a_stranger(service, leadership(pool));
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
        of_a_member(service, standing, member.server.duty, leadership(pool))
    }
}

/// What is known of who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leadership {
    /// Nothing: the agent has just started, and not everybody was heard.
    Undecided,
    /// Nobody does.
    Vacant,
    /// Somebody does.
    Held,
}

fn leadership(pool: &Pool) -> Leadership {
    match (pool.leader(), pool.is_opening()) {
        (Some(_), _) => Leadership::Held,
        (None, true) => Leadership::Undecided,
        (None, false) => Leadership::Vacant,
    }
}

/// Of connections to a server that its pool no longer has. Once another leads,
/// it does not.
fn of_a_stranger(service: &Service, leadership: Leadership) -> Fate {
    if service.route == Route::Leader && leadership == Leadership::Held {
        drained(service).max(changed(service))
    } else {
        drained(service)
    }
}

/// Of connections to a server of the pool that the service may not use.
fn of_a_member(service: &Service, standing: &Standing, duty: Duty, leadership: Leadership) -> Fate {
    // The agent before us may have drained the leader, which is in no slot then.
    let may_lead = leadership == Leadership::Undecided && matches!(duty, Duty::Drain { .. });
    let lost_the_lead =
        service.route == Route::Leader && standing.role != Role::Leader && !may_lead;
    let by_usability = match standing.usability {
        Usability::Down | Usability::Maint => down(service),
        Usability::Leaving => left(service, duty),
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

/// Of a server that is to be left: an operator's word counts from when it was
/// said, also where another agent heard it.
fn left(service: &Service, duty: Duty) -> Fate {
    match duty {
        Duty::Drain { since, deadline } => {
            let time = deadline.unwrap_or(service.drain_timeout);
            Fate::Drain(Deadline::At(since + time))
        }
        Duty::Ready | Duty::Maint => drained(service),
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
            let of = |usability, role| {
                of_a_member(
                    &service,
                    &standing(usability, role),
                    Duty::Ready,
                    Leadership::Held,
                )
            };
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
            assert_eq!(of_a_stranger(&service, Leadership::Vacant), DRAIN);
            assert_eq!(of_a_stranger(&service, Leadership::Held), change.max(DRAIN));
        }
    }

    #[test]
    fn the_deadline_of_an_operator_counts_from_its_word() {
        let service = service(Route::Any, 2, 2);
        let leaving = standing(Usability::Leaving, Role::Unknown);
        let since = std::time::Instant::now();
        let of = |deadline| {
            let duty = Duty::Drain { since, deadline };
            of_a_member(&service, &leaving, duty, Leadership::Held)
        };
        let at = |time| Fate::Drain(Deadline::At(since + time));
        assert_eq!(of(None), at(TIME));
        assert_eq!(of(Some(TIME / 2)), at(TIME / 2));
    }

    /// The same of a service that reads: who leads does not matter.
    #[test]
    fn connections_of_a_read_service() {
        for route in [Route::Replicas, Route::ReplicasFirst, Route::Any] {
            for (service, change, down) in policies(route) {
                for role in [Role::Leader, Role::Replica, Role::Unknown] {
                    let of = |usability| {
                        of_a_member(
                            &service,
                            &standing(usability, role),
                            Duty::Ready,
                            Leadership::Held,
                        )
                    };
                    assert_eq!(of(Usability::Down), down);
                    assert_eq!(of(Usability::Maint), down);
                    assert_eq!(of(Usability::Leaving), DRAIN);
                    assert_eq!(of(Usability::Unchecked), Fate::Keep);
                    assert_eq!(of(Usability::Resting), Fate::Keep);
                    assert_eq!(of(Usability::Up), change);
                }
                assert_eq!(of_a_stranger(&service, Leadership::Held), DRAIN);
            }
        }
    }
}
