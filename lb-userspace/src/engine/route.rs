//! Which servers of a pool a service may use: where health and roles end.

use std::net::SocketAddr;

use crate::config::Route;
use crate::engine::event::Role;
use crate::engine::health::Phase;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 8081))
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
}
