//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are taken over words as the CPU loads them: the one's complement sum
//! does not mind the byte order as long as it is the same throughout
//! (RFC 1071, 2B).

/// A one's complement sum in progress: carries gather in the upper bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(pub u64);

impl Sum {
    /// Adds one 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn add_u16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds two 16-bit words that were loaded as one of 32 bits.
    #[inline(always)]
    #[must_use]
    pub const fn add_u32(self, words: u32) -> Self {
        Self(self.0 + words as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Takes a folded sum away: adds its complement.
    #[inline(always)]
    #[must_use]
    pub const fn subtract(self, other: Self) -> Self {
        self.add_u16(!other.fold())
    }

    /// The sum in 16 bits, its carries added back in.
    #[inline(always)]
    #[must_use]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum that makes the summed words valid.
    #[inline(always)]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The sum of `bytes`, an odd last byte padded with zero (RFC 1071, 1).
#[must_use]
pub fn sum(bytes: &[u8]) -> Sum {
    let mut total = Sum::default();
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total = total.add_u16(u16::from_ne_bytes([word[0], word[1]]));
    }
    match words.remainder() {
        [last] => total.add_u16(u16::from_ne_bytes([*last, 0])),
        _ => total,
    }
}

/// `checksum` after the words that it covers changed by `delta`: RFC 1624,
/// equation 3, with `delta` = ~m + m' precomputed.
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u16) -> u16 {
    !plus(!checksum, delta)
}

/// The one's complement sum of two words: one carry is all that there can be.
#[inline(always)]
#[must_use]
pub const fn plus(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).fold().to_be(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_gives_zero() {
        // Header checksum 0xdd2f, a field changes from 0x5555 to 0x3285.
        let delta = Sum::default().add_u16(!0x5555).add_u16(0x3285).fold();
        assert_eq!(update(0xdd2f, delta), 0x0000);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_recomputation(
            mut words in proptest::collection::vec(any::<u16>(), 2..80),
            at in any::<proptest::sample::Index>(),
            new in any::<u16>(),
        ) {
            // Word 0 is never zero, as in every real header: RFC 1624 does not
            // tell the two zeros apart where all words are zero.
            words[0] |= 1;
            let at = 1 + at.index(words.len() - 1);
            let total = |words: &[u16]| words.iter().fold(Sum::default(), |sum, w| sum.add_u16(*w));
            let before = total(&words).checksum();
            let delta = Sum::default().add_u16(!words[at]).add_u16(new).fold();
            words[at] = new;
            prop_assert_eq!(update(before, delta), total(&words).checksum());
        }
    }
}
