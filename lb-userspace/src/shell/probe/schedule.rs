//! When one server is checked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Name;
use super::check::Check;
use crate::engine::{Event, Pace};

/// The shortest time from the end of one check to the start of the next,
/// however urgently it is asked for.
const REST: Duration = Duration::from_millis(5);

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

/// One server's checks, one after the other.
pub struct Schedule {
    pub name: Name,
    pub intervals: Intervals,
    /// Which part of an interval the first check waits: 0 to 1.
    pub share: f64,
    pub check: Check,
    /// Rings when a check is wanted at once.
    pub bell: Arc<Notify>,
    pub pace: watch::Receiver<Pace>,
    pub events: mpsc::Sender<Event>,
}

impl Schedule {
    /// Checks until nobody listens to the reports any more.
    pub async fn run(mut self) {
        let mut origin = Instant::now();
        let mut first = true;
        let mut rested = origin;
        loop {
            let interval = self.intervals.of(*self.pace.borrow_and_update());
            let due = origin
                + if first {
                    interval.mul_f64(self.share)
                } else {
                    interval
                };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.bell.notified() => {}
                changed = self.pace.changed() => match changed {
                    // The interval is another one now.
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
            sleep_until(rested).await;
            origin = Instant::now();
            first = false;
            let report = self.check.run().await;
            rested = Instant::now() + REST;
            let (pool, server) = self.name.clone();
            let event = Event::Checked {
                pool,
                server,
                report,
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }
}
