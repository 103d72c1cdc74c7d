//! What the engine wants done: one closed enum.
//!
//! The shell executes actions in the order in which they are given, and
//! decides nothing. [`Notice`] is data, so that the log, the metrics and the
//! tests read the same thing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::api::{ServerState, ServiceState};
use crate::config::{Member, PoolName, ServerName, ServiceName};
use crate::engine::plan::Op;

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bring these changes into the kernel's tables, in this order.
    Apply(Vec<Op>),
    /// Check a server now; its schedule goes on from there.
    CheckNow {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
    },
    /// Probe a server at another pace from now on. It starts at
    /// [`Pace::Normal`].
    Pace {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// How often.
        pace: Pace,
    },
    /// Ask a server, which leads its pool, for the cluster's members.
    Inquire {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
    },
    /// The pool's servers are these members from now on.
    Follow {
        /// The pool.
        pool: PoolName,
        /// All of them.
        members: Vec<Member>,
    },
    /// Have these VIPs on the NIC.
    Hold(Held),
    /// Tell the operator: one line.
    Notice(Notice),
}

/// The VIPs that belong on the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Those of the configuration.
    pub wanted: BTreeSet<IpAddr>,
    /// What becomes of the others that an agent added.
    pub others: Others,
}

/// What becomes of VIPs that the configuration does not have any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay for now: connections through a service that is gone may need
    /// them.
    Stay,
    /// They are removed.
    Go,
}

/// How often a server is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pace {
    /// Once every `interval`.
    #[default]
    Normal,
    /// Once every `fast_interval`: it is between UP and DOWN, or its pool should
    /// have a leader and has none.
    Fast,
    /// Once every `down_interval`: it is DOWN.
    Down,
}

/// A change that an operator would want to see, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A server has another state.
    Server {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// What it is now.
        state: ServerState,
        /// The code of the check that decided: `L4CON`. Empty: no check did.
        code: &'static str,
        /// What else it found, or who else decided.
        detail: String,
    },
    /// A pool has another leader, or none any more.
    Leader {
        /// The pool.
        pool: PoolName,
        /// The one before.
        from: Option<ServerName>,
        /// The one from now on.
        to: Option<ServerName>,
        /// The new leader's term, where it tells.
        term: Option<u64>,
        /// Why the one before leads no more, where nobody does.
        why: Option<String>,
    },
    /// Something is wrong with a pool's leadership, or no longer (`None`).
    Problem {
        /// The pool.
        pool: PoolName,
        /// What, and what to do about it.
        problem: Option<String>,
    },
    /// A pool's leader lists other members than the pool has.
    Members {
        /// The pool.
        pool: PoolName,
        /// Their names, as the leader has them.
        members: Vec<ServerName>,
    },
    /// Something is wrong with a pool's list of members, or no longer (`None`).
    Unlisted {
        /// The pool.
        pool: PoolName,
        /// What.
        trouble: Option<String>,
    },
    /// A service found its first target, or lost its last one.
    Service {
        /// The service.
        service: ServiceName,
        /// What it is now.
        state: ServiceState,
    },
    /// The kernel's tables have no room for a service or a server.
    NoRoom {
        /// The service.
        service: ServiceName,
        /// The server, or `None` where the service itself has no room.
        server: Option<SocketAddr>,
    },
}

impl Notice {
    /// Whether somebody may have to act.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        match self {
            Self::Server { state, .. } => matches!(state, ServerState::Down),
            Self::Leader { to, .. } => to.is_none(),
            Self::Problem { problem, .. } => problem.is_some(),
            Self::Service { state, .. } => matches!(state, ServiceState::NoTarget),
            Self::NoRoom { .. } => true,
            Self::Members { .. } => false,
            Self::Unlisted { trouble, .. } => trouble.is_some(),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server {
                pool,
                server,
                state,
                code,
                detail,
            } => {
                write!(out, "server {pool}/{server} is {state}")?;
                let words = [*code, detail].into_iter().filter(|word| !word.is_empty());
                let words: Vec<&str> = words.collect();
                match &words[..] {
                    [] => Ok(()),
                    words => write!(out, ": {}", words.join(" ")),
                }
            }
            Self::Leader {
                pool,
                from,
                to,
                term,
                why,
            } => {
                write!(out, "pool {pool}: ")?;
                match (from, to) {
                    (Some(from), Some(to)) => write!(out, "{to} leads instead of {from}")?,
                    (None, Some(to)) => write!(out, "{to} leads")?,
                    (Some(from), None) => write!(out, "{from} leads no more, nobody does")?,
                    (None, None) => write!(out, "nobody leads")?,
                }
                if let Some(term) = term {
                    write!(out, ", term {term}")?;
                }
                match why {
                    Some(why) => write!(out, ": {why}"),
                    None => Ok(()),
                }
            }
            Self::Problem {
                pool,
                problem: Some(problem),
            } => write!(out, "pool {pool}: {problem}"),
            Self::Problem {
                pool,
                problem: None,
            } => write!(out, "pool {pool}: no problem any more"),
            Self::Members { pool, members } => {
                let names: Vec<&str> = members.iter().map(ServerName::as_str).collect();
                write!(out, "pool {pool}: its members are {} now", names.join(", "))
            }
            Self::Unlisted {
                pool,
                trouble: Some(trouble),
            } => write!(out, "pool {pool}: no list of its members: {trouble}"),
            Self::Unlisted {
                pool,
                trouble: None,
            } => write!(out, "pool {pool}: its members are listed again"),
            Self::Service { service, state } => write!(out, "service {service} is {state}"),
            Self::NoRoom {
                service,
                server: Some(server),
            } => {
                write!(
                    out,
                    "no target id is left for {server} in service {service}"
                )
            }
            Self::NoRoom {
                service,
                server: None,
            } => {
                write!(out, "the slot table has no room for service {service}")
            }
        }
    }
}
