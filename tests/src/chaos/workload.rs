//! What each client asks for, one request after the other: from a seed.

use super::history::{Action, Consistency, Via};
use crate::rows::random::Random;

/// How many keys are written to at a time, by all clients.
const HOT_KEYS: usize = 4;

/// Which key a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One of the few that all clients write and read.
    Hot(usize),
    /// One of the client's own, written once: it must be there in the end.
    Mark,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// On what.
    pub subject: Subject,
    /// What for.
    pub action: Action,
    /// By which way.
    pub via: Via,
    /// Whether it goes out on a connection of its own.
    pub connection: Connect,
    /// Milliseconds that the client waits before it.
    pub pause_ms: u64,
}

/// Which connection a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// The one that there is, if there is one.
    AsBefore,
    /// A new one, which is steered anew.
    Anew,
}

/// The requests of one client, without end.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    client: usize,
    requests: u64,
}

impl Workload {
    /// Those of client number `client`.
    pub fn new(seed: u64, client: usize) -> Self {
        let mut random = Random::new(seed);
        let own = (0..=client).map(|_| random.number()).last();
        Self {
            random: Random::new(own.unwrap_or_default()),
            client,
            requests: 0,
        }
    }

    /// The next one of them.
    pub fn request(&mut self) -> Request {
        let random = &mut self.random;
        self.requests += 1;
        let value = format!("{}-{}", self.client, self.requests);
        let hot = Subject::Hot(random.below(HOT_KEYS));
        let (subject, action, via) = match random.below(100) {
            0..40 => (hot, Action::Put(value), Via::Write),
            40..45 => (Subject::Mark, Action::Put(value), Via::Write),
            45..55 => (hot, Action::Get(Consistency::Linearizable), Via::Write),
            55..80 => (hot, Action::Get(Consistency::Linearizable), Via::Read),
            _ => (hot, Action::Get(Consistency::Eventual), Via::Read),
        };
        let connection = match random.once_in(20) {
            true => Connect::Anew,
            false => Connect::AsBefore,
        };
        Request {
            subject,
            action,
            via,
            connection,
            pause_ms: random.below(16) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn requests(seed: u64, client: usize) -> Vec<Request> {
        let mut workload = Workload::new(seed, client);
        (0..500).map(|_| workload.request()).collect()
    }

    #[test]
    fn a_seed_means_the_same_requests_and_another_client_others() {
        assert_eq!(requests(7, 3), requests(7, 3));
        assert_ne!(requests(7, 3), requests(7, 4));
        assert_ne!(requests(7, 3), requests(8, 3));
    }

    #[test]
    fn no_value_is_written_twice_and_every_kind_of_request_is_made() {
        let mut values = HashSet::new();
        let mut kinds = HashSet::new();
        for client in 0..4 {
            for Request { action, via, .. } in requests(1, client) {
                match action {
                    Action::Put(value) => {
                        kinds.insert("put");
                        assert!(values.insert(value));
                    }
                    Action::Get(Consistency::Eventual) => drop(kinds.insert("eventual")),
                    Action::Get(Consistency::Linearizable) => {
                        kinds.insert(match via {
                            Via::Write => "at the leader",
                            Via::Read => "at a replica",
                        });
                    }
                }
            }
        }
        assert_eq!(kinds.len(), 4);
    }
}
