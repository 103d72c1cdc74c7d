//! When a pool's leader is asked for the cluster's members, and what came of
//! it.

use std::time::{Duration, Instant};

use crate::config::ServerName;

/// What is known about a pool's list of members.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Who was asked last, and when.
    asked: Option<(ServerName, Instant)>,
    /// Who told last, and when.
    told: Option<(ServerName, Instant)>,
    /// Why the last answer is not believed.
    trouble: Option<String>,
}

impl Discovery {
    /// Whether to ask `leader` now: a new one at once. Takes it for asked then.
    pub fn is_due(&mut self, now: Instant, leader: &ServerName, interval: Duration) -> bool {
        let waits = self.asked.as_ref().is_some_and(|(asked, at)| {
            asked == leader && now.saturating_duration_since(*at) < interval
        });
        if !waits {
            self.asked = Some((leader.clone(), now));
        }
        !waits
    }

    /// Takes in what came of a question. Whether that is news.
    pub fn hear(&mut self, now: Instant, teller: &ServerName, trouble: Option<String>) -> bool {
        if trouble.is_none() {
            self.told = Some((teller.clone(), now));
        }
        let news = self.trouble != trouble;
        self.trouble = trouble;
        news
    }

    /// For an operator: who told the members how long ago, or why nobody does.
    #[must_use]
    pub fn describe(&self, now: Instant) -> String {
        let told = self.told.as_ref().map(|(teller, at)| {
            let ago = now.saturating_duration_since(*at);
            format!("told by {teller} {ago:.1?} ago")
        });
        match (&self.trouble, told) {
            (None, None) => "not told yet".to_owned(),
            (None, Some(told)) => told,
            (Some(trouble), None) => trouble.clone(),
            (Some(trouble), Some(told)) => format!("{told}, but now: {trouble}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_asked_once_an_interval_and_a_new_one_at_once() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut discovery = Discovery::default();
        let mut due = |ms: u64, leader: &str| {
            let now = start + Duration::from_millis(ms);
            discovery.is_due(now, &leader.into(), second)
        };
        assert!(due(0, "n1"));
        assert!(!due(900, "n1"));
        assert!(due(1000, "n1"));
        assert!(due(1100, "n2"));
        assert!(!due(2000, "n2"));
        assert!(due(2100, "n2"));
    }
}
