//! Addresses and ports as they lie on the wire.
//!
//! A value holds the bytes in network order, in whatever integer the CPU
//! loads them into: comparing, hashing, storing and summing need no
//! conversion, and the only conversions stand in this file. What is generic
//! over [`Address`] works for IPv4 today and joins IPv6 by one more `impl`.

use core::fmt;
use core::net::Ipv4Addr;

use crate::wire::checksum::Sum;

/// A network address that the data path can steer by.
pub trait Address: Copy + Eq + Ord + Default + core::hash::Hash + fmt::Debug {
    /// The one's complement sum of the address' 16-bit words (RFC 1071).
    fn sum(self) -> Sum;

    /// The address folded into 32 bits, as input for a hash.
    fn word(self) -> u32;
}

/// An IPv4 address, its bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ipv4(pub u32);

impl Address for Ipv4 {
    #[inline(always)]
    fn sum(self) -> Sum {
        Sum::default().add_u32(self.0)
    }

    #[inline(always)]
    fn word(self) -> u32 {
        self.0
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

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Ipv4Addr::from(*self))
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
