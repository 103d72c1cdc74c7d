//! What a node may say of its role, decided from what it observes. Pure: ages are arguments.
//!
//! The balancer sends writes wherever `leader` is claimed, so a claim needs proof: a quorum that confirmed it recently, and a state that
//! holds everything that was ever acknowledged. Without proof the role is `unknown`, never a guess.

use std::time::Duration;

use openraft::ServerState;
use serde::Serialize;

use crate::cluster::NodeId;
use crate::store::AppliedMark;

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May take writes.
    Leader,
    /// Follows the current leader and may serve reads.
    Replica,
    /// Neither can be proved now.
    Unknown,
}

impl Role {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Replica => "replica",
            Role::Unknown => "unknown",
        }
    }
}

/// Where a process is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Takes whatever its role allows.
    Serving,
    /// Asked to stop: still answers, but wants no new connections.
    Draining,
    /// Ends its connections.
    Stopping,
}

/// What a node knows of itself at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// Where the process is.
    pub phase: Phase,
    /// Whether the others have a newer membership without it.
    pub removed: bool,
    /// What openraft thinks that it is.
    pub state: ServerState,
    /// The current term.
    pub term: u64,
    /// Whom openraft takes for the leader of that term.
    pub leader: Option<NodeId>,
    /// How far the state machine is.
    pub applied: AppliedMark,
    /// For a leader: how long ago a quorum confirmed it in this term; `None` for never.
    pub quorum_age: Option<Duration>,
    /// For the others: how long ago the leader of this term spoke; `None` for never.
    pub contact_age: Option<Duration>,
}

/// How old a proof may be.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// For a leader. The followers elect nobody else for longer than this after they confirmed it.
    pub quorum_age_max: Duration,
    /// For a replica.
    pub contact_age_max: Duration,
}

/// The verdict, and why: the reason is for people who debug, not for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What the node may say.
    pub role: Role,
    /// Why.
    pub reason: &'static str,
}

/// Decides what a node that observes `now` may say of itself.
pub fn decide(now: &Observation, freshness: &Freshness) -> Standing {
    let unknown = |reason| Standing {
        role: Role::Unknown,
        reason,
    };
    match now.phase {
        Phase::Serving => {}
        Phase::Draining | Phase::Stopping => return unknown("draining"),
    }
    if now.removed {
        return unknown("removed from the cluster");
    }
    match now.state {
        ServerState::Leader => decide_leader(now, freshness),
        ServerState::Follower | ServerState::Learner => decide_replica(now, freshness),
        ServerState::Candidate => unknown("electing"),
        ServerState::Shutdown => unknown("stopped"),
    }
}

fn decide_leader(now: &Observation, freshness: &Freshness) -> Standing {
    let unknown = |reason| Standing {
        role: Role::Unknown,
        reason,
    };
    match now.quorum_age {
        None => unknown("leader, but no quorum has confirmed it yet"),
        Some(age) if age > freshness.quorum_age_max => {
            unknown("leader, but lost touch with its quorum")
        }
        Some(_) if now.applied.term != now.term => {
            unknown("leader, but has not applied an entry of its term")
        }
        Some(_) => Standing {
            role: Role::Leader,
            reason: "confirmed by a quorum",
        },
    }
}

fn decide_replica(now: &Observation, freshness: &Freshness) -> Standing {
    let unknown = |reason| Standing {
        role: Role::Unknown,
        reason,
    };
    match (now.leader, now.contact_age) {
        (None, _) => unknown("knows no leader"),
        (Some(_), None) => unknown("has not heard from the current leader"),
        (Some(_), Some(age)) if age > freshness.contact_age_max => {
            unknown("lost touch with the leader")
        }
        (Some(_), Some(_)) => Standing {
            role: Role::Replica,
            reason: "follows the current leader",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESHNESS: Freshness = Freshness {
        quorum_age_max: Duration::from_millis(300),
        contact_age_max: Duration::from_millis(900),
    };

    /// A healthy leader of term 5; the rows say what differs.
    fn leader() -> Observation {
        Observation {
            phase: Phase::Serving,
            removed: false,
            state: ServerState::Leader,
            term: 5,
            leader: Some(1),
            applied: AppliedMark { index: 10, term: 5 },
            quorum_age: Some(Duration::ZERO),
            contact_age: None,
        }
    }

    fn replica() -> Observation {
        Observation {
            state: ServerState::Follower,
            leader: Some(2),
            quorum_age: None,
            contact_age: Some(Duration::ZERO),
            ..leader()
        }
    }

    fn ms(age: u64) -> Option<Duration> {
        Some(Duration::from_millis(age))
    }

    #[test]
    fn the_role_follows_from_the_proofs() {
        let mark = |term, index| AppliedMark { term, index };
        use Role::{Leader, Replica, Unknown};
        let table = [
            ("a confirmed leader", Leader, leader()),
            (
                "confirmed just in time",
                Leader,
                Observation {
                    quorum_age: ms(300),
                    ..leader()
                },
            ),
            (
                "confirmed too long ago",
                Unknown,
                Observation {
                    quorum_age: ms(301),
                    ..leader()
                },
            ),
            (
                "never confirmed",
                Unknown,
                Observation {
                    quorum_age: None,
                    ..leader()
                },
            ),
            (
                "no entry of its term",
                Unknown,
                Observation {
                    applied: mark(4, 10),
                    ..leader()
                },
            ),
            (
                "a leader that drains",
                Unknown,
                Observation {
                    phase: Phase::Draining,
                    ..leader()
                },
            ),
            (
                "a leader that stops",
                Unknown,
                Observation {
                    phase: Phase::Stopping,
                    ..leader()
                },
            ),
            ("a replica in touch", Replica, replica()),
            (
                "a learner in touch",
                Replica,
                Observation {
                    state: ServerState::Learner,
                    ..replica()
                },
            ),
            (
                "in touch just in time",
                Replica,
                Observation {
                    contact_age: ms(900),
                    ..replica()
                },
            ),
            (
                "out of touch",
                Unknown,
                Observation {
                    contact_age: ms(901),
                    ..replica()
                },
            ),
            (
                "just restarted",
                Unknown,
                Observation {
                    contact_age: None,
                    ..replica()
                },
            ),
            (
                "knows no leader",
                Unknown,
                Observation {
                    leader: None,
                    ..replica()
                },
            ),
            (
                "a replica that drains",
                Unknown,
                Observation {
                    phase: Phase::Draining,
                    ..replica()
                },
            ),
            (
                "a replica that was removed",
                Unknown,
                Observation {
                    removed: true,
                    ..replica()
                },
            ),
            (
                "a quorum age does not make a leader",
                Replica,
                Observation {
                    quorum_age: ms(0),
                    ..replica()
                },
            ),
            (
                "a replica may lag",
                Replica,
                Observation {
                    applied: mark(1, 1),
                    ..replica()
                },
            ),
            (
                "a candidate",
                Unknown,
                Observation {
                    state: ServerState::Candidate,
                    ..leader()
                },
            ),
            (
                "a stopped node",
                Unknown,
                Observation {
                    state: ServerState::Shutdown,
                    ..leader()
                },
            ),
        ];
        for (sentence, expected, observation) in table {
            let standing = decide(&observation, &FRESHNESS);
            assert_eq!(standing.role, expected, "{sentence}: {}", standing.reason);
        }
    }
}
