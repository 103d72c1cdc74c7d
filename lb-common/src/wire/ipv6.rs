//! The IPv6 header (RFC 8200), nothing between it and its payload.

use network_types::ip::{IpProto, Ipv6Hdr};

use crate::addr::Ipv6;
use crate::layout::{load_words, store_words};
use crate::verdict::Reason;
use crate::wire::eth::EthernetHeader;
use crate::wire::ipv4::split;
use crate::wire::network::{FRESH_HOPS, NetworkHeader, TCP};

/// The header as it lies in a packet, 16-bit fields in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ipv6Header {
    /// Version 6, and the upper half of the traffic class.
    pub version_class: u8,
    /// The rest of the traffic class, and the flow label's first bits.
    pub class_label: u8,
    /// The rest of the flow label.
    pub label: u16,
    /// What follows the header, in bytes.
    pub payload_length: u16,
    /// What follows the header.
    pub next_header: u8,
    /// Time to live.
    pub hop_limit: u8,
    source: [[u16; 2]; 4],
    destination: [[u16; 2]; 4],
}

impl Ipv6Header {
    /// The version, in the upper half of `version_class`.
    pub const VERSION: u8 = 6 << 4;
}

/// Extension headers, but for fragments: hop-by-hop options, routing,
/// authentication, destination options.
const EXTENSIONS: [u8; 4] = [
    IpProto::HopOpt as u8,
    IpProto::Ipv6Route as u8,
    IpProto::Ah as u8,
    IpProto::Ipv6Opts as u8,
];

impl NetworkHeader for Ipv6Header {
    type Address = Ipv6;

    const ETHER_TYPE: u16 = EthernetHeader::IPV6;
    const LENGTH: u16 = size_of::<Self>() as u16;
    const ENCAPSULATED: u8 = IpProto::Ipv6 as u8;
    const TOO_BIG: (u8, u8) = (2, 0);
    const ICMP: u8 = IpProto::Ipv6Icmp as u8;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const HOP_DELTA: u16 = !u16::from_ne_bytes([0, 1]);

    /// Destination unreachable, packet too big, time exceeded, parameter
    /// problem.
    #[inline(always)]
    fn icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn carries_tcp(&self) -> Result<(), Reason> {
        if self.version_class & 0xf0 != Self::VERSION {
            return Err(Reason::Malformed);
        }
        let [a, b, c, d] = EXTENSIONS;
        match self.next_header {
            TCP => Ok(()),
            next if next == IpProto::Ipv6Frag as u8 => Err(Reason::Fragment),
            next if next == a || next == b || next == c || next == d => Err(Reason::Options),
            _ => Err(Reason::NotTcp),
        }
    }

    #[inline(always)]
    fn packet_length(&self) -> u32 {
        u16::from_be(self.payload_length) as u32 + Self::LENGTH as u32
    }

    #[inline(always)]
    fn source(&self) -> Ipv6 {
        Ipv6(load_words(&self.source))
    }

    #[inline(always)]
    fn destination(&self) -> Ipv6 {
        Ipv6(load_words(&self.destination))
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn readdress(&mut self, source: Ipv6, destination: Ipv6, _delta: u16) {
        store_words(&mut self.source, source.0);
        store_words(&mut self.destination, destination.0);
    }

    #[inline(always)]
    fn forward(&mut self, source: Ipv6, destination: Ipv6, delta: u16) {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
        self.readdress(source, destination, delta);
    }

    #[inline(always)]
    fn fresh(source: Ipv6, destination: Ipv6, protocol: u8, payload: u16) -> Self {
        Self {
            version_class: Self::VERSION,
            payload_length: payload.to_be(),
            next_header: protocol,
            hop_limit: FRESH_HOPS,
            source: store(source),
            destination: store(destination),
            ..Self::default()
        }
    }
}

#[inline(always)]
const fn store(Ipv6([a, b, c, d]): Ipv6) -> [[u16; 2]; 4] {
    [split(a), split(b), split(c), split(d)]
}

const _: () = assert!(size_of::<Ipv6Header>() == Ipv6Hdr::LEN);
