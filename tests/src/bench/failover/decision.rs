//! What a balancer decided, and when, as its own log tells it.
//!
//! `lb` logs each change of the leader right after it has changed the tables,
//! and at level debug how long that took; its lines bear the time of day in
//! microseconds. HAProxy logs each server that it takes for UP or DOWN.

use std::time::{Duration, Instant, SystemTime};

use crate::balancer::POOL;

/// A word about one node and the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// New connections go to it.
    Takes(usize),
    /// None go to it any more.
    Loses(usize),
}

/// A word, and when it was spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub word: Word,
    /// When it stood fast.
    pub decided: Instant,
    /// When it held for the next packet.
    pub done: Instant,
}

/// Microseconds since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay(u64);

const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    instant: Instant,
    time: TimeOfDay,
}

impl Clock {
    /// Now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros() % u128::from(DAY_US);
        Self {
            instant: Instant::now(),
            time: TimeOfDay(micros as u64),
        }
    }

    /// The moment of a time of day, of the twelve hours before and after.
    pub fn moment(self, TimeOfDay(micros): TimeOfDay) -> Instant {
        let later = (micros + DAY_US - self.time.0) % DAY_US;
        if later < DAY_US / 2 {
            self.instant + Duration::from_micros(later)
        } else {
            self.instant - Duration::from_micros(DAY_US - later)
        }
    }
}

/// Reads `lb`'s log, line by line.
#[derive(Debug, Default)]
pub struct LogReader {
    /// The last change of the tables: when it ended, and how long it took.
    changed: Option<(Instant, Duration)>,
}

impl LogReader {
    /// The decisions that a line tells of: none, as a rule.
    pub fn read(&mut self, clock: Clock, line: &str) -> Vec<Decision> {
        let Some((time, rest)) = line.split_once(' ') else {
            return Vec::new();
        };
        let Some(at) = time_of_day(time).map(|time| clock.moment(time)) else {
            return Vec::new();
        };
        let Some((_level, message)) = rest.trim_start().split_once(' ') else {
            return Vec::new();
        };
        if let Some(fields) = message.trim_start().strip_prefix("changed the tables ") {
            let mut fields = fields.split(' ');
            let took = fields.find_map(|field| field.strip_prefix("took_us="));
            let took = took.and_then(|took| took.trim().parse().ok());
            self.changed = took.map(|took| (at, Duration::from_micros(took)));
            return Vec::new();
        }
        let words = leaders(message.trim());
        // The notice follows upon the change. Without one, the tables were
        // right already.
        let (done, took) = match self.changed {
            Some(changed) if !words.is_empty() => changed,
            Some(_) | None => (at, Duration::ZERO),
        };
        let decision = |word| Decision {
            word,
            decided: done - took,
            done,
        };
        words.into_iter().map(decision).collect()
    }
}

/// `2026-11-28T12:40:01.123456Z`.
fn time_of_day(text: &str) -> Option<TimeOfDay> {
    let (_, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (seconds, fraction) = time.split_once('.')?;
    let mut micros = 0;
    for part in seconds.split(':') {
        micros = micros * 60 + part.parse::<u64>().ok()?;
    }
    let fraction: u64 = format!("{fraction:0<6}").parse().ok()?;
    Some(TimeOfDay(micros * 1_000_000 + fraction))
}

/// `pool kv: n2 leads instead of n1, term 7` and the like.
fn leaders(message: &str) -> Vec<Word> {
    let said = message.strip_prefix(&format!("pool {POOL}: ") as &str);
    let words: Vec<&str> = said.unwrap_or_default().split([' ', ',']).collect();
    let (takes, loses) = match words[..] {
        [from, "leads", "no", "more", ..] => (None, number(from)),
        [to, "leads", "instead", "of", from, ..] => (number(to), number(from)),
        [to, "leads", ..] => (number(to), None),
        _ => (None, None),
    };
    let loses = loses.map(Word::Loses);
    loses.into_iter().chain(takes.map(Word::Takes)).collect()
}

/// Which of its two services a line of HAProxy's is about, and what it says:
/// `Server write/n2 is DOWN, reason: …`.
pub fn haproxy(line: &str) -> Option<(&str, Word)> {
    let (_, said) = line.split_once("Server ")?;
    let (server, state) = said.split_once(" is ")?;
    let (service, node) = server.split_once('/')?;
    let node = number(node)?;
    let word = match &state[..state.find([',', '.', ' ']).unwrap_or(state.len())] {
        "UP" => Word::Takes(node),
        "DOWN" => Word::Loses(node),
        _ => return None,
    };
    Some((service, word))
}

/// The node that is called so.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ours_tells_who_leads_and_the_one_before_when() {
        let clock = Clock::now();
        let mut reader = LogReader::default();
        let at = |time: &str| clock.moment(time_of_day(time).unwrap());
        let table: [(&str, &[Word]); 6] = [
            ("INFO the data path is up interface=\"eth0\"", &[]),
            ("INFO pool kv: n2 leads, term 7", &[Word::Takes(2)]),
            (
                "INFO pool kv: n3 leads instead of n2, term 8",
                &[Word::Loses(2), Word::Takes(3)],
            ),
            (
                "WARN pool kv: n3 leads no more, nobody does: it is DOWN",
                &[Word::Loses(3)],
            ),
            ("WARN pool kv: no server claims to lead", &[]),
            ("INFO pool other: n2 leads, term 7", &[]),
        ];
        for (line, words) in table {
            let change = "2026-11-28T12:40:01.000500Z DEBUG changed the tables steps=3 took_us=400";
            assert!(reader.read(clock, change).is_empty());
            let said = reader.read(clock, &format!("2026-11-28T12:40:01.000700Z  {line}"));
            let expected = words.iter().map(|&word| Decision {
                word,
                decided: at("2026-11-28T12:40:01.000100Z"),
                done: at("2026-11-28T12:40:01.000500Z"),
            });
            assert_eq!(said, expected.collect::<Vec<_>>(), "{line}");
        }
    }

    #[test]
    fn a_time_of_day_is_the_nearest_one() {
        let clock = Clock {
            instant: Instant::now() + Duration::from_secs(3600),
            time: time_of_day("2026-11-28T00:00:01.0Z").unwrap(),
        };
        let at = |text| clock.moment(time_of_day(text).unwrap());
        let before = at("2026-11-27T23:59:59.5Z");
        let after = at("2026-11-28T00:00:01.25Z");
        assert_eq!(clock.instant - before, Duration::from_millis(1500));
        assert_eq!(after - clock.instant, Duration::from_millis(250));
    }

    #[test]
    fn a_line_of_haproxy_tells_which_server_is_up_or_down() {
        let down = "<129>Nov 28 12:40:01 haproxy[7]: Server write/n1 is DOWN, reason: Layer7";
        let up = "<133>Nov 28 12:40:01 haproxy[7]: Server read/n3 is UP, reason: Layer7 check";
        assert_eq!(haproxy(down), Some(("write", Word::Loses(1))));
        assert_eq!(haproxy(up), Some(("read", Word::Takes(3))));
        assert_eq!(haproxy("<129>haproxy[7]: proxy write has no server"), None);
    }
}
