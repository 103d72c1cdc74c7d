//! Which targets may have reply flows whose other half is gone.
//!
//! Who looks for such flows asks the kernel for the other half of each. A walk
//! is no snapshot: it counts more of one direction than of the other also where
//! connections come and go meanwhile, but not sweep after sweep the same way.
//! Targets that answer their clients themselves have no reply flows.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::target::TargetId;

/// In how many sweeps in a row a target must have had more reply flows than
/// forward ones.
const SWEEPS: u32 = 10;

/// The targets that had more reply flows than forward ones, and in how many
/// sweeps in a row.
#[derive(Debug, Default)]
pub(super) struct Surplus(BTreeMap<TargetId, u32>);

impl Surplus {
    /// Takes note of what one more sweep counted. Gives the targets that it has
    /// come to be time to look at; they begin anew.
    pub(super) fn after(
        &mut self,
        forward: &BTreeMap<TargetId, u64>,
        replies: &BTreeMap<TargetId, u64>,
    ) -> BTreeSet<TargetId> {
        let mut suspects = BTreeSet::new();
        let mut lasting = BTreeMap::new();
        for (&target, &replies) in replies {
            if replies <= forward.get(&target).copied().unwrap_or_default() {
                continue;
            }
            let sweeps = self.0.get(&target).copied().unwrap_or_default() + 1;
            if sweeps < SWEEPS {
                lasting.insert(target, sweeps);
            } else {
                suspects.insert(target);
            }
        }
        self.0 = lasting;
        suspects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAT: TargetId = TargetId(1);
    const DIRECT: TargetId = TargetId(2);

    /// In which of the sweeps that counted so many forward and reply flows of
    /// a target it is time to look at it. Beside it, there is one without
    /// reply flows.
    fn looks(sweeps: impl Iterator<Item = (u64, u64)>) -> Vec<usize> {
        let mut surplus = Surplus::default();
        let mut looks = Vec::new();
        for (number, (forward, replies)) in (1..).zip(sweeps) {
            let forward = BTreeMap::from([(NAT, forward), (DIRECT, 1)]);
            let suspects = surplus.after(&forward, &BTreeMap::from([(NAT, replies)]));
            if !suspects.is_empty() {
                assert_eq!(suspects, BTreeSet::from([NAT]));
                looks.push(number);
            }
        }
        looks
    }

    #[test]
    fn a_surplus_of_replies_that_lasts_is_looked_at_now_and_then() {
        assert_eq!(looks([(3, 4)].into_iter().cycle().take(25)), [10, 20]);
        assert_eq!(looks([(0, 1)].into_iter().cycle().take(10)), [10]);
    }

    #[test]
    fn connections_that_come_and_go_and_those_without_replies_are_not() {
        let churn = [(5, 7), (7, 7), (9, 8), (5, 6), (6, 7)];
        assert!(looks(churn.into_iter().cycle().take(100)).is_empty());
        assert!(looks([(4, 3)].into_iter().cycle().take(100)).is_empty());
    }
}
