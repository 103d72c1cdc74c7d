//! Whether this node alone may be a quorum: then nobody else's disk stands in for its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cluster::Member;
use crate::cluster::NodeId;

type Membership = openraft::Membership<NodeId, Member>;

/// The memberships that the log and the snapshot hold; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Voters {
    /// By index of the entry: whether one voter is a quorum there.
    alone: Arc<Mutex<BTreeMap<u64, bool>>>,
}

impl Voters {
    /// Notes the membership of the entry at `index`.
    pub(super) fn note(&self, index: u64, membership: &Membership) {
        let alone = membership
            .get_joint_config()
            .iter()
            .any(|voters| voters.len() < 2);
        self.change(|known| known.insert(index, alone));
    }

    /// Forgets those of entries from `since` on.
    pub(super) fn truncate(&self, since: u64) {
        self.change(|known| known.split_off(&since));
    }

    /// Forgets those that came before the one that holds at `upto`.
    pub(super) fn purge(&self, upto: u64) {
        self.change(|known| {
            let holds = known.range(..=upto).next_back().map(|(&index, _)| index);
            *known = known.split_off(&holds.unwrap_or(0));
        });
    }

    /// Whether one voter may be a quorum now; also where that is not known.
    pub(super) fn may_be_one(&self) -> bool {
        self.change(|known| known.last_key_value().is_none_or(|(_, &alone)| alone))
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, bool>) -> T) -> T {
        change(&mut self.alone.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(configs: &[&[NodeId]]) -> Membership {
        let configs: Vec<BTreeSet<NodeId>> = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        let nodes: BTreeMap<NodeId, Member> = configs
            .iter()
            .flatten()
            .map(|&id| (id, Member::default()))
            .collect();
        Membership::new(configs, nodes)
    }

    #[test]
    fn the_newest_membership_counts_until_its_entry_is_gone() {
        let voters = Voters::default();
        assert!(voters.may_be_one(), "nothing is known");
        voters.note(0, &of(&[&[1]]));
        assert!(voters.may_be_one());
        voters.note(5, &of(&[&[1], &[1, 2, 3]]));
        assert!(voters.may_be_one(), "in a joint one, too");
        voters.note(6, &of(&[&[1, 2, 3]]));
        assert!(!voters.may_be_one());
        voters.truncate(6);
        assert!(voters.may_be_one());
        voters.note(6, &of(&[&[1, 2]]));
        voters.purge(9);
        assert!(!voters.may_be_one());
        voters.truncate(6);
        assert!(voters.may_be_one(), "what is before is not known any more");
    }
}
