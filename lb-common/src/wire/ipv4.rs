//! The IPv4 header without options.

use network_types::ip::{IpProto, Ipv4Hdr};

use crate::addr::Ipv4;

/// The header as it lies in a packet, 16-bit fields in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ipv4Header {
    /// Version 4 and a header length of five words.
    pub version_length: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Header and payload, in bytes.
    pub total_length: u16,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// What the packet carries.
    pub protocol: u8,
    /// The header's checksum.
    pub checksum: u16,
    pub(crate) source: [u16; 2],
    pub(crate) destination: [u16; 2],
}

impl Ipv4Header {
    /// `version_length` of a header without options.
    pub const PLAIN: u8 = 0x45;
    /// `protocol` of TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// In `fragment`: more fragments follow, or this is not the first one.
    pub const FRAGMENTED: u16 = 0x3fff_u16.to_be();
    /// In `fragment`: do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

    /// The sender.
    #[inline(always)]
    #[must_use]
    pub fn source(&self) -> Ipv4 {
        Ipv4(join(self.source))
    }

    /// The receiver.
    #[inline(always)]
    #[must_use]
    pub fn destination(&self) -> Ipv4 {
        Ipv4(join(self.destination))
    }

    /// Replaces both addresses; the checksum stays as it was.
    #[inline(always)]
    pub fn set_addresses(&mut self, source: Ipv4, destination: Ipv4) {
        self.source = split(source.0);
        self.destination = split(destination.0);
    }
}

/// Two 16-bit words as the 32-bit word that they make in memory.
#[inline(always)]
pub(crate) const fn join([first, second]: [u16; 2]) -> u32 {
    if cfg!(target_endian = "little") {
        first as u32 | (second as u32) << 16
    } else {
        (first as u32) << 16 | second as u32
    }
}

/// The inverse of [`join`].
#[inline(always)]
pub(crate) const fn split(word: u32) -> [u16; 2] {
    if cfg!(target_endian = "little") {
        [word as u16, (word >> 16) as u16]
    } else {
        [(word >> 16) as u16, word as u16]
    }
}

const _: () = assert!(size_of::<Ipv4Header>() == Ipv4Hdr::LEN);
