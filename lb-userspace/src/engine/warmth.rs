//! How much of its share of new connections a server gets that has just come
//! back: slow start. Caches are cold after a restart, and a server that
//! everybody is sent to at once may fall over again.

use std::time::{Duration, Instant};

use crate::api::ServerState;

/// The share grows in so many steps: each is a new table.
const STEPS: u32 = 10;

/// How warm a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warmth {
    /// It gets its whole share.
    #[default]
    Warm,
    /// It came back lately.
    WarmingUp {
        /// When it came back.
        since: Instant,
        /// How long it takes until it is warm.
        takes: Duration,
        /// How many of the [`STEPS`] it has taken; the first at once.
        steps: u32,
    },
}

impl Warmth {
    /// The whole share, in percent.
    pub const FULL: u32 = 100;

    /// A server's warmth when its state becomes `state`. One that was UP when
    /// the agent started has been at work before, and so has one that was only
    /// drained.
    #[must_use]
    pub fn after(
        before: Option<ServerState>,
        state: ServerState,
        now: Instant,
        slow_start: Option<Duration>,
    ) -> Self {
        match (before, state, slow_start) {
            (Some(ServerState::Down | ServerState::Maint), ServerState::Up, Some(takes)) => {
                Self::WarmingUp {
                    since: now,
                    takes,
                    steps: 1,
                }
            }
            _ => Self::Warm,
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: Instant) {
        let Self::WarmingUp {
            since,
            takes,
            ref mut steps,
        } = *self
        else {
            return;
        };
        let passed = now.saturating_duration_since(since);
        if passed >= takes {
            *self = Self::Warm;
            return;
        }
        let done = passed.as_nanos() * u128::from(STEPS) / takes.as_nanos().max(1);
        *steps = 1 + u32::try_from(done).unwrap_or(STEPS).min(STEPS - 1);
    }

    /// How much of its share the server gets, in percent.
    #[must_use]
    pub const fn percent(self) -> u32 {
        match self {
            Self::Warm => Self::FULL,
            Self::WarmingUp { steps, .. } => Self::FULL * steps / STEPS,
        }
    }

    /// How long it takes yet. `None`: the server is warm.
    #[must_use]
    pub fn left(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Warm => None,
            Self::WarmingUp { since, takes, .. } => {
                Some(takes.saturating_sub(now.saturating_duration_since(since)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const STATES: [ServerState; 4] = [
        ServerState::Up,
        ServerState::Down,
        ServerState::Drain,
        ServerState::Maint,
    ];

    #[test]
    fn the_share_grows_evenly_from_a_tenth_to_all_of_it() {
        let start = Instant::now();
        let down = Some(ServerState::Down);
        let mut warmth = Warmth::after(down, ServerState::Up, start, Some(MINUTE));
        let mut shares = Vec::new();
        for seconds in 0..=60 {
            warmth.pass(start + Duration::from_secs(seconds));
            shares.push(warmth.percent());
        }
        assert_eq!((shares[0], shares[5], shares[6]), (10, 10, 20));
        assert_eq!((shares[30], shares[59], shares[60]), (60, 100, 100));
        assert!(shares.is_sorted(), "{shares:?}");
        assert_eq!(warmth, Warmth::Warm);
    }

    /// Every state before times every state after, with slow start and without.
    #[test]
    fn who_starts_slowly() {
        let now = Instant::now();
        let before = STATES.map(Some).into_iter().chain([None]);
        for before in before {
            for after in STATES {
                let came_back = matches!(before, Some(ServerState::Down | ServerState::Maint))
                    && after == ServerState::Up;
                let warmth = Warmth::after(before, after, now, Some(MINUTE));
                assert_eq!(warmth == Warmth::Warm, !came_back, "{before:?}, {after:?}");
                assert_eq!(Warmth::after(before, after, now, None), Warmth::Warm);
            }
        }
    }
}
