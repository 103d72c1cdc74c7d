//! Segments of our own: the RST that answers a segment (RFC 9293, 3.5.2),
//! made in its place, and the ACK that provokes one.

use crate::addr::Address;
use crate::flow::FlowKey;
use crate::nat;
use crate::wire::checksum::Sum;
use crate::wire::frame::Headers;
use crate::wire::network::{NetworkHeader, TCP};
use crate::wire::tcp::{Flags, TcpHeader};

/// The length of a TCP header without options in bytes.
const TCP_LENGTH: u16 = size_of::<TcpHeader>() as u16;

/// What a TCP checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumForm {
    /// The checksum.
    Complete,
    /// The pseudo header's sum: the rest is left to a NIC.
    Partial,
}

/// Turns the headers of a segment into those of the RST that answers it. The
/// caller turns the Ethernet addresses round, and cuts the frame off behind
/// the headers.
///
/// The RST is exact: its sequence number is the one that the sender expects
/// next, so that RFC 5961 stacks accept it at once.
#[inline(always)]
pub fn reset<A: Address>(headers: &mut Headers<A::Header>, form: ChecksumForm) {
    let tcp = &headers.tcp;
    let (sequence, acknowledgment, flags) = if tcp.flags.contain(Flags::ACK) {
        (tcp.acknowledgment(), 0, Flags::RST)
    } else {
        let length = u32::from(headers.payload_length()) + tcp.flags.sequence_length();
        let acknowledgment = tcp.sequence().wrapping_add(length);
        (0, acknowledgment, Flags(Flags::RST.0 | Flags::ACK.0))
    };
    let key = headers.key().reversed();
    *headers = segment::<A>(&key, sequence, acknowledgment, flags);
    if form == ChecksumForm::Partial {
        headers.tcp.checksum = pseudo_sum(&key).fold();
    }
}

/// An ACK that the receiver cannot place, far out of its window as a rule:
/// it must answer with a duplicate ACK (RFC 9293, 3.10.7.4), which tells us
/// the sequence number that a RST needs. No segment of ours has to be
/// remembered for that.
#[must_use]
pub fn provoking_ack<A: Address>(key: &FlowKey<A>, sequence: u32) -> Headers<A::Header> {
    segment::<A>(key, sequence, 0, Flags::ACK)
}

/// A segment without payload, its checksums complete.
#[inline(always)]
fn segment<A: Address>(
    key: &FlowKey<A>,
    sequence: u32,
    acknowledgment: u32,
    flags: Flags,
) -> Headers<A::Header> {
    let mut tcp = TcpHeader {
        source: key.source_port,
        destination: key.destination_port,
        data_offset: TcpHeader::PLAIN,
        flags,
        ..TcpHeader::default()
    };
    tcp.set_numbers(sequence, acknowledgment);
    tcp.checksum = pseudo_sum(key).add(transport_sum(&tcp)).checksum();
    Headers {
        network: A::Header::fresh(key.source, key.destination, TCP, TCP_LENGTH),
        tcp,
    }
}

#[inline(always)]
fn pseudo_sum<A: Address>(key: &FlowKey<A>) -> Sum {
    nat::pseudo_sum(key.source, key.destination, TCP_LENGTH)
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
