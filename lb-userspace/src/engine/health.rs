//! Whether a server is UP: consecutive checks, counted.
//!
//! One transition function over [`Phase`] and [`Evidence`]. It knows no
//! clock and no roles; what a check found out is [`Evidence`] by the time it
//! gets here.

/// What one check says about a server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The check passed.
    Passed,
    /// The check failed; one failure may be bad luck.
    Failed,
    /// The check failed in a way that leaves no doubt, such as a refused
    /// connection: nothing listens there.
    Conclusive,
}

/// What the checks of a server have shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No check has finished yet. Not usable, and not known to be DOWN.
    Unchecked,
    /// Usable, after this many consecutive failures.
    Up {
        /// Less than [`Thresholds::fall`].
        failures: u32,
    },
    /// Not usable, after this many consecutive passes.
    Down {
        /// Less than [`Thresholds::rise`].
        passes: u32,
    },
}

/// How many consecutive checks change a server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passes that make a DOWN server UP.
    pub rise: u32,
    /// Failures that make an UP server DOWN.
    pub fall: u32,
}

impl Phase {
    /// UP without a blemish.
    pub const UP: Self = Self::Up { failures: 0 };
    /// DOWN without a hope.
    pub const DOWN: Self = Self::Down { passes: 0 };

    /// The phase after one more check.
    ///
    /// The first check of all decides at once: a balancer that just started
    /// should neither refuse clients for `rise` rounds, nor send them to a
    /// server that nobody has seen alive.
    #[must_use]
    pub const fn after(self, evidence: Evidence, Thresholds { rise, fall }: Thresholds) -> Self {
        match (self, evidence) {
            (Self::Unchecked | Self::Up { .. }, Evidence::Passed) => Self::UP,
            (Self::Unchecked, Evidence::Failed) => Self::DOWN,
            (Self::Up { failures }, Evidence::Failed) if failures + 1 < fall => Self::Up {
                failures: failures + 1,
            },
            (Self::Up { .. }, Evidence::Failed) => Self::DOWN,
            (Self::Down { passes }, Evidence::Passed) if passes + 1 < rise => {
                Self::Down { passes: passes + 1 }
            }
            (Self::Down { .. }, Evidence::Passed) => Self::UP,
            (Self::Down { .. }, Evidence::Failed) => Self::DOWN,
            (_, Evidence::Conclusive) => Self::DOWN,
        }
    }

    /// Whether the server may be used.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::{Conclusive, Failed, Passed};
    use Phase::{Down, Unchecked, Up};

    /// Every phase times every piece of evidence, with rise 2 and fall 3.
    #[test]
    fn the_transition_table_is_complete() {
        let thresholds = Thresholds { rise: 2, fall: 3 };
        let table = [
            (Unchecked, Passed, Phase::UP),
            (Unchecked, Failed, Phase::DOWN),
            (Unchecked, Conclusive, Phase::DOWN),
            (Up { failures: 0 }, Passed, Phase::UP),
            (Up { failures: 0 }, Failed, Up { failures: 1 }),
            (Up { failures: 0 }, Conclusive, Phase::DOWN),
            (Up { failures: 1 }, Passed, Phase::UP),
            (Up { failures: 1 }, Failed, Up { failures: 2 }),
            (Up { failures: 1 }, Conclusive, Phase::DOWN),
            (Up { failures: 2 }, Passed, Phase::UP),
            (Up { failures: 2 }, Failed, Phase::DOWN),
            (Up { failures: 2 }, Conclusive, Phase::DOWN),
            (Down { passes: 0 }, Passed, Down { passes: 1 }),
            (Down { passes: 0 }, Failed, Phase::DOWN),
            (Down { passes: 0 }, Conclusive, Phase::DOWN),
            (Down { passes: 1 }, Passed, Phase::UP),
            (Down { passes: 1 }, Failed, Phase::DOWN),
            (Down { passes: 1 }, Conclusive, Phase::DOWN),
        ];
        for (phase, evidence, expected) in table {
            assert_eq!(
                phase.after(evidence, thresholds),
                expected,
                "{phase:?} and {evidence:?}"
            );
        }
        let phases = [
            Unchecked,
            Up { failures: 0 },
            Up { failures: 1 },
            Up { failures: 2 },
            Down { passes: 0 },
            Down { passes: 1 },
        ];
        assert_eq!(table.len(), phases.len() * 3, "a row is missing");
    }

    #[test]
    fn with_rise_1_and_fall_1_every_check_decides() {
        let thresholds = Thresholds { rise: 1, fall: 1 };
        assert_eq!(Phase::UP.after(Failed, thresholds), Phase::DOWN);
        assert_eq!(Phase::DOWN.after(Passed, thresholds), Phase::UP);
    }

    #[test]
    fn failures_that_are_not_consecutive_never_add_up() {
        let thresholds = Thresholds { rise: 2, fall: 3 };
        let mut phase = Phase::UP;
        for _ in 0..100 {
            for evidence in [Failed, Failed, Passed] {
                phase = phase.after(evidence, thresholds);
                assert!(phase.is_up());
            }
        }
    }
}
