//! A first look at a destination address, which spares most packets that are
//! not ours all look-ups: a Bloom filter with one hash.

use crate::addr::Address;

/// The value of ADDRESSES: a bit for each hash that one of our addresses has,
/// VIPs and SNAT addresses. Bits are only ever added: what is not ours any
/// more costs look-ups, and harms nobody.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter(pub [u64; Self::WORDS]);

impl Filter {
    const WORDS: usize = 64;
    const BITS: u32 = 12;

    /// Nothing is ours.
    pub const EMPTY: Self = Self([0; Self::WORDS]);

    /// The word and the bit in it for an address.
    #[inline(always)]
    #[must_use]
    pub fn place<A: Address>(address: A) -> (usize, u64) {
        let sum = address.sum().0;
        let hash = ((sum ^ (sum >> 32)) as u32).wrapping_mul(0x9e37_79b1) >> (32 - Self::BITS);
        ((hash >> 6) as usize % Self::WORDS, 1 << (hash % 64))
    }

    /// Notes that `address` is ours.
    pub fn add<A: Address>(&mut self, address: A) {
        let (word, bit) = Self::place(address);
        self.0[word] |= bit;
    }

    /// Whether `address` may be ours.
    #[must_use]
    pub fn contains<A: Address>(&self, address: A) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Ipv4, Ipv6};

    #[test]
    fn what_was_added_is_ours_and_hardly_anything_else() {
        let mut filter = Filter::EMPTY;
        let ours = Ipv4(u32::from_ne_bytes([10, 0, 0, 100]));
        let ours_too = Ipv6([1, 2, 3, 4]);
        filter.add(ours);
        filter.add(ours_too);
        assert!(filter.contains(ours) && filter.contains(ours_too));
        let mistaken = (0..1_000_000_u32)
            .filter(|&word| filter.contains(Ipv4(word)))
            .count();
        assert!(mistaken < 1000, "{mistaken}");
    }
}
