//! Many short connections: one request each, and an account of who answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Failure;
use crate::http::{self, Connection};
use crate::lab::{Namespace, joined};

/// How long one connection may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// One that takes longer has waited for something to be sent again: Linux
/// sends a SYN again after a second.
const STALL: Duration = Duration::from_millis(900);

/// Who answered how often, and what failed how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Answers, by the node's id.
    pub by_node: BTreeMap<u64, usize>,
    /// Failures, by their kind.
    pub failures: BTreeMap<Failure, usize>,
    /// Connections that took longer than 900 ms, whatever became of them.
    pub stalled: usize,
}

impl Answers {
    /// How many connections there were.
    pub fn total(&self) -> usize {
        self.by_node.values().sum::<usize>() + self.failures.values().sum::<usize>()
    }

    /// How far apart the node that answered most often and the one that did
    /// least often are: 0.1 is 10 % of the former. Only those that answered.
    pub fn imbalance(&self) -> f64 {
        let counts = || self.by_node.values().map(|&count| count as f64);
        let most = counts().fold(0.0, f64::max);
        let least = counts().fold(f64::INFINITY, f64::min);
        if most == 0.0 {
            0.0
        } else {
            (most - least) / most
        }
    }

    /// Asks who is at `target` from the calling thread's namespace.
    pub(super) fn ask(&mut self, target: SocketAddr) {
        let begun = Instant::now();
        self.add(who_is_at(target));
        self.stalled += usize::from(begun.elapsed() > STALL);
    }

    fn add(&mut self, answer: Result<u64, Failure>) {
        match answer {
            Ok(node) => *self.by_node.entry(node).or_default() += 1,
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    /// Adds what others did.
    pub fn merge(&mut self, other: Self) {
        self.stalled += other.stalled;
        for (node, count) in other.by_node {
            *self.by_node.entry(node).or_default() += count;
        }
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }
}

/// Opens `count` connections from `namespace` to `target`, `at_once` of them
/// at a time, and asks on each who is there (`GET /whoami`).
pub fn who_answers(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
    count: usize,
    at_once: usize,
) -> Answers {
    let target = target.into();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut answers = Answers::default();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            answers.ask(target);
        }
        answers
    };
    namespace.enter(|| {
        thread::scope(|scope| {
            // Threads are born into the namespace of their parent.
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            let mut all = Answers::default();
            for worker in workers {
                all.merge(joined(worker.join()));
            }
            all
        })
    })
}

/// One connection from the calling thread's namespace: who answers it.
pub fn who_is_at(target: impl Into<SocketAddr>) -> Result<u64, Failure> {
    let answer = http::get(target, "/whoami", TIMEOUT)?;
    node_of(&answer)
}

/// As [`who_is_at`], from a port of one's choice; the connection ends with a
/// RST, so that the same 4-tuple is free again at once.
pub fn who_answers_port(target: impl Into<SocketAddr>, port: u16) -> Result<u64, Failure> {
    let mut connection = Connection::open_from(port, target, TIMEOUT)?;
    let answer = connection.request("GET", "/whoami", None)?;
    connection.abort()?;
    node_of(&answer)
}

fn node_of(answer: &http::Response) -> Result<u64, Failure> {
    if answer.status != 200 {
        return Err(Failure::Status(answer.status));
    }
    answer.json()["node"]
        .as_u64()
        .ok_or_else(|| Failure::Other("no node in the answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_node_and_failures_by_kind() {
        let mut answers = Answers::default();
        for answer in [Ok(2), Ok(3), Ok(3), Ok(3), Ok(3), Err(Failure::Reset)] {
            answers.add(answer);
        }
        let mut twice = answers.clone();
        twice.merge(answers);
        assert_eq!(twice.by_node, BTreeMap::from([(2, 2), (3, 8)]));
        assert_eq!(twice.failures, BTreeMap::from([(Failure::Reset, 2)]));
        assert_eq!(twice.total(), 12);
        assert!((twice.imbalance() - 0.75).abs() < 1e-9);
        assert!(Answers::default().imbalance() < 1e-9);
    }
}
