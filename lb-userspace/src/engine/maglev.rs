//! Maglev's consistent hashing: a look-up table in which every member owns
//! the same share of the slots, and most slots stay where they are when the
//! members change.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4. A table depends on the members' keys
//! alone, so that every balancer in front of one cluster fills the same one.
//! This file never sees ids, health or time.

use crate::config::MAGLEV_SLOTS;

/// The number of slots of a table. A prime, so that every member's walk visits
/// every slot.
pub const SLOTS: usize = MAGLEV_SLOTS as usize;

/// One member's permutation of the slots: `offset`, `offset + skip`, …
struct Walk {
    next: usize,
    skip: usize,
}

impl Walk {
    fn new(key: &[u8]) -> Self {
        let hash = digest(key);
        Self {
            next: (hash >> 32) as usize % SLOTS,
            skip: (hash & 0xffff_ffff) as usize % (SLOTS - 1) + 1,
        }
    }

    fn step(&mut self) -> usize {
        let slot = self.next;
        self.next = (self.next + self.skip) % SLOTS;
        slot
    }
}

/// The member of each slot, as an index into `keys`; empty without members.
///
/// `keys` must be in an order that all balancers agree on, because members
/// take turns in it: pass them sorted. Two equal keys take one walk, and
/// share its slots.
#[must_use]
pub fn fill<K: AsRef<[u8]>>(keys: &[K]) -> Vec<usize> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = keys.iter().map(|key| Walk::new(key.as_ref())).collect();
    let mut table: Vec<Option<usize>> = vec![None; SLOTS];
    let mut free = SLOTS;
    for member in (0..keys.len()).cycle() {
        if free == 0 {
            break;
        }
        let walk = &mut walks[member];
        let slot = loop {
            let slot = walk.step();
            if table[slot].is_none() {
                break slot;
            }
        };
        table[slot] = Some(member);
        free -= 1;
    }
    table.into_iter().flatten().collect()
}

/// A 64-bit hash that never changes: FNV-1a, and SplitMix64's finaliser,
/// because FNV alone hardly mixes keys that differ in their last byte.
fn digest(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn shares(table: &[usize]) -> BTreeMap<usize, usize> {
        let mut shares = BTreeMap::new();
        for &member in table {
            *shares.entry(member).or_default() += 1;
        }
        shares
    }

    fn address(host: u8) -> String {
        format!("10.0.0.{host}:8081")
    }

    #[test]
    fn the_number_of_slots_is_prime() {
        assert!((2..SLOTS).all(|divisor| !SLOTS.is_multiple_of(divisor)));
    }

    #[test]
    fn no_members_make_an_empty_table() {
        assert!(fill::<&str>(&[]).is_empty());
    }

    #[test]
    fn one_member_owns_every_slot() {
        assert_eq!(fill(&["10.0.0.11:8081"]), vec![0; SLOTS]);
    }

    /// Balancers of different versions stand side by side during an upgrade: a
    /// table that moved would break connections that change balancers. The
    /// expected values come from a Python transcription of the paper's
    /// pseudocode, "Populate".
    #[test]
    fn the_table_of_three_servers_is_the_same_in_every_release() {
        let table = fill(&[address(11), address(12), address(13)]);
        assert_eq!(
            table[..16],
            [1, 2, 1, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2]
        );
        let bytes: Vec<u8> = table.iter().map(|&member| member as u8).collect();
        assert_eq!(digest(&bytes), 0x4e01_aab5_c4d6_7816);
    }

    #[test]
    fn equal_keys_still_fill_the_table() {
        assert_eq!(fill(&["a", "a"]).len(), SLOTS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_differ_by_one_slot_at_most(hosts in prop::collection::btree_set(any::<u8>(), 1..40)) {
            let keys: Vec<_> = hosts.iter().copied().map(address).collect();
            let shares = shares(&fill(&keys));
            prop_assert_eq!(shares.len(), keys.len());
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert!(most - least <= 1, "{} to {}", least, most);
        }

        /// A perfect scheme would move the removed member's slots and no
        /// other; Maglev trades a few more for its exact balance.
        #[test]
        fn removing_a_member_moves_few_slots_of_the_others(
            hosts in prop::collection::btree_set(any::<u8>(), 3..16),
            removed in any::<prop::sample::Index>(),
        ) {
            let before: Vec<_> = hosts.iter().copied().map(address).collect();
            let removed = removed.index(before.len());
            let mut after = before.clone();
            after.remove(removed);
            let (old, new) = (fill(&before), fill(&after));
            let kept: BTreeSet<_> = after.iter().collect();
            let moved = (0..SLOTS)
                .filter(|&slot| kept.contains(&before[old[slot]]))
                .filter(|&slot| before[old[slot]] != after[new[slot]])
                .count();
            prop_assert!(moved * 10 < SLOTS, "{} of {} slots moved without need", moved, SLOTS);
        }
    }
}
