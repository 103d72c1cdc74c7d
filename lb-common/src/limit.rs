//! What one source may do: new connections in time, and open ones at once.

/// The value of SOURCES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SourceState {
    /// When the source's next new connection would come if it kept to its
    /// rate: microseconds since the host started.
    pub due: u64,
    /// Open connections.
    pub open: u32,
    /// Always 0.
    pub reserved: u32,
}

/// When the connection after one that comes at `now` is due, if that one is
/// within the limits; all in microseconds.
///
/// The generic cell rate algorithm (ITU-T I.371): a token bucket of `burst`
/// tokens that gets one each `interval`, kept as a single point in time.
#[inline(always)]
#[must_use]
pub const fn next_due(due: u64, now: u64, interval: u32, burst: u32) -> Option<u64> {
    let interval = interval as u64;
    let tolerance = interval * (burst as u64).saturating_sub(1);
    if due > now.saturating_add(tolerance) {
        return None;
    }
    let from = if due > now { due } else { now };
    Some(from + interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of the connections that come at `times` get through.
    fn admitted(times: &[u64], interval: u32, burst: u32) -> u64 {
        let mut due = 0;
        let mut admitted = 0;
        for &now in times {
            if let Some(next) = next_due(due, now, interval, burst) {
                due = next;
                admitted += 1;
            }
        }
        admitted
    }

    #[test]
    fn a_burst_gets_through_at_once_and_the_rate_after_it() {
        let now = 1_000_000;
        assert_eq!(admitted(&[now; 50], 10_000, 20), 20);
        let mut times = vec![now; 20];
        times.extend((1..=1000).map(|ms| now + ms * 1000));
        assert_eq!(admitted(&times, 10_000, 20), 20 + 100);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            mut times in prop::collection::vec(0..10_000_000_u64, 1..300),
            interval in 1..100_000_u32, burst in 1..50_u32,
        ) {
            times.sort_unstable();
            let span = times[times.len() - 1] - times[0];
            let bound = u64::from(burst) + span / u64::from(interval) + 1;
            prop_assert!(admitted(&times, interval, burst) <= bound);
        }
    }
}
