//! When one server is checked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::check::Check;
use crate::config::{PoolName, ServerName};
use crate::engine::{Event, Pace};

/// The shortest time from the end of one check to the start of the next,
/// however urgently it is asked for.
const REST: Duration = Duration::from_millis(5);

/// The time from check to check while there is something to find out.
pub fn fast_interval(interval: Duration) -> Duration {
    let quarter = interval / 4;
    let fast = quarter.clamp(Duration::from_millis(20), Duration::from_millis(100));
    fast.min(interval)
}

/// One server's checks, one after the other.
pub struct Schedule {
    pub pool: PoolName,
    pub server: ServerName,
    pub interval: Duration,
    /// Which of how many servers of the pool this is.
    pub position: (usize, usize),
    pub check: Check,
    /// Rings when a check is wanted at once.
    pub bell: Arc<Notify>,
    pub pace: watch::Receiver<Pace>,
    pub events: mpsc::Sender<Event>,
}

impl Schedule {
    /// Checks until nobody listens to the reports any more.
    pub async fn run(mut self) {
        let (index, servers) = self.position;
        let share = index as f64 / servers.max(1) as f64;
        let mut origin = Instant::now();
        let mut passed = true;
        let mut first = true;
        let mut rested = origin;
        loop {
            let interval = self.current_interval(passed);
            let due = origin
                + if first {
                    interval.mul_f64(share)
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
            passed = report.outcome.passed();
            let (pool, server) = (self.pool.clone(), self.server.clone());
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

    fn current_interval(&mut self, passed: bool) -> Duration {
        match *self.pace.borrow_and_update() {
            Pace::Normal if passed => self.interval,
            Pace::Normal | Pace::Fast => fast_interval(self.interval),
        }
    }
}
