//! Frames as endpoints send and expect them, made without any of the code
//! that they test: offsets, byte order and checksums are this file's own.
//! `golden.rs` holds it against a foreign tool.

use std::net::{IpAddr, Ipv6Addr};

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// Bytes of an Ethernet header.
pub const ETH: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IP: usize = 20;
/// Bytes of a TCP header without options.
pub const TCP: usize = 20;
/// Bytes of an IPv6 header.
pub const IP6: usize = 40;
/// The shortest frame that the data path takes for a segment over IPv4.
pub const HEADERS: usize = ETH + IP + TCP;
/// The shortest frame that the data path takes for a segment over IPv6.
pub const HEADERS6: usize = ETH + IP6 + TCP;

/// The protocol number of IPv4 inside of another packet.
pub const IP_IN_IP: u8 = 4;
/// The protocol number of IPv6 inside of another packet.
pub const IP6_IN_IP6: u8 = 41;

/// Where the checksum lies in an IPv4 header.
const IP_CHECKSUM: usize = 10;
/// Where the checksum lies in a TCP header.
const TCP_CHECKSUM: usize = 16;

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
    pub source: (IpAddr, u16),
    /// The receiver.
    pub destination: (IpAddr, u16),
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
    tags: Vec<[u8; 4]>,
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
        tags: Vec::new(),
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

    /// The same on another leg, which is no hop.
    #[must_use]
    pub fn on(mut self, leg: Leg) -> Self {
        self.leg = leg;
        self
    }

    /// The other leg of its way: one hop further.
    #[must_use]
    pub fn hop(mut self, leg: Leg) -> Self {
        self.ttl -= 1;
        self.on(leg)
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

    /// VLAN tags (802.1Q, 802.1ad), the outermost first.
    #[must_use]
    pub fn tags(mut self, tags: &[[u8; 4]]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// The frame.
    ///
    /// # Panics
    /// The leg is one of IPv4 and of IPv6.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (source, source_port) = self.leg.source;
        let (destination, destination_port) = self.leg.destination;
        let header = TCP + self.options.len();
        let length = header + self.payload.len();
        let mut bytes = Vec::with_capacity(ETH + IP6 + length + self.padding);
        bytes.extend(link_header(self.leg, &self.tags));
        bytes.extend(network_header(
            (source, destination),
            6,
            (self.ttl, self.identification),
            length,
        ));
        bytes.extend(source_port.to_be_bytes());
        bytes.extend(destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([(header as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.payload);

        match self.checksum {
            Checksum::Complete => finish_tcp(&mut bytes),
            Checksum::Partial => leave_tcp(&mut bytes),
        }
        bytes.extend(std::iter::repeat_n(0xee, self.padding));
        bytes
    }
}

/// The Ethernet header of a frame on `leg`, tags included.
#[must_use]
pub fn link_header(leg: Leg, tags: &[[u8; 4]]) -> Vec<u8> {
    let ether_type = match leg.source.0 {
        IpAddr::V4(_) => [0x08, 0x00],
        IpAddr::V6(_) => [0x86, 0xdd],
    };
    [&leg.to, &leg.from, tags.as_flattened(), &ether_type].concat()
}

/// The network header of a packet from and to these addresses, with `length`
/// bytes of `protocol` behind it. Where IPv4 has an identification, IPv6 has a
/// flow label.
///
/// # Panics
/// The addresses are one of IPv4 and one of IPv6.
#[must_use]
pub fn network_header(
    addresses: (IpAddr, IpAddr),
    protocol: u8,
    (ttl, identification): (u8, u16),
    length: usize,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IP6);
    match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x45, 0]);
            bytes.extend(((IP + length) as u16).to_be_bytes());
            bytes.extend(identification.to_be_bytes());
            bytes.extend([0x40, 0, ttl, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let sum = fold(sum(&bytes));
            put(&mut bytes, IP_CHECKSUM, !sum);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x60, 0]);
            bytes.extend(identification.to_be_bytes());
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([protocol, ttl]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        _ => panic!("{addresses:?} are of both families"),
    }
    bytes
}

/// Where the parts of a frame lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// The network header.
    pub network: usize,
    /// What it carries.
    pub transport: usize,
    /// The end of the packet, which the frame has room for.
    pub end: usize,
    /// The number of the protocol that it carries.
    pub protocol: u8,
}

/// The parts of a frame without IP options, as long as its length field says;
/// none where that leaves no room for TCP.
fn parts(frame: &[u8]) -> Option<Parts> {
    any_parts(frame).filter(|parts| parts.transport + TCP <= parts.end)
}

/// The parts of a frame without IP options, as long as its length field says.
pub(super) fn any_parts(frame: &[u8]) -> Option<Parts> {
    let word = |at: usize| Some([*frame.get(at)?, *frame.get(at + 1)?]);
    let mut network = ETH;
    while matches!(word(network - 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        network += 4;
    }
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(word(at)?)));
    let (header, end, protocol) = match word(network - 2)? {
        [0x08, 0x00] => (IP, network + number(network + 2)?, network + 9),
        [0x86, 0xdd] => (IP6, network + IP6 + number(network + 4)?, network + 6),
        _ => return None,
    };
    let transport = network + header;
    (transport <= end && end <= frame.len()).then_some(Parts {
        network,
        transport,
        end,
        protocol: *frame.get(protocol)?,
    })
}

/// The header of an IPv4 frame.
fn ipv4_header(frame: &mut [u8]) -> Option<&mut [u8]> {
    let mut network = ETH;
    while matches!(
        frame.get(network - 2..network)?,
        [0x81, 0x00] | [0x88, 0xa8]
    ) {
        network += 4;
    }
    if frame[network - 2..network] != [0x08, 0x00] {
        return None;
    }
    frame.get_mut(network..network + IP)
}

/// Puts the right header checksum into an IPv4 frame without IP options.
/// Other frames are left alone.
pub fn finish_ip(frame: &mut [u8]) {
    if let Some(header) = ipv4_header(frame) {
        put(header, IP_CHECKSUM, 0);
        let sum = fold(sum(header));
        put(header, IP_CHECKSUM, !sum);
    }
}

/// Puts the right TCP checksum into a frame without IP options, where there
/// is room for one.
pub fn finish_tcp(frame: &mut [u8]) {
    if let Some(parts) = parts(frame) {
        put(frame, parts.transport + TCP_CHECKSUM, 0);
        let sum = fold(pseudo_sum(frame, parts, 6) + sum(&frame[parts.transport..parts.end]));
        put(frame, parts.transport + TCP_CHECKSUM, !sum);
    }
}

/// Puts the pseudo header's sum alone into the TCP checksum field.
pub fn leave_tcp(frame: &mut [u8]) {
    if let Some(parts) = parts(frame) {
        let pseudo = fold(pseudo_sum(frame, parts, 6));
        put(frame, parts.transport + TCP_CHECKSUM, pseudo);
    }
}

/// Whether all checksums of a TCP frame without IP options are right.
#[must_use]
pub fn checksums_valid(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|parts| {
        let segment = sum(&frame[parts.transport..parts.end]);
        ip_checksum_valid(frame) && fold(pseudo_sum(frame, parts, 6) + segment) == 0xffff
    })
}

/// Whether the checksum of an IPv4 header without options is right; true for
/// IPv6, which has none.
#[must_use]
pub fn ip_checksum_valid(frame: &[u8]) -> bool {
    ipv4_header(&mut frame.to_vec()).is_none_or(|header| fold(sum(header)) == 0xffff)
}

/// Whether the TCP checksum field holds the pseudo header's sum alone.
#[must_use]
pub fn checksum_partial(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|parts| {
        let at = parts.transport + TCP_CHECKSUM;
        frame[at..at + 2] == fold(pseudo_sum(frame, parts, 6)).to_be_bytes()
    })
}

/// A frame whose packet travels inside of another one, between `addresses` of
/// its own family.
///
/// # Panics
/// The frame carries no packet.
#[must_use]
pub fn encapsulated(frame: &[u8], addresses: (IpAddr, IpAddr)) -> Vec<u8> {
    let Parts { network, end, .. } = any_parts(frame).expect("a packet");
    let protocol = if addresses.0.is_ipv4() {
        IP_IN_IP
    } else {
        IP6_IN_IP6
    };
    let outer = network_header(addresses, protocol, (64, 0), end - network);
    let (link, packet) = frame.split_at(network);
    [link, &outer, packet].concat()
}

/// The same segment over IPv6, between the addresses and ports that `like` and
/// `port` put in the place of its own. One inside of another packet stays so.
///
/// # Panics
/// The frame is no TCP segment over IPv4.
#[must_use]
pub fn over_ipv6(frame: &[u8], like: fn(IpAddr) -> Ipv6Addr, port: fn(u16) -> u16) -> Vec<u8> {
    let parts = parts(frame).expect("a TCP segment");
    let (link, rest) = frame.split_at(parts.network);
    let (ip, tcp) = rest.split_at(IP);
    assert_eq!(link[link.len() - 2..], [0x08, 0x00], "over IPv4");
    let address = |at: usize| like(IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]));
    if parts.protocol == IP_IN_IP {
        let inner = over_ipv6(&[link, tcp].concat(), like, port);
        return encapsulated(&inner, (address(12).into(), address(16).into()));
    }
    let mut bytes = link[..link.len() - 2].to_vec();
    bytes.extend([0x86, 0xdd, 0x60, 0, ip[4], ip[5]]);
    bytes.extend(((parts.end - parts.transport) as u16).to_be_bytes());
    bytes.extend([6, ip[8]]);
    bytes.extend(address(12).octets());
    bytes.extend(address(16).octets());
    let transport = bytes.len();
    bytes.extend(tcp);
    for at in [transport, transport + 2] {
        let number = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        put(&mut bytes, at, port(number));
    }
    if checksum_partial(frame) {
        leave_tcp(&mut bytes);
    } else if checksums_valid(frame) {
        finish_tcp(&mut bytes);
    }
    bytes
}

/// The sum of the pseudo header that `protocol`'s checksum covers.
pub(super) fn pseudo_sum(frame: &[u8], parts: Parts, protocol: u8) -> u32 {
    let Parts {
        network,
        transport,
        end,
        ..
    } = parts;
    let addresses = match transport - network {
        IP => network + 12..transport,
        _ => network + 8..transport,
    };
    sum(&frame[addresses]) + u32::from(protocol) + (end - transport) as u32
}

pub(super) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

pub(super) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(super) fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
