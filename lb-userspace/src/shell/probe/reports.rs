//! Reports of checks on their way to the agent.
//!
//! Most say of a server that it is well, as those before did. They wake nobody: the
//! agent takes them when it wakes for something else, with its next tick at the
//! latest. What may be news rings. All of them are in one line, in their order.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::engine::Event;

/// What was found and not taken yet: of each server one report an interval, as long
/// as the agent is held up.
#[derive(Debug, Default)]
pub struct Reports {
    waiting: Mutex<Vec<Event>>,
    bell: Notify,
}

impl Reports {
    /// Adds a report that can wait.
    pub fn put(&self, report: Event) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(report);
    }

    /// Adds a report, and has all of them taken at once.
    pub fn put_news(&self, report: Event) {
        self.put(report);
        self.bell.notify_one();
    }

    /// Comes back when there is news.
    pub async fn news(&self) {
        self.bell.notified().await;
    }

    /// Takes all that there are.
    pub fn take(&self) -> Vec<Event> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut waiting)
    }
}
