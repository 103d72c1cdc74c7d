//! The IPv4 header without options.

use network_types::ip::{IpProto, Ipv4Hdr};

use crate::addr::Ipv4;
use crate::verdict::Reason;
use crate::wire::checksum::{self, Sum};
use crate::wire::eth::EthernetHeader;
use crate::wire::network::{FRESH_HOPS, NetworkHeader, TCP};

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
    source: [u16; 2],
    destination: [u16; 2],
}

/// What the time to live's decrement adds to the header checksum: ~m + m' of
/// its word does not depend on the value before.
const TTL_DELTA: u16 = !u16::from_ne_bytes([1, 0]);

impl Ipv4Header {
    /// `version_length` of a header without options.
    pub const PLAIN: u8 = 0x45;
    /// In `fragment`: more fragments follow, or this is not the first one.
    pub const FRAGMENTED: u16 = 0x3fff_u16.to_be();
    /// In `fragment`: do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

    /// The sum over the header, its checksum field left out.
    #[inline(always)]
    fn sum(&self) -> Sum {
        Sum::default()
            .add_u16(u16::from_ne_bytes([
                self.version_length,
                self.traffic_class,
            ]))
            .add_u16(self.total_length)
            .add_u16(self.identification)
            .add_u16(self.fragment)
            .add_u16(u16::from_ne_bytes([self.ttl, self.protocol]))
            .add_u32(join(self.source))
            .add_u32(join(self.destination))
    }
}

impl NetworkHeader for Ipv4Header {
    type Address = Ipv4;

    const ETHER_TYPE: u16 = EthernetHeader::IPV4;
    const LENGTH: u16 = size_of::<Self>() as u16;
    const ENCAPSULATED: u8 = IpProto::Ipv4 as u8;
    const TOO_BIG: (u8, u8) = (3, 4);
    const ICMP: u8 = IpProto::Icmp as u8;
    const ICMP_COVERS_ADDRESSES: bool = false;
    /// The header's own checksum makes up for it.
    const HOP_DELTA: u16 = 0;

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn icmp_error(kind: u8) -> bool {
        kind == 3 || kind == 11 || kind == 12
    }

    #[inline(always)]
    fn carries_tcp(&self) -> Result<(), Reason> {
        if self.version_length != Self::PLAIN {
            return Err(Reason::Options);
        }
        if self.fragment & Self::FRAGMENTED != 0 {
            return Err(Reason::Fragment);
        }
        if self.protocol != TCP {
            return Err(Reason::NotTcp);
        }
        Ok(())
    }

    #[inline(always)]
    fn packet_length(&self) -> u32 {
        u16::from_be(self.total_length) as u32
    }

    #[inline(always)]
    fn source(&self) -> Ipv4 {
        Ipv4(join(self.source))
    }

    #[inline(always)]
    fn destination(&self) -> Ipv4 {
        Ipv4(join(self.destination))
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn readdress(&mut self, source: Ipv4, destination: Ipv4, delta: u16) {
        self.checksum = checksum::update(self.checksum, delta);
        self.source = split(source.0);
        self.destination = split(destination.0);
    }

    #[inline(always)]
    fn forward(&mut self, source: Ipv4, destination: Ipv4, delta: u16) {
        self.ttl = self.ttl.wrapping_sub(1);
        self.readdress(source, destination, checksum::plus(delta, TTL_DELTA));
    }

    #[inline(always)]
    fn fresh(source: Ipv4, destination: Ipv4, protocol: u8, payload: u16) -> Self {
        let mut header = Self {
            version_length: Self::PLAIN,
            total_length: (Self::LENGTH + payload).to_be(),
            fragment: Self::DONT_FRAGMENT,
            ttl: FRESH_HOPS,
            protocol,
            source: split(source.0),
            destination: split(destination.0),
            ..Self::default()
        };
        header.checksum = header.sum().checksum();
        header
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
