//! The TCP header without options.

use core::ops::BitOr;

use network_types::tcp::TcpHdr;

use crate::addr::Port;
use crate::wire::ipv4::{join, split};

/// The header as it lies in a packet, 16-bit fields in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader {
    /// The sender's port.
    pub source: Port,
    /// The receiver's port.
    pub destination: Port,
    pub(crate) sequence: [u16; 2],
    pub(crate) acknowledgment: [u16; 2],
    /// The header's length in 32-bit words, in the upper four bits.
    pub data_offset: u8,
    /// The control bits.
    pub flags: Flags,
    /// Receive window.
    pub window: u16,
    /// The checksum over pseudo header, header and payload.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl TcpHeader {
    /// `data_offset` of a header without options.
    pub const PLAIN: u8 = 5 << 4;

    /// The sequence number of the first byte, in host order.
    #[inline(always)]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32::from_be(join(self.sequence))
    }

    /// The sequence number that the sender expects next, in host order.
    #[inline(always)]
    #[must_use]
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be(join(self.acknowledgment))
    }

    /// Sets both sequence numbers, given in host order.
    #[inline(always)]
    pub fn set_numbers(&mut self, sequence: u32, acknowledgment: u32) {
        self.sequence = split(sequence.to_be());
        self.acknowledgment = split(acknowledgment.to_be());
    }

    /// The header's length in bytes, options included; as claimed.
    #[inline(always)]
    #[must_use]
    pub fn length(&self) -> u16 {
        (self.data_offset >> 4) as u16 * 4
    }
}

const _: () = assert!(size_of::<TcpHeader>() == TcpHdr::LEN);

/// TCP's control bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: Self = Self(0x01);
    /// The sender opens a connection.
    pub const SYN: Self = Self(0x02);
    /// The connection is gone.
    pub const RST: Self = Self(0x04);
    /// Hand the data on at once.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn contain(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Whether any of `bits` is set.
    #[inline(always)]
    #[must_use]
    pub const fn intersect(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }

    /// How much of the sequence space the bits take up.
    #[inline(always)]
    #[must_use]
    pub const fn sequence_length(self) -> u32 {
        self.intersect(Self::SYN) as u32 + self.intersect(Self::FIN) as u32
    }

    /// Whether this is a segment in the middle of a connection: an ACK, with
    /// or without data, that neither opens nor ends anything.
    #[inline(always)]
    #[must_use]
    pub const fn carry_on(self) -> bool {
        self.0 & 0x17 == Self::ACK.0
    }

    /// Whether this is the first segment of a connection: SYN alone, whatever
    /// ECN (RFC 3168) and PSH say.
    #[inline(always)]
    #[must_use]
    pub const fn open_connection(self) -> bool {
        self.0 & 0x17 == Self::SYN.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
