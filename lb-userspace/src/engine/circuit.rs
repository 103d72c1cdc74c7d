//! The circuit breaker of one server: clients' connections that fail open it,
//! probes close it.
//!
//! Closed, failures within a window are counted. Open, the server is left
//! alone for a while, whatever its probes say. Half-open, `rise` good probes
//! in a row close it, and one bad one opens it again.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::Breaker;

/// Whether clients' connections may go to a server, as far as earlier ones
/// tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// They may. When the last ones failed, as long as that counts.
    Closed {
        /// Fewer than [`Breaker::error_limit`], the oldest first.
        failures: VecDeque<Instant>,
    },
    /// They may not.
    Open {
        /// When probes may begin to close it.
        until: Instant,
    },
    /// They may not yet.
    HalfOpen {
        /// Good probes in a row, fewer than `rise`.
        passes: u32,
    },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed {
            failures: VecDeque::new(),
        }
    }
}

impl Circuit {
    /// Whether the server is to be left alone.
    #[must_use]
    pub const fn is_tripped(&self) -> bool {
        match self {
            Self::Closed { .. } => false,
            Self::Open { .. } | Self::HalfOpen { .. } => true,
        }
    }

    /// The circuit after a client's connection failed.
    #[must_use]
    pub fn failed(self, now: Instant, breaker: &Breaker) -> Self {
        match self {
            Self::Closed { mut failures } => {
                let counts = |then: &Instant| now.duration_since(*then) < breaker.error_window;
                failures.retain(counts);
                failures.push_back(now);
                if failures.len() < breaker.error_limit as usize {
                    Self::Closed { failures }
                } else {
                    Self::opened(now, breaker)
                }
            }
            // From before, or where nothing else was left to use.
            open @ Self::Open { .. } => open,
            Self::HalfOpen { .. } => Self::opened(now, breaker),
        }
    }

    /// The circuit after a probe of the server.
    #[must_use]
    pub fn probed(self, now: Instant, passed: bool, rise: u32, breaker: &Breaker) -> Self {
        let passes = match &self {
            Self::Closed { .. } => return self,
            Self::Open { until } if now < *until => return self,
            Self::Open { .. } => 0,
            Self::HalfOpen { passes } => *passes,
        };
        match passed {
            false => Self::opened(now, breaker),
            true if passes + 1 < rise => Self::HalfOpen { passes: passes + 1 },
            true => Self::default(),
        }
    }

    fn opened(now: Instant, breaker: &Breaker) -> Self {
        Self::Open {
            until: now + breaker.open_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BREAKER: Breaker = Breaker {
        error_limit: 3,
        error_window: Duration::from_secs(10),
        open_time: Duration::from_secs(60),
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn closed(failures: &[Instant]) -> Circuit {
        Circuit::Closed {
            failures: failures.iter().copied().collect(),
        }
    }

    /// Every state times everything that happens, with rise 2.
    #[test]
    fn the_transition_table_is_complete() {
        let now = Instant::now() + 1000 * SECOND;
        let before = now - SECOND;
        let (due, later) = (now, now + SECOND);
        let opened = Circuit::Open {
            until: now + BREAKER.open_time,
        };
        let open = |until| Circuit::Open { until };
        let half = |passes| Circuit::HalfOpen { passes };
        // State; after a failure, a good probe, a bad probe.
        let table = [
            (closed(&[]), closed(&[now]), closed(&[]), closed(&[])),
            (
                closed(&[before]),
                closed(&[before, now]),
                closed(&[before]),
                closed(&[before]),
            ),
            (
                closed(&[before, before]),
                opened.clone(),
                closed(&[before, before]),
                closed(&[before, before]),
            ),
            (open(later), open(later), open(later), open(later)),
            (open(due), open(due), half(1), opened.clone()),
            (half(0), opened.clone(), half(1), opened.clone()),
            (half(1), opened.clone(), closed(&[]), opened.clone()),
        ];
        for (circuit, failed, passed, refused) in table {
            let probed = |passed| circuit.clone().probed(now, passed, 2, &BREAKER);
            assert_eq!(circuit.clone().failed(now, &BREAKER), failed, "{circuit:?}");
            assert_eq!(probed(true), passed, "{circuit:?}");
            assert_eq!(probed(false), refused, "{circuit:?}");
        }
    }

    #[test]
    fn failures_that_are_far_apart_never_add_up() {
        let mut now = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 0..100 {
            now += BREAKER.error_window / 2;
            circuit = circuit.failed(now, &BREAKER);
            assert!(!circuit.is_tripped());
        }
    }

    #[test]
    fn with_rise_1_one_good_probe_closes_it() {
        let now = Instant::now();
        let open = Circuit::Open { until: now };
        assert_eq!(open.probed(now, true, 1, &BREAKER), Circuit::default());
    }
}
