//! Whether what was read of one key, and written to it, is linearizable. The
//! search is `todc_utils`': Wing and Gong's, with Lowe's memory of what was
//! tried. What is ours is how a history is put to it.
//!
//! A write whose outcome is unknown stays open for ever, and the search would
//! try it everywhere. No value is written twice, which spares us that:
//!
//! - An open write whose value nobody read may as well never have happened.
//! - In whatever order explains a history, a value's first read follows right
//!   after its write. So the write took effect before the first of its reads
//!   that ends has ended, and it can be moved to where the first of them has
//!   begun, or to its own end.
//!
//! That changes no verdict, and leaves next to nothing to be searched.

use std::collections::HashMap;

use todc_utils::specifications::Specification;
use todc_utils::{Action, History, WGLChecker};

use super::history::{Operation, Outcome};

/// A value of the register, by number.
type Value = usize;
/// Where nothing was written yet.
const NOTHING: Value = 0;

/// What a register is asked for, with what it answered.
#[derive(Debug, Clone, Copy)]
enum Access {
    Read(Value),
    Write(Value),
}

/// How a register behaves.
struct Register;

impl Specification for Register {
    type State = Value;
    type Operation = Access;

    fn init() -> Value {
        NOTHING
    }

    fn apply(access: &Access, state: &Value) -> (bool, Value) {
        match access {
            Access::Read(value) => (value == state, *state),
            Access::Write(value) => (true, *value),
        }
    }
}

/// Looks for an order of `operations`, all of one key, that explains each
/// linearizable read. Where there is none: where in time it is too late, that
/// is, when the first operation ended that cannot be explained any more.
pub fn check(operations: &[&Operation]) -> Result<(), u64> {
    if is_linearizable(operations, u64::MAX) {
        return Ok(());
    }
    // What begins with something wrong is wrong: so the first such beginning
    // can be looked for by halves.
    let mut ends: Vec<u64> = operations.iter().map(|one| one.ended).collect();
    ends.sort_unstable();
    let first = ends.partition_point(|&end| is_linearizable(operations, end));
    Err(ends.get(first).or(ends.last()).copied().unwrap_or(u64::MAX))
}

/// Whether all that was known by `until` is linearizable.
fn is_linearizable(operations: &[&Operation], until: u64) -> bool {
    let Some(events) = events(operations, until) else {
        return false;
    };
    events.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(events))
}

/// Calls and responses in the order of time, each operation as a process of its
/// own. `None` where a value was read before anybody asked to write it.
fn events(operations: &[&Operation], until: u64) -> Option<Vec<(usize, Action<Access>)>> {
    let mut sightings: HashMap<&str, Sighting> = HashMap::new();
    for read in operations.iter().filter(|one| one.ended <= until) {
        if let Some(Some(value)) = read.linearizable_read() {
            sightings.entry(value).or_default().add(read);
        }
    }
    let mut numbers = Numbers::default();
    let mut events = Vec::new();
    for (process, operation) in operations.iter().enumerate() {
        let Some((access, begin, end)) = numbers.access(operation, until, &sightings) else {
            continue;
        };
        if end < begin {
            return None;
        }
        // Of what happened at one moment, calls come first: the operations
        // overlap, which allows more than any other order.
        events.push((begin, Edge::Call, process, access));
        events.push((end, Edge::Response, process, access));
    }
    events.sort_unstable_by_key(|&(at, edge, process, _)| (at, edge, process));
    let actions = events.into_iter().map(|(_, edge, process, access)| {
        let action = match edge {
            Edge::Call => Action::Call(access),
            Edge::Response => Action::Response(access),
        };
        (process, action)
    });
    Some(actions.collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Call,
    Response,
}

/// When a value was read.
struct Sighting {
    /// When the first of its reads began.
    begun: u64,
    /// When the first of them to end did.
    ended: u64,
}

impl Default for Sighting {
    fn default() -> Self {
        Self {
            begun: u64::MAX,
            ended: u64::MAX,
        }
    }
}

impl Sighting {
    fn add(&mut self, read: &Operation) {
        self.begun = self.begun.min(read.invoked);
        self.ended = self.ended.min(read.ended);
    }
}

/// Gives each value its number.
#[derive(Default)]
struct Numbers<'a>(HashMap<&'a str, Value>);

impl<'a> Numbers<'a> {
    /// What `operation` did to the register, and between which moments;
    /// `None` if nothing, or nothing that anybody saw.
    fn access(
        &mut self,
        operation: &'a Operation,
        until: u64,
        sightings: &HashMap<&str, Sighting>,
    ) -> Option<(Access, u64, u64)> {
        let Operation { invoked, ended, .. } = *operation;
        if let Some(value) = operation.linearizable_read() {
            let value = value.map_or(NOTHING, |value| self.number(value));
            return (ended <= until).then_some((Access::Read(value), invoked, ended));
        }
        let value = operation.put().filter(|_| invoked <= until)?;
        let seen = sightings.get(value);
        let latest = match operation.outcome {
            Outcome::Written { .. } if ended <= until => ended,
            Outcome::Written { .. } | Outcome::Unknown(_) => seen?.ended,
            Outcome::Refused(_) | Outcome::Found { .. } => return None,
        };
        let (begin, end) = match seen {
            Some(seen) => {
                let end = latest.min(seen.ended);
                (invoked.max(seen.begun.min(end)), end)
            }
            None => (invoked, latest),
        };
        Some((Access::Write(self.number(value)), begin, end))
    }

    fn number(&mut self, value: &'a str) -> Value {
        let next = self.0.len() + 1;
        *self.0.entry(value).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{get, put, refused, unknown};
    use super::*;
    use crate::rows::random::Random;

    fn verdict(operations: &[Operation]) -> Result<(), u64> {
        check(&operations.iter().collect::<Vec<_>>())
    }

    #[test]
    fn nothing_and_reads_of_nothing_are_in_order() {
        assert_eq!(verdict(&[]), Ok(()));
        assert_eq!(verdict(&[get(0, 1, None), get(2, 3, None)]), Ok(()));
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_any_order() {
        let history = [
            put(0, 10, "a"),
            put(0, 10, "b"),
            get(2, 3, Some("b")),
            get(4, 5, Some("a")),
        ];
        assert_eq!(verdict(&history), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found_and_dated() {
        let history = [
            put(0, 1, "a"),
            put(2, 3, "b"),
            get(4, 5, Some("b")),
            get(6, 7, Some("a")),
            get(8, 9, Some("b")),
        ];
        assert_eq!(verdict(&history), Err(7));
    }

    #[test]
    fn a_read_that_sees_nothing_after_an_acknowledged_write_is_found() {
        assert_eq!(verdict(&[put(0, 1, "a"), get(2, 3, None)]), Err(3));
    }

    #[test]
    fn two_reads_that_disagree_about_the_order_are_found() {
        let history = [
            put(0, 10, "a"),
            put(0, 10, "b"),
            get(11, 12, Some("a")),
            get(13, 14, Some("b")),
        ];
        assert_eq!(verdict(&history), Err(14));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_or_never() {
        let never = [put(0, 1, "a"), unknown(2, 3, "b"), get(4, 5, Some("a"))];
        assert_eq!(verdict(&never), Ok(()));
        let late = [
            put(0, 1, "a"),
            unknown(2, 3, "b"),
            get(4, 5, Some("a")),
            put(6, 7, "c"),
            get(8, 9, Some("b")),
            get(10, 11, Some("b")),
        ];
        assert_eq!(verdict(&late), Ok(()));
        let twice = [
            put(0, 1, "a"),
            unknown(2, 3, "b"),
            get(4, 5, Some("b")),
            get(6, 7, Some("a")),
        ];
        assert_eq!(verdict(&twice), Err(7));
    }

    #[test]
    fn a_value_that_was_refused_or_not_yet_asked_for_cannot_be_read() {
        let history = [refused(0, 1, "a"), get(2, 3, Some("a"))];
        assert_eq!(verdict(&history), Err(3));
        let history = [get(0, 1, Some("a")), unknown(2, 3, "a")];
        assert_eq!(verdict(&history), Err(1));
    }

    /// The same question without our shortcuts: each open write may take effect
    /// at any time until the end.
    fn plainly(operations: &[Operation]) -> bool {
        let mut numbers = Numbers::default();
        let mut events = Vec::new();
        for (process, operation) in operations.iter().enumerate() {
            let access = match (operation.linearizable_read(), operation.put()) {
                (Some(value), _) => {
                    Access::Read(value.map_or(NOTHING, |value| numbers.number(value)))
                }
                (None, Some(value)) => Access::Write(numbers.number(value)),
                (None, None) => unreachable!("neither read nor written"),
            };
            let end = match operation.outcome {
                Outcome::Unknown(_) => u64::MAX,
                _ => operation.ended,
            };
            events.push((operation.invoked, Edge::Call, process, Action::Call(access)));
            events.push((end, Edge::Response, process, Action::Response(access)));
        }
        events.sort_by_key(|&(at, edge, process, _)| (at, edge, process));
        let actions = events
            .into_iter()
            .map(|(_, _, process, action)| (process, action));
        WGLChecker::<Register>::is_linearizable(History::from_actions(actions.collect()))
    }

    #[test]
    fn the_shortcuts_change_no_verdict() {
        let mut random = Random::new(1);
        let mut verdicts = [0, 0];
        for _ in 0..30_000 {
            let count = 3 + random.below(6);
            let history: Vec<Operation> = (0..count)
                .map(|number| {
                    let begin = random.below(12) as u64;
                    let end = begin + random.below(5) as u64;
                    let value = random.one_of(&["v0", "v1", "v2", "v3"]);
                    match random.below(5) {
                        0 => put(begin, end, &format!("v{number}")),
                        1 => unknown(begin, end, &format!("v{number}")),
                        2 => get(begin, end, None),
                        _ => get(begin, end, Some(value)),
                    }
                })
                .collect();
            let expected = plainly(&history);
            assert_eq!(verdict(&history).is_ok(), expected, "{history:#?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 1000), "{verdicts:?}");
    }

    #[test]
    fn thousands_of_operations_with_open_writes_among_them_are_checked() {
        // Eight clients; each write takes effect in its middle, every
        // twentieth is never answered, and some of those take effect late.
        let mut history = Vec::new();
        let mut effects: Vec<(u64, String)> = Vec::new();
        for number in 0..3000_u64 {
            let (begin, value) = (number * 10, format!("v{number}"));
            if number % 2 == 1 {
                continue;
            }
            let effect = begin + 20;
            if number % 20 == 0 {
                history.push(unknown(begin, begin + 30, &value));
                match number % 3 {
                    0 => {}
                    1 => effects.push((effect, value)),
                    _ => effects.push((effect + 900, value)),
                }
            } else {
                history.push(put(begin, begin + 40, &value));
                effects.push((effect, value));
            }
        }
        effects.sort();
        for number in (1..3000_u64).step_by(2) {
            let (begin, at) = (number * 10, number * 10 + 15);
            let seen = effects.partition_point(|(effect, _)| *effect <= at);
            let value = seen.checked_sub(1).map(|last| effects[last].1.as_str());
            history.push(get(begin, begin + 30, value));
        }
        assert_eq!(verdict(&history), Ok(()));
        // The same, with one read that is two writes late.
        let late = history.len() - 200;
        history[late] = get(history[late].invoked, history[late].ended, Some("v2"));
        assert_eq!(verdict(&history), Err(history[late].ended));
    }
}
