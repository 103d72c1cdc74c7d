//! Which servers of a pool a service may use: where health and roles end.

use std::net::SocketAddr;

use crate::config::Route;
use crate::engine::event::Role;

/// One server, as far as routes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where its connections go.
    pub server: SocketAddr,
    /// What it may be used for.
    pub usability: Usability,
    /// The role that the pool grants it: `Leader` for one server at most,
    /// whatever others claim.
    pub role: Role,
    /// Whether it is too far behind the leader to be read from.
    pub lagging: bool,
    /// Whether too many of its clients' connections failed. It serves only
    /// where nobody else can, and writes have nobody else.
    pub tripped: bool,
    /// Whether it is a backup: it serves only where no other server can, but
    /// for those that are tripped.
    pub backup: bool,
}

/// Servers that come before others, whatever their roles are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Regular,
    Backup,
    Tripped,
}

impl Standing {
    const fn rank(&self) -> Rank {
        match (self.tripped, self.backup) {
            (true, _) => Rank::Tripped,
            (false, true) => Rank::Backup,
            (false, false) => Rank::Regular,
        }
    }
}

/// What a server may be used for, by its checks and its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usability {
    /// Nobody knows yet.
    Unchecked,
    /// Nothing: it does not work.
    Down,
    /// Nothing: it was taken out.
    Maint,
    /// Nothing new: it is to be left.
    Leaving,
    /// Nothing new for the moment.
    Resting,
    /// New connections.
    Up,
}

/// The servers that a route may use.
#[must_use]
pub fn choose(route: Route, standings: &[Standing]) -> Vec<SocketAddr> {
    let up = |accepts: &dyn Fn(&Standing) -> bool| -> Vec<SocketAddr> {
        let usable = standings
            .iter()
            .filter(|one| one.usability == Usability::Up && accepts(one));
        usable.map(|one| one.server).collect()
    };
    let leader = || up(&|one| one.role == Role::Leader);
    let regular_leader = || up(&|one| one.role == Role::Leader && !one.backup);
    let replicas =
        |rank| up(&|one| one.role == Role::Replica && !one.lagging && one.rank() == rank);
    let any = |rank| up(&|one| !one.lagging && one.rank() == rank);
    use Rank::{Backup, Regular, Tripped};
    match route {
        Route::Leader => leader(),
        Route::Replicas => first([Regular, Backup, Tripped].map(replicas)),
        Route::ReplicasFirst => first([
            replicas(Regular),
            regular_leader(),
            replicas(Backup),
            leader(),
            replicas(Tripped),
        ]),
        Route::Any => first([Regular, Backup, Tripped].map(any)),
    }
}

fn first<const N: usize>(lists: [Vec<SocketAddr>; N]) -> Vec<SocketAddr> {
    let mut lists = lists.into_iter();
    lists.find(|list| !list.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 8081))
    }

    fn standing(number: u8, usability: Usability, role: Role) -> Standing {
        Standing {
            server: server(number),
            usability,
            role,
            lagging: false,
            tripped: false,
            backup: false,
        }
    }

    fn lagging(one: Standing) -> Standing {
        let lagging = true;
        Standing { lagging, ..one }
    }

    fn tripped(one: Standing) -> Standing {
        let tripped = true;
        Standing { tripped, ..one }
    }

    fn backup(one: Standing) -> Standing {
        let backup = true;
        Standing { backup, ..one }
    }

    /// Every route times every kind of server, alone and beside the others.
    #[test]
    fn routes() {
        let all = [
            standing(1, Usability::Up, Role::Leader),
            standing(2, Usability::Up, Role::Replica),
            standing(3, Usability::Down, Role::Replica),
            standing(4, Usability::Up, Role::Unknown),
            standing(5, Usability::Unchecked, Role::Replica),
            standing(6, Usability::Up, Role::Replica),
            standing(7, Usability::Leaving, Role::Replica),
            standing(8, Usability::Resting, Role::Replica),
        ];
        let no_replica = [all[0], all[2], all[3], all[4]];
        let nobody = [all[2], all[4], all[6], all[7]];
        let leaving = [standing(1, Usability::Leaving, Role::Leader)];
        let one_lags = [all[0], lagging(all[1]), all[5]];
        let all_lag = [all[0], lagging(all[1]), lagging(all[5])];
        let one_trips = [all[0], tripped(all[1]), all[5]];
        let all_trip = [tripped(all[0]), tripped(all[1]), tripped(all[5])];
        let replicas_trip = [all[2], tripped(all[1]), tripped(all[5])];
        let spare = [all[0], all[1], backup(all[5])];
        let only_spare = [all[0], all[2], backup(all[5])];
        let spare_trips = [all[2], tripped(all[1]), tripped(backup(all[5]))];
        let spare_is_calm = [all[2], tripped(all[1]), backup(all[5])];
        let spare_leads = [backup(all[0]), all[2], backup(all[5])];
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
            (Route::Leader, &leaving, &[]),
            (Route::Replicas, &one_lags, &[6]),
            (Route::Replicas, &all_lag, &[]),
            (Route::ReplicasFirst, &one_lags, &[6]),
            (Route::ReplicasFirst, &all_lag, &[1]),
            (Route::Any, &one_lags, &[1, 6]),
            (Route::Any, &all_lag, &[1]),
            (Route::Leader, &all_trip, &[1]),
            (Route::Replicas, &one_trips, &[6]),
            (Route::Replicas, &all_trip, &[2, 6]),
            (Route::ReplicasFirst, &one_trips, &[6]),
            (Route::ReplicasFirst, &all_trip, &[1]),
            (Route::ReplicasFirst, &replicas_trip, &[2, 6]),
            (Route::Any, &one_trips, &[1, 6]),
            (Route::Any, &all_trip, &[1, 2, 6]),
            (Route::Leader, &spare, &[1]),
            (Route::Leader, &spare_leads, &[1]),
            (Route::Replicas, &spare, &[2]),
            (Route::Replicas, &only_spare, &[6]),
            (Route::Replicas, &spare_trips, &[2, 6]),
            (Route::Replicas, &spare_is_calm, &[6]),
            (Route::ReplicasFirst, &spare, &[2]),
            (Route::ReplicasFirst, &only_spare, &[1]),
            (Route::ReplicasFirst, &spare_leads, &[6]),
            (Route::ReplicasFirst, &spare_leads[..2], &[1]),
            (Route::Any, &spare, &[1, 2]),
            (Route::Any, &only_spare, &[1]),
            (Route::Any, &only_spare[1..], &[6]),
            (Route::Any, &spare_is_calm, &[6]),
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
