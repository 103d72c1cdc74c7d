//! A first look at where a packet is sent, which spares most packets that are
//! not ours all look-ups: a Bloom filter with one hash.

use crate::addr::{Address, Port};
use crate::service::Listener;
use crate::target::Snat;

/// The value of ADDRESSES: a bit for each hash of what packets of ours are sent
/// to. That is services' listeners, the ports of SNAT addresses in blocks, and
/// for what has no port the addresses of both. Bits are only ever added: what
/// is not ours any more costs look-ups, and harms nobody.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter(pub [u64; Self::WORDS]);

/// A bit of a [`Filter`]: its word, and the word with nothing but the bit set.
pub type Place = (usize, u64);

impl Filter {
    const WORDS: usize = 512;
    const BITS: u32 = 15;

    /// Nothing is ours.
    pub const EMPTY: Self = Self([0; Self::WORDS]);

    /// What is hashed with an address beside single ports, which are less.
    const BLOCKS: u32 = 1 << 16;
    const WHOLE: u32 = 1 << 17;

    /// The bit for an address, whatever the port.
    #[inline(always)]
    #[must_use]
    pub fn place<A: Address>(address: A) -> Place {
        Self::place_of(address, Self::WHOLE)
    }

    /// The two bits for a port of an address, of which one is enough.
    #[inline(always)]
    #[must_use]
    pub fn places<A: Address>(address: A, port: Port) -> [Place; 2] {
        [
            Self::place_of(address, u32::from(port.0)),
            Self::place_of(address, Self::block(port.number())),
        ]
    }

    /// Ports are given out by the thousand: a bit for each would be too many.
    #[inline(always)]
    const fn block(port: u16) -> u32 {
        Self::BLOCKS | port as u32 >> 10
    }

    #[inline(always)]
    fn place_of<A: Address>(address: A, part: u32) -> Place {
        let sum = address.sum().0;
        let mixed = (sum ^ (sum >> 32)) as u32 ^ part.wrapping_mul(0x85eb_ca6b);
        let hash = mixed.wrapping_mul(0x9e37_79b1) >> (32 - Self::BITS);
        ((hash >> 6) as usize % Self::WORDS, 1 << (hash % 64))
    }

    /// Notes that clients connect to `listener`.
    pub fn add_listener<A: Address>(&mut self, listener: &Listener<A>) {
        self.add_address(listener.address);
        self.set(Self::place_of(listener.address, u32::from(listener.port.0)));
    }

    /// Notes that servers answer to `snat`.
    pub fn add_snat<A: Address>(&mut self, snat: &Snat<A>) {
        self.add_address(snat.address);
        for offset in 0..snat.count {
            let block = Self::block(snat.first.saturating_add(offset));
            self.set(Self::place_of(snat.address, block));
        }
    }

    /// Notes that `address` is ours, and nothing of its ports.
    pub fn add_address<A: Address>(&mut self, address: A) {
        self.set(Self::place(address));
    }

    fn set(&mut self, (word, bit): Place) {
        self.0[word] |= bit;
    }

    /// Whether `address` may be ours.
    #[must_use]
    pub fn contains<A: Address>(&self, address: A) -> bool {
        self.has(Self::place(address))
    }

    /// Whether connections may come to `port` of `address`.
    #[must_use]
    pub fn contains_port<A: Address>(&self, address: A, port: Port) -> bool {
        let [one, block] = Self::places(address, port);
        self.has(one) || self.has(block)
    }

    fn has(&self, (word, bit): Place) -> bool {
        self.0[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Ipv4, Ipv6};

    const OURS: Ipv4 = Ipv4(u32::from_ne_bytes([10, 0, 0, 100]));
    const OURS_TOO: Ipv6 = Ipv6([1, 2, 3, 4]);

    fn listener<A: Address>(address: A) -> Listener<A> {
        Listener::new(address, Port::new(8080))
    }

    #[test]
    fn what_was_added_is_ours_and_hardly_anything_else() {
        let mut filter = Filter::EMPTY;
        filter.add_listener(&listener(OURS));
        filter.add_listener(&listener(OURS_TOO));
        assert!(filter.contains(OURS) && filter.contains(OURS_TOO));
        let mistaken = (0..1_000_000_u32)
            .filter(|&word| filter.contains(Ipv4(word)))
            .count();
        assert!(mistaken < 1000, "{mistaken}");
    }

    #[test]
    fn of_a_vip_the_ports_of_services_are_ours() {
        let mut filter = Filter::EMPTY;
        filter.add_listener(&listener(OURS));
        filter.add_listener(&listener(OURS_TOO));
        let ours = |&port: &u16| {
            let port = Port::new(port);
            filter.contains_port(OURS, port) || filter.contains_port(OURS_TOO, port)
        };
        let ours: Vec<u16> = (0..=u16::MAX).filter(ours).collect();
        assert!(ours.contains(&8080));
        assert!(ours.len() < 100, "{ours:?}");
    }

    #[test]
    fn of_a_snat_address_the_range_is_ours() {
        for (first, count) in [(1024, 31_744), (1, u16::MAX), (60_000, 1), (50_000, 15_536)] {
            let mut filter = Filter::EMPTY;
            filter.add_snat(&Snat {
                address: OURS,
                first,
                count,
            });
            assert!(filter.contains(OURS));
            for offset in 0..count {
                assert!(filter.contains_port(OURS, Port::new(first + offset)));
            }
            let others = (0..1024).filter(|port| !(first..=first + (count - 1)).contains(port));
            let mistaken = others.filter(|&port| filter.contains_port(OURS, Port::new(port)));
            assert!(mistaken.count() < 100);
        }
    }
}
