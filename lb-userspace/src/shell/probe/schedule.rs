//! When one server is checked.
//!
//! Each server has turns of its own, an interval apart, and keeps to them: when
//! the agent was held up, those that missed theirs wait for the next, and do not
//! all come at once from then on. Turns are on beats that all servers share, so
//! that a thousand of them do not wake the thread a thousand times. A beat is a
//! fiftieth of the interval, and [`BEAT_MAX`] at most: nothing that an operator
//! would notice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Name;
use super::check::Check;
use super::reports::Reports;
use crate::engine::{Event, Pace};

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

/// What the engine wants of a server's checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// How often there is one.
    pub pace: Pace,
    /// How often one was wanted at once.
    pub asked: u64,
}

/// One server's checks, one after the other.
pub struct Schedule {
    pub name: Name,
    pub intervals: Intervals,
    /// The first beat, for all servers that are probed from the same time on.
    pub epoch: Instant,
    /// Which part of an interval the server's turns come after the epoch: 0 to 1.
    pub share: f64,
    pub check: Check,
    /// How many good checks in a row settle that a server is UP.
    pub rise: u32,
    pub orders: watch::Receiver<Orders>,
    pub reports: Arc<Reports>,
}

impl Schedule {
    /// Checks until nobody gives orders any more.
    pub async fn run(mut self) {
        let mut began = None;
        let mut rested = self.epoch;
        let mut answered = 0;
        let (mut said, mut repeated) = (None, 0_u32);
        loop {
            let Orders { pace, asked } = *self.orders.borrow_and_update();
            if asked == answered {
                let due = turn(began, self.intervals.of(pace), self.share);
                tokio::select! {
                    () = sleep_until(self.epoch + due) => {}
                    changed = self.orders.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
            }
            if Instant::now() < rested {
                sleep_until(rested).await;
            }
            let unasked = answered;
            answered = self.orders.borrow().asked;
            began = Some(self.epoch.elapsed());
            let report = self.check.run().await;
            rested = Instant::now() + REST;
            let says = Some((report.outcome, report.role.clone()));
            repeated = match said == says {
                true => repeated.saturating_add(1),
                false => 0,
            };
            said = says;
            let settled = report.outcome.passed() && repeated >= self.rise;
            let unasked = self.orders.borrow().asked == unasked;
            let (pool, server) = self.name.clone();
            let report = Event::Checked {
                pool,
                server,
                report,
            };
            match settled && unasked {
                true => self.reports.put(report),
                false => self.reports.put_news(report),
            }
        }
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
