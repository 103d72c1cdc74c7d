//! Ethernet, IPv4 and TCP header as one window, and the segment that they
//! describe.

use crate::addr::Ipv4;
use crate::flow::FlowKey;
use crate::nat;
use crate::target::Hop;
use crate::verdict::Reason;
use crate::wire::eth::EthernetHeader;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::tcp::{Flags, TcpHeader};

/// The first 54 bytes of a TCP over IPv4 packet without VLAN tag and without
/// IP options: all that the data path reads or writes. TCP options follow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// Ethernet.
    pub eth: EthernetHeader,
    /// IPv4.
    pub ip: Ipv4Header,
    /// TCP.
    pub tcp: TcpHeader,
}

/// The length of an Ethernet header in bytes.
const ETH_LENGTH: usize = size_of::<EthernetHeader>();
/// The length of an IPv4 header without options in bytes.
const IP_LENGTH: u16 = size_of::<Ipv4Header>() as u16;

/// One TCP segment as parsed from a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<A> {
    /// Addresses and ports.
    pub key: FlowKey<A>,
    /// Control bits.
    pub flags: Flags,
    /// Sequence number of the first byte, in host order.
    pub sequence: u32,
    /// Acknowledgment number, in host order.
    pub acknowledgment: u32,
    /// Hops left.
    pub ttl: u8,
    /// The way back to whoever handed us the packet.
    pub back: Hop,
}

impl Headers {
    /// The length of the window in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// The segment that these headers describe, in a frame of `frame` bytes;
    /// or why it is none that we understand.
    ///
    /// # Errors
    /// A reason to pass the packet on to the host.
    #[inline(always)]
    pub fn parse(&self, frame: usize) -> Result<Segment<Ipv4>, Reason> {
        let Self { eth, ip, tcp } = self;
        if eth.ether_type != EthernetHeader::IPV4 {
            return Err(Reason::NotIpv4);
        }
        if ip.version_length != Ipv4Header::PLAIN {
            return Err(Reason::Ipv4Options);
        }
        if ip.fragment & Ipv4Header::FRAGMENTED != 0 {
            return Err(Reason::Fragment);
        }
        if ip.protocol != Ipv4Header::TCP {
            return Err(Reason::NotTcp);
        }
        let total = u16::from_be(ip.total_length);
        let header = tcp.length();
        if ETH_LENGTH + total as usize > frame
            || header < size_of::<TcpHeader>() as u16
            || total < IP_LENGTH + header
        {
            return Err(Reason::Malformed);
        }
        Ok(Segment {
            key: self.key(),
            flags: tcp.flags,
            sequence: tcp.sequence(),
            acknowledgment: tcp.acknowledgment(),
            ttl: ip.ttl,
            back: Hop {
                destination: eth.source,
                source: eth.destination,
            },
        })
    }

    /// Addresses and ports.
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> FlowKey<Ipv4> {
        FlowKey {
            source: self.ip.source(),
            destination: self.ip.destination(),
            source_port: self.tcp.source,
            destination_port: self.tcp.destination,
        }
    }

    /// The TCP header's and the payload's length in bytes.
    #[inline(always)]
    #[must_use]
    pub fn tcp_length(&self) -> u16 {
        u16::from_be(self.ip.total_length).wrapping_sub(IP_LENGTH)
    }

    /// Whether the sender left the TCP checksum to its NIC: then the field
    /// holds the pseudo header's sum and no more.
    ///
    /// One complete checksum in 65536 looks the same by chance.
    #[inline(always)]
    #[must_use]
    pub fn checksum_partial(&self) -> bool {
        let pseudo = nat::pseudo_sum(self.ip.source(), self.ip.destination(), self.tcp_length());
        self.tcp.checksum == pseudo.fold()
    }

    /// The payload's length in bytes.
    #[inline(always)]
    #[must_use]
    pub fn payload_length(&self) -> u16 {
        self.tcp_length().wrapping_sub(self.tcp.length())
    }
}
