//! When one server is checked.
//!
//! Each server has turns of its own, an interval apart, and keeps to them: when
//! the agent was held up, those that missed theirs wait for the next, and do not
//! all come at once from then on. Turns are on beats that all servers share, so
//! that a thousand of them do not wake the thread a thousand times. A beat is a
//! fiftieth of the interval, and [`BEAT_MAX`] at most: nothing that an operator
//! would notice.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Pace;

/// The shortest time from the end of one check to the start of the next,
/// however urgently it is asked for.
const REST: Duration = Duration::from_millis(1);

/// The longest time between two beats.
const BEAT_MAX: Duration = Duration::from_millis(20);
/// Beats in an interval, at least.
const BEATS: u32 = 50;

/// The times from check to check, one for each pace.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    pub normal: Duration,
    pub fast: Duration,
    pub down: Duration,
}

impl Intervals {
    fn of(self, pace: Pace) -> Duration {
        match pace {
            Pace::Normal => self.normal,
            Pace::Fast => self.fast,
            Pace::Down => self.down,
        }
    }
}

/// One server's turns.
pub struct Schedule {
    intervals: Intervals,
    epoch: Instant,
    share: f64,
    pace: Pace,
    /// Whether a check is wanted at once.
    urgent: bool,
    /// When the last check began, counted from the epoch.
    began: Option<Duration>,
    /// Before when there is none.
    rested: Instant,
}

impl Schedule {
    /// The turns of a server that come the part `share` of an interval, 0 to 1, after
    /// `epoch`: the first beat, for all servers that are probed from the same time on.
    pub fn new(intervals: Intervals, epoch: Instant, share: f64) -> Self {
        Self {
            intervals,
            epoch,
            share,
            pace: Pace::default(),
            urgent: false,
            began: None,
            rested: epoch,
        }
    }

    /// Asks for a check at once; before it begins, once more is the same.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Whether one was asked for that has not begun.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Has turns at another pace from now on.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// When the next check is to begin.
    pub fn due(&self) -> Instant {
        match self.urgent {
            true => self.rested,
            false => {
                let turn = turn(self.began, self.intervals.of(self.pace), self.share);
                self.rested.max(self.epoch + turn)
            }
        }
    }

    /// A check begins; whether it was asked for.
    pub fn begin(&mut self, now: Instant) -> bool {
        self.began = Some(now - self.epoch);
        std::mem::take(&mut self.urgent)
    }

    /// It ended.
    pub fn end(&mut self, now: Instant) {
        self.rested = now + REST;
    }
}

/// The first turn after the last check began, counted from the epoch, as that
/// is; the first turn of all where there was no check.
fn turn(began: Option<Duration>, interval: Duration, share: f64) -> Duration {
    let beats = (interval / BEATS).min(BEAT_MAX).as_nanos();
    let first = interval.mul_f64(share);
    let late = first.as_nanos().checked_rem(beats).unwrap_or(0);
    // Less than a beat.
    let first = first - Duration::from_nanos(late as u64);
    let Some(passed) = began.and_then(|began| began.checked_sub(first)) else {
        return first;
    };
    // None but an interval of nothing has no turns.
    let into = passed.as_nanos().checked_rem(interval.as_nanos());
    first + passed + interval - Duration::from_nanos(into.unwrap_or(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn turns_are_on_beats_and_an_interval_apart() {
        let table = [
            (1000 * MS, 0.013, Duration::ZERO),
            (1000 * MS, 0.5, 500 * MS),
            (1000 * MS, 0.999, 980 * MS),
            (100 * MS, 0.033, 2 * MS),
            (5 * MS, 0.5, 5 * MS / 2),
        ];
        for (interval, share, first) in table {
            assert_eq!(turn(None, interval, share), first, "{interval:?} {share}");
            for number in 0..100 {
                // The timer fires a little late.
                let began = first + number * interval + MS / 3;
                let next = turn(Some(began), interval, share);
                assert_eq!(next, first + (number + 1) * interval);
            }
        }
    }

    #[test]
    fn who_was_held_up_or_asked_for_in_between_waits_for_its_own_turn() {
        let (interval, share) = (1000 * MS, 0.5);
        for (began, next) in [(100, 500), (700, 1500), (4200, 4500), (4600, 5500)] {
            assert_eq!(
                turn(Some(began * MS), interval, share),
                next * MS,
                "{began}"
            );
        }
    }
}
