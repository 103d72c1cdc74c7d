//! Addresses and ports as they lie on the wire.
//!
//! A value holds the bytes in network order, in whatever integer the CPU
//! loads them into: comparing, hashing, storing and summing need no
//! conversion, and the only conversions stand in this file. What is generic
//! over [`Address`] works for IPv4 and IPv6 alike.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::select::mix;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::Ipv6Header;
use crate::wire::network::NetworkHeader;

/// A network address that the data path can steer by.
pub trait Address:
    Copy + Eq + Ord + Default + core::hash::Hash + fmt::Debug + Into<IpAddr> + 'static
{
    /// The header that carries such addresses.
    type Header: NetworkHeader<Address = Self>;

    /// The one's complement sum of the address' 16-bit words (RFC 1071).
    fn sum(self) -> Sum;

    /// `hash` with the address mixed in.
    fn hash_into(self, hash: u32) -> u32;

    /// The address as 16 bytes, in network order: IPv4 mapped into IPv6
    /// (RFC 4291, 2.5.5.2).
    fn mapped(self) -> Ipv6;
}

/// An IPv4 address, its bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ipv4(pub u32);

impl Address for Ipv4 {
    type Header = Ipv4Header;

    #[inline(always)]
    fn sum(self) -> Sum {
        Sum::default().add_u32(self.0)
    }

    #[inline(always)]
    fn hash_into(self, hash: u32) -> u32 {
        mix(hash, self.0)
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        Ipv6([0, 0, 0xffff_u32.to_be(), self.0])
    }
}

impl From<Ipv4Addr> for Ipv4 {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv4> for Ipv4Addr {
    fn from(address: Ipv4) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv4> for IpAddr {
    fn from(address: Ipv4) -> Self {
        Self::V4(address.into())
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Ipv4Addr::from(*self))
    }
}

/// An IPv6 address, its bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ipv6(pub [u32; 4]);

impl Address for Ipv6 {
    type Header = Ipv6Header;

    #[inline(always)]
    fn sum(self) -> Sum {
        let [a, b, c, d] = self.0;
        Sum::default().add_u32(a).add_u32(b).add_u32(c).add_u32(d)
    }

    #[inline(always)]
    fn hash_into(self, hash: u32) -> u32 {
        let [a, b, c, d] = self.0;
        mix(mix(mix(mix(hash, a), b), c), d)
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        self
    }
}

impl From<Ipv6Addr> for Ipv6 {
    fn from(address: Ipv6Addr) -> Self {
        let bytes = address.octets();
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Ipv6> for Ipv6Addr {
    fn from(Ipv6(words): Ipv6) -> Self {
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Self::from(bytes)
    }
}

impl From<Ipv6> for IpAddr {
    fn from(address: Ipv6) -> Self {
        Self::V6(address.into())
    }
}

impl fmt::Debug for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Ipv6Addr::from(*self))
    }
}

/// A TCP port, its bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port(pub u16);

impl Port {
    /// The port that a person writes as `number`.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number that a person writes for this port.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// An Ethernet address: three 16-bit words, because packets are only
/// guaranteed to begin on an even address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u16; 3]);

impl From<[u8; 6]> for Mac {
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            u16::from_ne_bytes([e, f]),
        ])
    }
}

impl From<Mac> for [u8; 6] {
    fn from(Mac([ab, cd, ef]): Mac) -> Self {
        let ([a, b], [c, d], [e, f]) = (ab.to_ne_bytes(), cd.to_ne_bytes(), ef.to_ne_bytes());
        [a, b, c, d, e, f]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = <[u8; 6]>::from(*self);
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
