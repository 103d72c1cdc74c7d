//! What a sweep takes of the CPU.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What a sweep took of the CPU, the kernel's work for it included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// In all.
    pub cpu: Duration,
    /// For its longest slice: a system call, and what was made of its answer.
    pub longest_slice: Duration,
}

/// Measures a sweep of the calling thread.
#[derive(Debug)]
pub(super) struct Meter {
    begun: Duration,
    sliced: Duration,
    longest_slice: Duration,
}

impl Meter {
    pub(super) fn start() -> Self {
        let begun = cpu_time();
        Self {
            begun,
            sliced: begun,
            longest_slice: Duration::ZERO,
        }
    }

    /// A slice is done.
    pub(super) fn slice(&mut self) {
        let now = cpu_time();
        self.longest_slice = self.longest_slice.max(now.saturating_sub(self.sliced));
        self.sliced = now;
    }

    /// The sweep is done.
    pub(super) fn finish(mut self) -> Cost {
        self.slice();
        Cost {
            cpu: self.sliced.saturating_sub(self.begun),
            longest_slice: self.longest_slice,
        }
    }
}

/// The CPU time that the thread has taken.
fn cpu_time() -> Duration {
    // The clock is there on every Linux.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
