//! Who answers at a write service over time, and whether that is in order.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::Failure;
use super::sampling::{Sample, Sampler};
use crate::http::{self, Response};
use crate::lab::Namespace;

/// How many look at once: one may hang at a server that does.
const EYES: usize = 3;
/// Between two looks of one of them.
const PAUSE: Duration = Duration::from_millis(8);
/// How long one look may take.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A server that answered, and what it said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Its id.
    pub node: u64,
    /// Whether it leads, as it says.
    pub leads: bool,
    /// Its term, as it says.
    pub term: u64,
}

/// Asks again and again who is there, each time on a new connection, so that
/// each is steered anew.
#[derive(Debug)]
pub struct Witness(Vec<Sampler<Result<Sighting, Failure>>>);

impl Witness {
    /// Starts to ask at `target` from `namespace`.
    pub fn start(namespace: &Namespace, target: impl Into<SocketAddr>) -> Self {
        let target = target.into();
        let eyes = (0..EYES).map(|_| Sampler::start(namespace, PAUSE, move || look(target)));
        Self(eyes.collect())
    }

    /// Stops, and gives all that was seen.
    pub fn stop(self) -> Testimony {
        let samples = self.0.into_iter().flat_map(Sampler::stop).collect();
        Testimony::new(samples)
    }
}

fn look(target: SocketAddr) -> Result<Sighting, Failure> {
    let answer = http::get(target, "/whoami", TIMEOUT)?;
    if answer.status != 200 {
        return Err(Failure::Status(answer.status));
    }
    let sighting = read(&answer);
    sighting.ok_or_else(|| Failure::Other("an answer that does not say who it is from".into()))
}

fn read(answer: &Response) -> Option<Sighting> {
    Some(Sighting {
        node: answer.header("x-raft-node")?.parse().ok()?,
        leads: answer.header("x-raft-role")? == "leader",
        term: answer.header("x-raft-term")?.parse().ok()?,
    })
}

/// What a [`Witness`] saw.
#[derive(Debug)]
pub struct Testimony {
    /// In the order in which the looks began.
    pub samples: Vec<Sample<Result<Sighting, Failure>>>,
}

impl Testimony {
    fn new(mut samples: Vec<Sample<Result<Sighting, Failure>>>) -> Self {
        samples.sort_by_key(|sample| sample.begun);
        Self { samples }
    }

    /// The answers, without the failures.
    pub fn answers(&self) -> impl Iterator<Item = Sample<Sighting>> {
        self.samples.iter().filter_map(|sample| {
            Some(Sample {
                begun: sample.begun,
                ended: sample.ended,
                seen: *sample.seen.as_ref().ok()?,
            })
        })
    }

    /// Who answered, in turn.
    pub fn turns(&self) -> Vec<u64> {
        let mut turns: Vec<u64> = self.answers().map(|answer| answer.seen.node).collect();
        turns.dedup();
        turns
    }

    /// Answers that must not be: as soon as the leader of a term has answered
    /// at the write service, no other server may answer a connection that is
    /// opened there later, until one leads in a newer term.
    ///
    /// A leader that is deposed may still answer until the balancer has heard
    /// of its successor; it may not answer any more once the successor has.
    ///
    /// Servers tell the term in which they answer, not the one for which the
    /// balancer chose them: a server that leads again before the balancer has
    /// heard that it did not in between makes for a false alarm.
    pub fn contradictions(&self) -> Vec<Contradiction> {
        let mut leaders: Vec<_> = self.answers().filter(|answer| answer.seen.leads).collect();
        leaders.sort_by_key(|answer| answer.ended);
        let mut leaders = leaders.into_iter().peekable();
        let mut newest: Option<Sighting> = None;
        let mut found = Vec::new();
        for answer in self.answers() {
            while let Some(leader) = leaders.next_if(|leader| leader.ended < answer.begun) {
                if newest.is_none_or(|newest| newest.term < leader.seen.term) {
                    newest = Some(leader.seen);
                }
            }
            if let Some(leader) = newest
                && answer.seen.node != leader.node
                && answer.seen.term <= leader.term
            {
                let late = answer.seen;
                found.push(Contradiction { leader, late });
            }
        }
        found
    }
}

/// Two answers that cannot both be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    /// The newest leader that had answered.
    pub leader: Sighting,
    /// Who answered after it.
    pub late: Sighting,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leader, late } = self;
        write!(
            out,
            "n{} (term {}) answered after n{} had, which leads in term {}",
            late.node, late.term, leader.node, leader.term
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Answers as (begun, ended in ms, node, leads, term).
    fn contradictions(answers: &[(u64, u64, u64, bool, u64)]) -> usize {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let samples = answers
            .iter()
            .map(|&(begun, ended, node, leads, term)| Sample {
                begun: at(begun),
                ended: at(ended),
                seen: Ok(Sighting { node, leads, term }),
            });
        Testimony::new(samples.collect()).contradictions().len()
    }

    #[test]
    fn a_server_that_answers_after_its_successor_is_a_contradiction() {
        let old = (0, 1, 1, true, 5);
        let new = (10, 15, 2, true, 6);
        assert_eq!(contradictions(&[old, new]), 0);
        assert_eq!(contradictions(&[old, new, (20, 21, 1, true, 5)]), 1);
        assert_eq!(contradictions(&[old, new, (20, 21, 1, false, 6)]), 1);
        assert_eq!(contradictions(&[old, new, (20, 21, 1, true, 7)]), 0);
        // Opened before the successor had answered.
        assert_eq!(contradictions(&[old, new, (14, 30, 1, true, 5)]), 0);
        // Already deposed, and nobody has followed it yet.
        assert_eq!(contradictions(&[(0, 1, 1, false, 6), new]), 0);
    }
}
