//! What must be true of a history, whatever was done to the deployment.
//!
//! - The linearizable operations on each key are linearizable ([`register`]);
//! - no linearizable read misses a write that was acknowledged before it;
//! - every read, also an eventual one, finds what somebody asked to write
//!   before, and was not refused;
//! - writes lie in the log in the order of time: one that begins after another
//!   was acknowledged has the higher index, and no older term;
//! - in each term one node acknowledges writes, and no other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::history::{History, Operation, Outcome};
use super::register;

/// How many operations before a wrong one are shown with it.
const SHOWN: usize = 12;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// No order explains what was read.
    NotLinearizable {
        /// Of this key.
        key: String,
        /// The operation with which it became clear, and those before it.
        last: Vec<Operation>,
    },
    /// An acknowledged write that a later read did not find.
    Lost {
        /// The write.
        write: Operation,
        /// The read.
        read: Operation,
    },
    /// A value that nobody had asked to write, or that was refused.
    Invented(Operation),
    /// A write that lies before an older one.
    OutOfOrder {
        /// Acknowledged first.
        earlier: Operation,
        /// Begun after that.
        later: Operation,
    },
    /// Nodes that acknowledged writes in one term.
    TwoWriters {
        /// The term.
        term: u64,
        /// A write that one of them acknowledged.
        one: Operation,
        /// A write that another one did.
        other: Operation,
    },
}

/// All that is wrong with a history.
pub fn check(history: &History) -> Vec<Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut violations = Vec::new();
    for (key, operations) in keys {
        violations.extend(invented(&operations).map(|read| Violation::Invented(read.clone())));
        violations.extend(lost(&operations));
        if let Err(at) = register::check(&operations) {
            let last = last_before(&operations, at);
            let key = key.to_owned();
            violations.push(Violation::NotLinearizable { key, last });
        }
    }
    violations.extend(out_of_order(&history.operations));
    violations.extend(two_writers(&history.operations));
    violations
}

/// Those that ended by `at`, the last of them last.
fn last_before(operations: &[&Operation], at: u64) -> Vec<Operation> {
    let mut ended: Vec<&Operation> = operations.to_vec();
    ended.retain(|operation| operation.ended <= at);
    ended.sort_by_key(|operation| operation.ended);
    let shown = ended.len().saturating_sub(SHOWN);
    ended[shown..].iter().copied().cloned().collect()
}

/// Reads of one key that found what cannot have been there.
fn invented<'a>(operations: &[&'a Operation]) -> impl Iterator<Item = &'a Operation> {
    let mut asked: HashMap<&str, u64> = HashMap::new();
    for operation in operations {
        let refused = matches!(operation.outcome, Outcome::Refused(_));
        if let Some(value) = operation.put().filter(|_| !refused) {
            asked.insert(value, operation.invoked);
        }
    }
    operations.iter().copied().filter(move |read| {
        let Outcome::Found {
            value: Some(value), ..
        } = &read.outcome
        else {
            return false;
        };
        asked
            .get(value.as_str())
            .is_none_or(|&invoked| read.ended < invoked)
    })
}

/// A read of one key that found nothing although there was something. Nothing
/// is ever deleted.
fn lost(operations: &[&Operation]) -> Option<Violation> {
    let acknowledged = operations
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Written { .. }));
    let write = acknowledged.min_by_key(|write| write.ended)?;
    let read = operations
        .iter()
        .find(|read| read.linearizable_read() == Some(None) && read.invoked > write.ended)?;
    Some(Violation::Lost {
        write: (*write).clone(),
        read: (*read).clone(),
    })
}

/// An acknowledged write, and where it lies.
struct Acknowledged<'a> {
    operation: &'a Operation,
    index: u64,
    term: u64,
    node: u64,
}

fn acknowledged<'a>(operations: &'a [Operation]) -> Vec<Acknowledged<'a>> {
    let written = |operation: &'a Operation| match operation.outcome {
        Outcome::Written { index, term, node } => Some(Acknowledged {
            operation,
            index,
            term,
            node,
        }),
        Outcome::Found { .. } | Outcome::Refused(_) | Outcome::Unknown(_) => None,
    };
    operations.iter().filter_map(written).collect()
}

fn out_of_order(operations: &[Operation]) -> Vec<Violation> {
    let mut begun = acknowledged(operations);
    begun.sort_by_key(|write| write.operation.invoked);
    let mut ended = acknowledged(operations);
    ended.sort_by_key(|write| write.operation.ended);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<Acknowledged<'_>> = None;
    let mut violations = Vec::new();
    for later in begun {
        while let Some(earlier) =
            ended.next_if(|earlier| earlier.operation.ended < later.operation.invoked)
        {
            if newest
                .as_ref()
                .is_none_or(|newest| (newest.term, newest.index) < (earlier.term, earlier.index))
            {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = &newest
            && (later.index <= earlier.index || later.term < earlier.term)
        {
            violations.push(Violation::OutOfOrder {
                earlier: earlier.operation.clone(),
                later: later.operation.clone(),
            });
        }
    }
    violations
}

fn two_writers(operations: &[Operation]) -> Vec<Violation> {
    let mut writers: BTreeMap<u64, Acknowledged<'_>> = BTreeMap::new();
    let mut violations: BTreeMap<u64, Violation> = BTreeMap::new();
    for write in acknowledged(operations) {
        let term = write.term;
        let (node, other) = (write.node, write.operation);
        let first = writers.entry(term).or_insert(write);
        if first.node != node {
            let violation = Violation::TwoWriters {
                term,
                one: first.operation.clone(),
                other: other.clone(),
            };
            violations.entry(term).or_insert(violation);
        }
    }
    violations.into_values().collect()
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable { key, last } => {
                write!(out, "{key} is not linearizable; up to the moment when:")?;
                last.iter()
                    .try_for_each(|operation| write!(out, "\n  {}", Shown(operation)))
            }
            Self::Lost { write, read } => {
                let (write, read) = (Shown(write), Shown(read));
                write!(out, "a write is lost:\n  {write}\n  {read}")
            }
            Self::Invented(read) => {
                let read = Shown(read);
                write!(out, "a value that was not written before:\n  {read}")
            }
            Self::OutOfOrder { earlier, later } => {
                let (earlier, later) = (Shown(earlier), Shown(later));
                write!(out, "the log is not in order:\n  {earlier}\n  {later}")
            }
            Self::TwoWriters { term, one, other } => {
                let (one, other) = (Shown(one), Shown(other));
                write!(out, "two nodes wrote in term {term}:\n  {one}\n  {other}")
            }
        }
    }
}

/// An operation on one line.
struct Shown<'a>(&'a Operation);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation {
            client,
            via,
            key,
            action,
            invoked,
            ended,
            outcome,
        } = self.0;
        let (begin, end) = (*invoked as f64 / 1e9, *ended as f64 / 1e9);
        write!(
            out,
            "{begin:.6} to {end:.6} s, client {client}, {via:?}: {key} {action:?}: {outcome:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{eventual, get, put, refused, unknown};
    use super::*;

    fn violations(operations: &[Operation]) -> Vec<Violation> {
        check(&History {
            operations: operations.to_vec(),
            incidents: Vec::new(),
        })
    }

    /// An acknowledged write with its place in the log.
    fn written(invoked: u64, ended: u64, index: u64, term: u64, node: u64) -> Operation {
        Operation {
            outcome: Outcome::Written { index, term, node },
            ..put(invoked, ended, &format!("{invoked}"))
        }
    }

    fn other_key(operation: Operation) -> Operation {
        let key = "other".into();
        Operation { key, ..operation }
    }

    #[test]
    fn keys_are_registers_of_their_own() {
        let history = [
            put(1, 2, "a"),
            other_key(put(3, 4, "b")),
            get(5, 6, Some("a")),
            other_key(get(5, 6, Some("b"))),
            other_key(eventual(7, 8, None)),
        ];
        assert_eq!(violations(&history), []);
    }

    #[test]
    fn a_stale_read_is_shown_with_what_came_before_it() {
        let stale = get(7, 8, Some("a"));
        let history = [
            put(1, 2, "a"),
            put(3, 4, "b"),
            get(5, 6, Some("b")),
            stale.clone(),
            get(9, 10, Some("b")),
        ];
        let found = violations(&history);
        let [Violation::NotLinearizable { key, last }] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(key, "k");
        assert_eq!((last.len(), last.last()), (4, Some(&stale)));
        let shown = found[0].to_string();
        assert!(shown.contains("k is not linearizable"), "{shown}");
    }

    #[test]
    fn a_lost_write_is_called_so() {
        let found = violations(&[put(1, 2, "a"), get(3, 4, None)]);
        assert!(matches!(
            found[..],
            [Violation::Lost { .. }, Violation::NotLinearizable { .. }]
        ));
    }

    #[test]
    fn eventual_reads_may_be_late_but_invent_nothing() {
        let late = [
            put(1, 2, "a"),
            put(3, 4, "b"),
            eventual(5, 6, Some("a")),
            eventual(7, 8, None),
            unknown(9, 10, "c"),
            eventual(11, 12, Some("c")),
        ];
        assert_eq!(violations(&late), []);
        for wrong in [eventual(1, 2, Some("x")), eventual(1, 2, Some("a"))] {
            let history = [put(3, 4, "a"), wrong.clone()];
            assert_eq!(violations(&history), [Violation::Invented(wrong)]);
        }
        let wrong = eventual(3, 4, Some("a"));
        let history = [refused(1, 2, "a"), wrong.clone()];
        assert_eq!(violations(&history), [Violation::Invented(wrong)]);
    }

    #[test]
    fn a_write_that_begins_after_another_lies_behind_it_in_the_log() {
        let first = written(0, 10, 5, 2, 1);
        let overlapping = written(5, 20, 5, 2, 1);
        assert_eq!(violations(&[first.clone(), overlapping]), []);
        let newer = other_key(written(11, 12, 6, 3, 2));
        assert_eq!(violations(&[first.clone(), newer]), []);
        for (index, term, node) in [(5, 2, 1), (4, 3, 2), (6, 1, 2)] {
            let later = other_key(written(11, 12, index, term, node));
            let expected = Violation::OutOfOrder {
                earlier: first.clone(),
                later: later.clone(),
            };
            assert_eq!(violations(&[first.clone(), later]), [expected]);
        }
    }

    #[test]
    fn two_nodes_that_acknowledge_writes_of_one_term_are_found() {
        let (one, other) = (written(0, 1, 5, 2, 1), other_key(written(2, 3, 6, 2, 3)));
        let found = violations(&[one.clone(), other.clone()]);
        let term = 2;
        assert_eq!(found, [Violation::TwoWriters { term, one, other }]);
    }
}
