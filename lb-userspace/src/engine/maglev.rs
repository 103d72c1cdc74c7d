//! Maglev's consistent hashing: a look-up table in which every member owns
//! its share of the slots, and most slots stay where they are when the members
//! change.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4, but for the permutations. The paper's
//! are arithmetic progressions: two members whose strides are near to each
//! other's multiple get in each other's way all along, and a departure then
//! moves up to 5 % of the slots of the others. Ours are progressions, cubed
//! modulo the table's size, which have nothing in common. A table depends on
//! the members' keys and weights alone, so that every balancer in front of one
//! cluster fills the same one. This file never sees ids, health or time.

use crate::config::room::MAGLEV_SLOTS;

/// The number of slots of a table. A prime, so that every member's walk visits
/// every slot; 2 modulo 3, so that no two numbers have the same cube.
pub const SLOTS: usize = MAGLEV_SLOTS as usize;

const M: u64 = MAGLEV_SLOTS as u64;

/// One member's permutation of the slots: the cubes of `next`,
/// `next + stride`, …, each times `factor`, plus `offset`.
struct Walk {
    next: u64,
    stride: u64,
    factor: u64,
    offset: u64,
}

impl Walk {
    fn new(key: &[u8]) -> Self {
        let (one, other) = digest(key);
        Self {
            next: (one >> 32) % M,
            stride: (one & 0xffff_ffff) % (M - 1) + 1,
            factor: (other >> 32) % (M - 1) + 1,
            offset: (other & 0xffff_ffff) % M,
        }
    }

    fn step(&mut self) -> usize {
        let cube = self.next * self.next % M * self.next % M;
        self.next = (self.next + self.stride) % M;
        ((cube * self.factor + self.offset) % M) as usize
    }
}

/// Whose turn it is, without end: the heaviest members have one in every
/// round, the others as often as their weight says, from the first round on.
fn turns(weights: &[u32]) -> impl Iterator<Item = usize> {
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    let mut credits: Vec<u32> = weights.iter().map(|weight| heaviest - weight).collect();
    (0..weights.len()).cycle().filter(move |&member| {
        credits[member] += weights[member];
        let due = credits[member] >= heaviest;
        if due {
            credits[member] -= heaviest;
        }
        due
    })
}

/// How many slots each member of a table has: its weight's share, to 1 % or
/// one slot, and one at least. Equal to what [`fill`] gives, and quicker.
#[must_use]
pub fn shares(weights: &[u32]) -> Vec<u32> {
    let mut shares = vec![0; weights.len()];
    for member in turns(weights).take(SLOTS) {
        shares[member] += 1;
    }
    shares
}

/// The member of each slot, as an index into `members`, which are keys and
/// weights; empty without members.
///
/// They must be in an order that all balancers agree on, because members take
/// turns in it: pass them sorted. Two equal keys take one walk, and share its
/// slots.
#[must_use]
pub fn fill<K: AsRef<[u8]>>(members: &[(K, u32)]) -> Vec<usize> {
    if members.is_empty() {
        return Vec::new();
    }
    let weights: Vec<u32> = members.iter().map(|&(_, weight)| weight).collect();
    let keys = members.iter().map(|(key, _)| key.as_ref());
    let mut walks: Vec<Walk> = keys.map(Walk::new).collect();
    let mut table: Vec<Option<usize>> = vec![None; SLOTS];
    for member in turns(&weights).take(SLOTS) {
        let walk = &mut walks[member];
        // A walk visits every slot, and one is free at each of SLOTS turns.
        let slot = loop {
            let slot = walk.step();
            if table[slot].is_none() {
                break slot;
            }
        };
        table[slot] = Some(member);
    }
    table.into_iter().flatten().collect()
}

/// Two 64-bit hashes that never change: FNV-1a, and SplitMix64's finaliser and
/// step, because FNV alone hardly mixes keys that differ in their last byte.
fn digest(key: &[u8]) -> (u64, u64) {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let one = mix(hash);
    (one, mix(one.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn counted(table: &[usize], members: usize) -> Vec<u32> {
        let mut shares = vec![0; members];
        for &member in table {
            shares[member] += 1;
        }
        shares
    }

    fn address(host: impl std::fmt::Display) -> String {
        format!("10.0.0.{host}:8081")
    }

    fn equal<T: std::fmt::Display>(hosts: impl IntoIterator<Item = T>) -> Vec<(String, u32)> {
        hosts.into_iter().map(|host| (address(host), 1)).collect()
    }

    /// Which part of the slots of the others moves when one member leaves.
    fn moved(members: &[(String, u32)], leaver: usize) -> f64 {
        let mut rest = members.to_vec();
        rest.remove(leaver);
        let (old, new) = (fill(members), fill(&rest));
        let others = (0..SLOTS).filter(|&slot| old[slot] != leaver);
        let moved = others
            .clone()
            .filter(|&slot| members[old[slot]].0 != rest[new[slot]].0);
        moved.count() as f64 / others.count() as f64
    }

    #[test]
    fn the_number_of_slots_is_prime_and_cubes_are_a_permutation() {
        assert!((2..SLOTS).all(|divisor| !SLOTS.is_multiple_of(divisor)));
        assert_eq!(SLOTS % 3, 2);
    }

    #[test]
    fn a_walk_visits_every_slot() {
        let mut walk = Walk::new(b"10.0.0.11:8081");
        let visited: BTreeSet<usize> = (0..SLOTS).map(|_| walk.step()).collect();
        assert_eq!(visited.len(), SLOTS);
    }

    #[test]
    fn no_members_make_an_empty_table() {
        assert!(fill::<&str>(&[]).is_empty());
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn one_member_owns_every_slot() {
        assert_eq!(fill(&[("10.0.0.11:8081", 7)]), vec![0; SLOTS]);
    }

    /// Balancers of different versions stand side by side during an upgrade: a
    /// table that moved would break connections that change balancers. The
    /// expected values come from a Python transcription of the paper's
    /// pseudocode, "Populate", with the permutation above.
    #[test]
    fn the_table_of_three_servers_is_the_same_in_every_release() {
        let table = fill(&equal([11, 12, 13]));
        let bytes: Vec<u8> = table.iter().map(|&member| member as u8).collect();
        assert_eq!(
            table[..16],
            [1, 1, 0, 1, 1, 2, 1, 2, 1, 1, 0, 0, 0, 1, 2, 2]
        );
        assert_eq!(digest(&bytes).0, 0x915c_79d7_e117_0ea3);
    }

    #[test]
    fn equal_keys_still_fill_the_table() {
        assert_eq!(fill(&[("a", 1), ("a", 1)]).len(), SLOTS);
    }

    #[test]
    fn the_lightest_of_many_has_a_slot() {
        let mut weights = vec![256; 200];
        weights.push(1);
        assert!(shares(&weights)[200] >= 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_differ_by_one_slot_at_most(hosts in prop::collection::btree_set(any::<u8>(), 1..40)) {
            let members = equal(&hosts);
            let shares = counted(&fill(&members), members.len());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{} to {}", least, most);
        }

        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1..=256_u32, 1..40)) {
            let members: Vec<_> = (0..).map(address).zip(weights.iter().copied()).collect();
            let shares = shares(&weights);
            prop_assert_eq!(&shares, &counted(&fill(&members), members.len()));
            let sum: u32 = weights.iter().sum();
            for (&share, &weight) in shares.iter().zip(&weights) {
                let exact = SLOTS as f64 * f64::from(weight) / f64::from(sum);
                let error = (f64::from(share) - exact).abs();
                prop_assert!(error <= (exact / 100.0).max(1.0), "{} for {}", share, exact);
            }
        }

        /// A perfect scheme would move the removed member's slots and no
        /// other; Maglev trades a few more for its exact balance. Of some
        /// thousand departures one moves a hair more than a hundredth.
        #[test]
        fn one_of_ten_leaves_and_one_slot_in_a_hundred_of_the_others_moves_at_most(
            hosts in prop::collection::btree_set(any::<u16>(), 10),
        ) {
            let members = equal(&hosts);
            let moved = (0..10).map(|leaver| moved(&members, leaver));
            let moved: Vec<f64> = moved.collect();
            let mean = moved.iter().sum::<f64>() / 10.0;
            prop_assert!(mean <= 0.01, "{} of the others' slots", mean);
            prop_assert!(moved.iter().all(|&moved| moved <= 0.012), "{:?}", moved);
        }

        #[test]
        fn with_weights_not_many_more_move(
            weights in prop::collection::vec(1..=4_u32, 3..16), leaver in any::<prop::sample::Index>(),
        ) {
            let members: Vec<_> = (0..).map(address).zip(weights).collect();
            let moved = moved(&members, leaver.index(members.len()));
            prop_assert!(moved <= 0.02, "{} of the others' slots", moved);
        }
    }
}
