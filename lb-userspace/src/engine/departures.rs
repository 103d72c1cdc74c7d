//! What becomes of the connections of a target that gets no new ones.
//!
//! Decided by level, not by edge: whenever anything happens, each target that
//! is out of the slots and may still have connections meets its [`Fate`]. A
//! cut that a dying agent never made is thus made up for by the next one. The
//! same bookkeeping tells when no flow holds an id any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_common::target::TargetId;

/// Sweeps in a row that must have found no flow of a target before its id may
/// be used again: the first may have begun before the target left the slots.
const EMPTY_SWEEPS: u8 = 2;

/// What becomes of a departed target's connections; the greater, the harsher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// They live on.
    Keep,
    /// They are reset when they are still there then.
    Drain(Deadline),
    /// They are reset now.
    Cut,
}

/// How long the connections of a drained target may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// For so long from the moment on in which it was first to be drained.
    After(Duration),
    /// Until then.
    At(Instant),
}

impl Deadline {
    fn since(self, left: Instant) -> Instant {
        match self {
            Self::After(time) => left + time,
            Self::At(at) => at,
        }
    }
}

/// What is known about the connections of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trail {
    /// It is in a slot.
    serving: bool,
    /// It was in a slot since it was last cut.
    exposed: bool,
    /// Since when it drains.
    left: Option<Instant>,
    /// When the connections are cut at the latest.
    drained_at: Option<Instant>,
    empty_sweeps: u8,
    open: u64,
}

/// The connections of all targets.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    trails: BTreeMap<TargetId, Trail>,
    /// When the first of those that drain is to be cut.
    due: Option<Instant>,
}

impl Departures {
    /// A target that no flow can hold yet.
    pub fn install(&mut self, id: TargetId) {
        self.trails.entry(id).or_default();
    }

    /// Targets that an agent before us installed, and may have put into slots.
    pub fn adopt(&mut self, ids: impl Iterator<Item = TargetId>) {
        for id in ids {
            self.trails.entry(id).or_default().exposed = true;
        }
    }

    /// The targets to cut now, given those that are `serving` from now on.
    pub fn settle(
        &mut self,
        now: Instant,
        serving: &BTreeSet<TargetId>,
        fate: impl Fn(TargetId) -> Fate,
    ) -> BTreeSet<TargetId> {
        for &id in serving {
            let trail = self.trails.entry(id).or_default();
            *trail = Trail {
                serving: true,
                exposed: true,
                open: trail.open,
                ..Trail::default()
            };
        }
        let mut cuts = BTreeSet::new();
        for (&id, trail) in &mut self.trails {
            trail.serving = serving.contains(&id);
            if trail.serving || !trail.exposed {
                continue;
            }
            let due = match fate(id) {
                Fate::Cut => true,
                Fate::Drain(deadline) => {
                    let at = deadline.since(*trail.left.get_or_insert(now));
                    trail.drained_at = Some(at);
                    at <= now
                }
                Fate::Keep => {
                    (trail.left, trail.drained_at) = (None, None);
                    false
                }
            };
            if due {
                trail.exposed = false;
                (trail.left, trail.drained_at) = (None, None);
                cuts.insert(id);
            }
        }
        self.due = self.draining().map(|(_, at)| at).min();
        cuts
    }

    /// Whether time alone asks for a cut now.
    #[must_use]
    pub fn are_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }

    /// Takes in how many connections a sweep found of each target. Whether it was the
    /// last that it took to know that an id is free.
    pub fn swept(&mut self, open: &BTreeMap<TargetId, u64>) -> bool {
        let mut any_is_over = false;
        for (id, trail) in &mut self.trails {
            trail.open = open.get(id).copied().unwrap_or(0);
            if trail.serving {
                continue;
            }
            trail.empty_sweeps = match trail.open {
                0 => trail.empty_sweeps.saturating_add(1),
                _ => 0,
            };
            any_is_over |= trail.empty_sweeps == EMPTY_SWEEPS;
        }
        any_is_over
    }

    /// Whether no flow holds the id, and none can come to hold it.
    #[must_use]
    pub fn is_over(&self, id: TargetId) -> bool {
        let sweeps = self.trails.get(&id).map_or(0, |trail| trail.empty_sweeps);
        sweeps >= EMPTY_SWEEPS
    }

    /// Forgets a target whose id is free again.
    pub fn forget(&mut self, id: TargetId) {
        self.trails.remove(&id);
    }

    /// The targets whose connections drain, and when those are cut.
    pub fn draining(&self) -> impl Iterator<Item = (TargetId, Instant)> {
        let trails = self.trails.iter();
        trails.filter_map(|(&id, trail)| Some((id, trail.drained_at?)))
    }

    /// Connections that held the id at the last sweep.
    #[must_use]
    pub fn open(&self, id: TargetId) -> u64 {
        self.trails.get(&id).map_or(0, |trail| trail.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TargetId = TargetId(1);
    const TIME: Duration = Duration::from_secs(30);
    const DRAIN: Fate = Fate::Drain(Deadline::After(TIME));

    fn ids(ids: &[TargetId]) -> BTreeSet<TargetId> {
        ids.iter().copied().collect()
    }

    fn serving_a(now: Instant) -> Departures {
        let mut departures = Departures::default();
        assert_eq!(departures.settle(now, &ids(&[A]), |_| Fate::Cut), ids(&[]));
        departures
    }

    #[test]
    fn a_target_is_cut_once_when_it_leaves_the_slots() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        assert_eq!(departures.settle(now, &ids(&[]), |_| Fate::Cut), ids(&[A]));
        assert_eq!(departures.settle(now, &ids(&[]), |_| Fate::Cut), ids(&[]));
    }

    #[test]
    fn a_target_that_came_back_is_cut_again_when_it_leaves_again() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        departures.settle(now, &ids(&[]), |_| Fate::Cut);
        departures.settle(now, &ids(&[A]), |_| Fate::Cut);
        assert_eq!(departures.settle(now, &ids(&[]), |_| Fate::Cut), ids(&[A]));
    }

    #[test]
    fn a_drained_target_is_cut_at_the_deadline_and_not_before() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        assert_eq!(departures.settle(now, &ids(&[]), |_| DRAIN), ids(&[]));
        let before = now + TIME - Duration::from_nanos(1);
        assert_eq!(departures.settle(before, &ids(&[]), |_| DRAIN), ids(&[]));
        assert_eq!(
            departures.settle(now + TIME, &ids(&[]), |_| DRAIN),
            ids(&[A])
        );
    }

    #[test]
    fn a_deadline_that_is_moved_counts_from_the_same_moment() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        departures.settle(now, &ids(&[]), |_| DRAIN);
        assert!(departures.draining().eq([(A, now + TIME)]));
        let sooner = |_| Fate::Drain(Deadline::After(TIME / 3));
        let then = now + TIME / 6;
        assert_eq!(departures.settle(then, &ids(&[]), sooner), ids(&[]));
        assert!(departures.draining().eq([(A, now + TIME / 3)]));
        let at_once = |_| Fate::Drain(Deadline::At(then));
        assert_eq!(departures.settle(then, &ids(&[]), at_once), ids(&[A]));
        assert_eq!(departures.draining().count(), 0);
    }

    #[test]
    fn a_drain_ends_when_the_target_serves_again() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        departures.settle(now, &ids(&[]), |_| DRAIN);
        departures.settle(now + TIME / 2, &ids(&[A]), |_| DRAIN);
        assert_eq!(
            departures.settle(now + TIME, &ids(&[]), |_| DRAIN),
            ids(&[])
        );
    }

    #[test]
    fn a_kept_target_is_cut_when_its_fate_changes() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        assert_eq!(departures.settle(now, &ids(&[]), |_| Fate::Keep), ids(&[]));
        assert_eq!(departures.settle(now, &ids(&[]), |_| Fate::Cut), ids(&[A]));
    }

    #[test]
    fn an_adopted_target_out_of_the_slots_is_cut_for_the_agent_that_died() {
        let mut departures = Departures::default();
        departures.adopt([A].into_iter());
        assert_eq!(
            departures.settle(Instant::now(), &ids(&[]), |_| Fate::Cut),
            ids(&[A])
        );
    }

    #[test]
    fn an_id_is_free_after_two_sweeps_in_a_row_without_its_flows() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        departures.settle(now, &ids(&[]), |_| Fate::Keep);
        assert!(!departures.swept(&BTreeMap::new()));
        assert!(!departures.swept(&BTreeMap::from([(A, 1)])));
        assert!(!departures.swept(&BTreeMap::new()));
        assert!(!departures.is_over(A));
        assert!(departures.swept(&BTreeMap::new()));
        assert!(departures.is_over(A));
        assert!(!departures.swept(&BTreeMap::new()));
    }

    #[test]
    fn sweeps_while_a_target_serves_do_not_count() {
        let now = Instant::now();
        let mut departures = serving_a(now);
        for _ in 0..EMPTY_SWEEPS {
            assert!(!departures.swept(&BTreeMap::new()));
        }
        departures.settle(now, &ids(&[]), |_| Fate::Keep);
        assert!(!departures.is_over(A));
    }
}
