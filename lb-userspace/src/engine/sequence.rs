//! Turns in proportion to weights, spread as evenly as they can be.
//!
//! nginx's smooth weighted round robin: at every turn each member gains its
//! weight, the richest has the turn and pays the sum of all weights. One cycle
//! gives every member exactly its share, and a heavy one does not have its
//! turns in a row. Round robin walks the sequence; what picks by lot picks
//! from the same one. This file never sees ids, health or time.

use crate::config::room::SEQUENCE_SLOTS_MAX;

/// How many turns each member has in one cycle: the weights in lowest terms,
/// or, where they add up to more than a table holds, as near to that as can
/// be, with one turn for everybody.
#[must_use]
pub fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let shares: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    let sum: u64 = shares.iter().copied().map(u64::from).sum();
    let members = shares.len() as u64;
    let room = u64::from(SEQUENCE_SLOTS_MAX).max(members);
    if sum <= room {
        return shares;
    }
    // One turn each beforehand, so that rounding down takes nobody's last.
    let scaled = |share: u32| 1 + u64::from(share) * (room - members) / sum;
    let scaled = shares.into_iter().map(scaled);
    scaled
        .map(|share| u32::try_from(share).unwrap_or(u32::MAX))
        .collect()
}

/// The member of each turn of one cycle.
#[must_use]
pub fn fill(weights: &[u32]) -> Vec<usize> {
    let shares = shares(weights);
    let sum: i64 = shares.iter().copied().map(i64::from).sum();
    let mut credits = vec![0_i64; shares.len()];
    let turn = |_| {
        for (credit, &share) in credits.iter_mut().zip(&shares) {
            *credit += i64::from(share);
        }
        // The first of the richest, as nginx does.
        let richest = (0..credits.len()).rev().max_by_key(|&one| credits[one])?;
        credits[richest] -= sum;
        Some(richest)
    };
    (0..sum).filter_map(turn).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(weights: &[u32]) -> String {
        let turns = fill(weights).into_iter();
        turns
            .map(|member| char::from(b'a' + member as u8))
            .collect()
    }

    /// The first is the example of the commit that brought the algorithm to
    /// nginx, 52327e0627f4.
    #[test]
    fn turns_are_spread_as_nginx_spreads_them() {
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        assert_eq!(letters(&[3, 2, 1]), "abacba");
        assert_eq!(letters(&[5, 3, 2]), "abcaabacba");
        assert_eq!(letters(&[1, 1, 1]), "abc");
        assert_eq!(letters(&[7]), "a");
        assert_eq!(letters(&[]), "");
    }

    #[test]
    fn weights_are_taken_in_lowest_terms() {
        assert_eq!(letters(&[6, 4, 2]), letters(&[3, 2, 1]));
        assert_eq!(shares(&[100, 100]), [1, 1]);
    }

    #[test]
    fn a_sequence_that_would_be_too_long_is_scaled_down_and_leaves_nobody_out() {
        let mut weights = vec![256; 100];
        weights.push(1);
        let shares = shares(&weights);
        let sum: u32 = shares.iter().sum();
        assert!(sum <= SEQUENCE_SLOTS_MAX, "{sum}");
        assert!(sum > SEQUENCE_SLOTS_MAX * 98 / 100, "{sum}");
        assert_eq!(shares[100], 1);
        assert_eq!(shares[0], shares[99]);
    }

    proptest! {
        #[test]
        fn every_cycle_is_exact(weights in prop::collection::vec(1..=256_u32, 1..40)) {
            let shares = shares(&weights);
            let turns = fill(&weights);
            for (member, &share) in shares.iter().enumerate() {
                let found = turns.iter().filter(|&&turn| turn == member).count();
                prop_assert_eq!(found, share as usize);
                let exact = shares[0] * weights[member] == share * weights[0];
                prop_assert!(exact, "{:?}", shares);
            }
        }

        /// No member waits much longer than its share asks for.
        #[test]
        fn turns_are_even(weights in prop::collection::vec(1..=20_u32, 2..10)) {
            let turns = fill(&weights);
            let shares = shares(&weights);
            for (member, &share) in shares.iter().enumerate() {
                for end in 1..=turns.len() {
                    let had = turns[..end].iter().filter(|&&turn| turn == member).count();
                    let due = end as f64 * f64::from(share) / turns.len() as f64;
                    prop_assert!((had as f64 - due).abs() < weights.len() as f64 / 2.0 + 1.0);
                }
            }
        }
    }
}
