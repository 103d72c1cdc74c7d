//! Segments of our own: the RST that answers a segment (RFC 9293, 3.5.2),
//! made in its place, and the ACK that provokes one.

use crate::addr::Ipv4;
use crate::flow::FlowKey;
use crate::nat::{self, PartialChecksum};
use crate::target::Hop;
use crate::wire::checksum::Sum;
use crate::wire::eth::EthernetHeader;
use crate::wire::frame::Headers;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::tcp::{Flags, TcpHeader};

/// The hops that our own packets may take (RFC 1700's recommendation).
const FRESH_TTL: u8 = 64;
/// The length of our packets in bytes: two headers without options.
const TOTAL_LENGTH: u16 = (size_of::<Ipv4Header>() + size_of::<TcpHeader>()) as u16;

/// Turns the headers of a segment into those of the RST that answers it. The
/// caller cuts the frame to [`Headers::LENGTH`] bytes.
///
/// The RST is exact: its sequence number is the one that the sender expects
/// next, so that RFC 5961 stacks accept it at once.
#[inline(always)]
pub fn reset(headers: &mut Headers, partial: PartialChecksum) {
    let keep_partial = match partial {
        PartialChecksum::Keep => headers.checksum_partial(),
        PartialChecksum::Finish => false,
    };
    let tcp = &headers.tcp;
    let (sequence, acknowledgment, flags) = if tcp.flags.contain(Flags::ACK) {
        (tcp.acknowledgment(), 0, Flags::RST)
    } else {
        let length = u32::from(headers.payload_length()) + tcp.flags.sequence_length();
        let acknowledgment = tcp.sequence().wrapping_add(length);
        (0, acknowledgment, Flags(Flags::RST.0 | Flags::ACK.0))
    };
    let hop = Hop {
        destination: headers.eth.source,
        source: headers.eth.destination,
    };
    let key = headers.key().reversed();
    *headers = segment(&key, hop, sequence, acknowledgment, flags);
    if keep_partial {
        headers.tcp.checksum = pseudo_sum(&key).fold();
    }
}

/// An ACK that the receiver cannot place, far out of its window as a rule:
/// it must answer with a duplicate ACK (RFC 9293, 3.10.7.4), which tells us
/// the sequence number that a RST needs. No segment of ours has to be
/// remembered for that.
#[must_use]
pub fn provoking_ack(key: &FlowKey<Ipv4>, hop: Hop, sequence: u32) -> Headers {
    segment(key, hop, sequence, 0, Flags::ACK)
}

/// A segment without payload, its checksums complete.
#[inline(always)]
fn segment(
    key: &FlowKey<Ipv4>,
    hop: Hop,
    sequence: u32,
    acknowledgment: u32,
    flags: Flags,
) -> Headers {
    let mut headers = Headers {
        eth: EthernetHeader {
            destination: hop.destination,
            source: hop.source,
            ether_type: EthernetHeader::IPV4,
        },
        ip: Ipv4Header {
            version_length: Ipv4Header::PLAIN,
            total_length: TOTAL_LENGTH.to_be(),
            fragment: Ipv4Header::DONT_FRAGMENT,
            ttl: FRESH_TTL,
            protocol: Ipv4Header::TCP,
            ..Ipv4Header::default()
        },
        tcp: TcpHeader {
            source: key.source_port,
            destination: key.destination_port,
            data_offset: TcpHeader::PLAIN,
            flags,
            ..TcpHeader::default()
        },
    };
    headers.ip.set_addresses(key.source, key.destination);
    headers.tcp.set_numbers(sequence, acknowledgment);
    headers.ip.checksum = network_sum(&headers.ip).checksum();
    headers.tcp.checksum = pseudo_sum(key).add(transport_sum(&headers.tcp)).checksum();
    headers
}

#[inline(always)]
fn pseudo_sum(key: &FlowKey<Ipv4>) -> Sum {
    nat::pseudo_sum(key.source, key.destination, size_of::<TcpHeader>() as u16)
}

/// The sum over an IPv4 header, its checksum field left out.
#[inline(always)]
fn network_sum(ip: &Ipv4Header) -> Sum {
    Sum::default()
        .add_u16(u16::from_ne_bytes([ip.version_length, ip.traffic_class]))
        .add_u16(ip.total_length)
        .add_u16(ip.identification)
        .add_u16(ip.fragment)
        .add_u16(u16::from_ne_bytes([ip.ttl, ip.protocol]))
        .add_u32(ip.source().0)
        .add_u32(ip.destination().0)
}

/// The sum over a TCP header without options, its checksum field left out.
#[inline(always)]
fn transport_sum(tcp: &TcpHeader) -> Sum {
    Sum::default()
        .add_u16(tcp.source.0)
        .add_u16(tcp.destination.0)
        .add_u32(tcp.sequence().to_be())
        .add_u32(tcp.acknowledgment().to_be())
        .add_u16(u16::from_ne_bytes([tcp.data_offset, tcp.flags.0]))
        .add_u16(tcp.window)
        .add_u16(tcp.urgent)
}
