//! Frames as endpoints send and expect them, made without any of the code
//! that they test: offsets, byte order and checksums are this file's own.
//! `golden.rs` holds it against a foreign tool.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Bytes of an Ethernet header.
pub const ETH: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IP: usize = 20;
/// Bytes of a TCP header without options.
pub const TCP: usize = 20;
/// The shortest frame that the data path takes for a segment.
pub const HEADERS: usize = ETH + IP + TCP;

/// Where the IPv4 checksum lies.
const IP_CHECKSUM: usize = ETH + 10;
/// Where the TCP checksum lies.
pub const TCP_CHECKSUM: usize = ETH + IP + 16;

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// A stretch of wire, and the addresses of what travels over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    /// The sending NIC.
    pub from: MacAddress,
    /// The receiving NIC.
    pub to: MacAddress,
    /// The sender.
    pub source: (Ipv4Addr, u16),
    /// The receiver.
    pub destination: (Ipv4Addr, u16),
}

/// Who finishes the TCP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It is finished.
    Complete,
    /// The NIC: the field holds the folded sum of the pseudo header.
    Partial,
}

/// One TCP segment on a leg, to be changed field by field and built.
#[derive(Clone, Debug)]
pub struct Tcp {
    leg: Leg,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    ttl: u8,
    identification: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
    checksum: Checksum,
    padding: usize,
}

/// A segment with `flags` on `leg`.
#[must_use]
pub fn segment(leg: Leg, flags: u8) -> Tcp {
    Tcp {
        leg,
        flags,
        sequence: 0,
        acknowledgment: 0,
        window: 64_240,
        ttl: 64,
        identification: 0x1234,
        options: Vec::new(),
        payload: Vec::new(),
        checksum: Checksum::Complete,
        padding: 0,
    }
}

impl Tcp {
    /// Sequence and acknowledgment number.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgment: u32) -> Self {
        (self.sequence, self.acknowledgment) = (sequence, acknowledgment);
        self
    }

    /// The payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// TCP options, a multiple of four bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4), "options fill whole words");
        self.options = options.to_vec();
        self
    }

    /// The time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The other leg of its way: one hop further.
    #[must_use]
    pub fn hop(mut self, leg: Leg) -> Self {
        self.leg = leg;
        self.ttl -= 1;
        self
    }

    /// Who finishes the TCP checksum.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Bytes behind the packet, as Ethernet adds to short frames.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// As the data path's own RSTs look: no window, no identification, a
    /// fresh time to live.
    #[must_use]
    pub fn unsolicited(mut self) -> Self {
        (self.window, self.identification, self.ttl) = (0, 0, 64);
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (source, source_port) = self.leg.source;
        let (destination, destination_port) = self.leg.destination;
        let header = TCP + self.options.len();
        let length = IP + header + self.payload.len();
        let mut bytes = Vec::with_capacity(ETH + length + self.padding);
        bytes.extend(self.leg.to);
        bytes.extend(self.leg.from);
        bytes.extend([0x08, 0x00]);

        bytes.extend([0x45, 0]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend([0x40, 0, self.ttl, 6, 0, 0]);
        bytes.extend(source.octets());
        bytes.extend(destination.octets());

        bytes.extend(source_port.to_be_bytes());
        bytes.extend(destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([(header as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.payload);

        finish_ip(&mut bytes);
        match self.checksum {
            Checksum::Complete => finish_tcp(&mut bytes),
            Checksum::Partial => {
                let pseudo = pseudo_sum(&bytes);
                put(&mut bytes, TCP_CHECKSUM, fold(pseudo));
            }
        }
        bytes.extend(std::iter::repeat_n(0xee, self.padding));
        bytes
    }
}

/// Puts the right header checksum into an IPv4 frame without IP options.
pub fn finish_ip(frame: &mut [u8]) {
    put(frame, IP_CHECKSUM, 0);
    let sum = fold(sum(&frame[ETH..ETH + IP]));
    put(frame, IP_CHECKSUM, !sum);
}

/// Puts the right TCP checksum into a frame without IP options, as long as
/// its total length says.
pub fn finish_tcp(frame: &mut [u8]) {
    put(frame, TCP_CHECKSUM, 0);
    let sum = fold(pseudo_sum(frame) + sum(&frame[ETH + IP..packet_end(frame)]));
    put(frame, TCP_CHECKSUM, !sum);
}

/// Whether both checksums of a TCP frame without IP options are right.
#[must_use]
pub fn checksums_valid(frame: &[u8]) -> bool {
    let end = packet_end(frame);
    end <= frame.len()
        && ip_checksum_valid(frame)
        && fold(pseudo_sum(frame) + sum(&frame[ETH + IP..end])) == 0xffff
}

/// Whether the checksum of an IPv4 header without options is right.
#[must_use]
pub fn ip_checksum_valid(frame: &[u8]) -> bool {
    fold(sum(&frame[ETH..ETH + IP])) == 0xffff
}

/// Whether the TCP checksum field holds the pseudo header's sum alone.
#[must_use]
pub fn checksum_partial(frame: &[u8]) -> bool {
    frame[TCP_CHECKSUM..TCP_CHECKSUM + 2] == fold(pseudo_sum(frame)).to_be_bytes()
}

fn packet_end(frame: &[u8]) -> usize {
    ETH + usize::from(u16::from_be_bytes([frame[ETH + 2], frame[ETH + 3]]))
}

fn pseudo_sum(frame: &[u8]) -> u32 {
    let length = packet_end(frame) - ETH - IP;
    sum(&frame[ETH + 12..ETH + IP]) + 6 + length as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
