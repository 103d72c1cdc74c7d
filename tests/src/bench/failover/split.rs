//! What a round says about one way, in milliseconds. Nothing but arithmetic.
//!
//! ```text
//! struck ── election ──► elected ── detection ──► decided ── map store ──► stored ── first write ──► acknowledged
//!    └───────────────────────────── writes out ──────────────────────────────────────────────────────────┘
//!                            └───────────── own share ───────────────────────┘
//! ```

use std::time::Instant;

use super::decision::Word;
use super::round::Observed;

/// The numbers of one way in one round, in milliseconds where they are times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// From the stroke to the acknowledgement, by another node, of a write that
    /// was begun later.
    pub out: f64,
    /// From the stroke to the end of the last write that failed; 0: none did.
    pub last_failure: f64,
    /// From the stroke until another node knew that it leads.
    pub election: f64,
    /// From then until the balancer had decided to send writes there.
    pub detection: f64,
    /// From then until its tables said so.
    pub store: f64,
    /// From then to the acknowledgement.
    pub first_write: f64,
    /// From the stroke until the client that only waits was told; `None`: it
    /// never was.
    pub told: Option<f64>,
    /// The same, from when the balancer had taken the writes from the old
    /// leader; `None` also where the client was told before that.
    pub told_after_flip: Option<f64>,
    /// Writes that failed after the first acknowledgement.
    pub flaps: usize,
}

/// Works the numbers out.
///
/// # Errors
/// No write was acknowledged, or nobody decided anything: in words.
pub fn split(observed: &Observed) -> Result<Split, String> {
    let Observed {
        way,
        struck,
        old,
        elected: (elected, new),
        decisions,
        attempts,
        told,
    } = observed;
    let first_where = |holds: &dyn Fn(Word) -> bool| {
        let mut decisions = decisions.iter();
        decisions.find(|decision| holds(decision.word))
    };
    let takes = first_where(&|word| word == Word::Takes(*new));
    let takes = takes.ok_or_else(|| format!("{} never chose n{new}", way.name()))?;
    let flip = first_where(&|word| matches!(word, Word::Loses(one) if one == *old));
    let by_another = |node: Option<u64>| node.is_some_and(|id| id != *old as u64);
    let resumed = attempts.iter().find(|attempt| {
        attempt.begun >= *struck && attempt.outcome.as_ref().is_ok_and(|&node| by_another(node))
    });
    let resumed = resumed.ok_or_else(|| format!("no write went through {}", way.name()))?;
    let failed = || attempts.iter().filter(|attempt| attempt.outcome.is_err());
    let last_failure = failed().rfind(|attempt| attempt.ended >= *struck);
    Ok(Split {
        out: millis(*struck, resumed.ended),
        last_failure: last_failure.map_or(0.0, |attempt| millis(*struck, attempt.ended)),
        election: millis(*struck, *elected),
        detection: millis(*elected, takes.decided),
        store: millis(takes.decided, takes.done),
        first_write: millis(takes.done, resumed.ended),
        told: told.map(|told| millis(*struck, told)),
        told_after_flip: told
            .zip(flip)
            .map(|(told, flip)| millis(flip.done, told))
            .filter(|&after| after >= 0.0),
        flaps: failed()
            .filter(|attempt| attempt.begun >= resumed.ended)
            .count(),
    })
}

impl Split {
    /// What the balancer adds to the election: until the next packet goes to
    /// the new leader.
    pub fn share(&self) -> f64 {
        self.detection + self.store
    }
}

/// From one moment to another; negative where they are the other way round.
pub fn millis(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(later) => later.as_secs_f64() * 1e3,
        None => -(from.duration_since(to).as_secs_f64() * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::decision::Decision;
    use super::super::way::Way;
    use super::*;
    use crate::traffic::Failure;
    use crate::traffic::writes::Attempt;

    struct Story(Instant);

    impl Story {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn attempt(&self, begun: u64, ended: u64, outcome: Result<u64, Failure>) -> Attempt {
            Attempt {
                key: "k".into(),
                value: "v".into(),
                begun: self.at(begun),
                ended: self.at(ended),
                outcome: outcome.map(Some),
            }
        }

        fn decision(&self, word: Word, decided: u64, done: u64) -> Decision {
            Decision {
                word,
                decided: self.at(decided),
                done: self.at(done),
            }
        }

        /// Node 1 is struck at 1000, node 2 elected at 1400.
        fn observed(&self) -> Observed {
            Observed {
                way: Way::Push,
                struck: self.at(1000),
                old: 1,
                elected: (self.at(1400), 2),
                decisions: vec![
                    self.decision(Word::Loses(1), 1020, 1021),
                    self.decision(Word::Takes(2), 1403, 1404),
                ],
                attempts: vec![
                    self.attempt(990, 995, Ok(1)),
                    // The old leader's last word is no sign of recovery.
                    self.attempt(1001, 1003, Ok(1)),
                    self.attempt(1013, 1022, Err(Failure::Reset)),
                    self.attempt(1026, 1027, Err(Failure::Refused)),
                    self.attempt(1405, 1410, Ok(2)),
                ],
                told: Some(self.at(1024)),
            }
        }
    }

    #[test]
    fn the_parts_make_up_the_whole() {
        let story = Story(Instant::now());
        let split = split(&story.observed()).unwrap();
        let expected = Split {
            out: 410.0,
            last_failure: 27.0,
            election: 400.0,
            detection: 3.0,
            store: 1.0,
            first_write: 6.0,
            told: Some(24.0),
            told_after_flip: Some(3.0),
            flaps: 0,
        };
        assert_eq!(split, expected);
        assert_eq!(split.share(), 4.0);
        let parts = split.election + split.share() + split.first_write;
        assert_eq!(parts, split.out);
    }

    #[test]
    fn a_failure_after_the_first_acknowledgement_is_a_flap() {
        let story = Story(Instant::now());
        let mut observed = story.observed();
        let late = story.attempt(1420, 1425, Err(Failure::Status(503)));
        observed.attempts.push(late);
        let found = split(&observed).unwrap();
        assert_eq!((found.flaps, found.last_failure), (1, 425.0));
    }

    #[test]
    fn a_client_that_the_dead_server_told_was_not_told_by_us() {
        let story = Story(Instant::now());
        let mut observed = story.observed();
        observed.told = Some(story.at(1002));
        let found = split(&observed).unwrap();
        assert_eq!((found.told, found.told_after_flip), (Some(2.0), None));
        observed.told = None;
        let found = split(&observed).unwrap();
        assert_eq!((found.told, found.told_after_flip), (None, None));
    }

    #[test]
    fn without_a_decision_or_an_acknowledgement_there_is_no_number() {
        let story = Story(Instant::now());
        let mut observed = story.observed();
        observed.attempts.pop();
        assert!(split(&observed).is_err());
        let mut observed = story.observed();
        observed.decisions.pop();
        assert!(split(&observed).is_err());
    }

    #[test]
    fn what_comes_before_is_negative() {
        let story = Story(Instant::now());
        assert_eq!(millis(story.at(5), story.at(3)), -2.0);
    }
}
