//! Network address translation: the arithmetic and the stores.

use crate::addr::{Address, Ipv4, Port};
use crate::flow::FlowKey;
use crate::target::Hop;
use crate::wire::checksum::{self, Sum};
use crate::wire::frame::Headers;
use crate::wire::ipv4::Ipv4Header;

/// What the time to live's decrement adds to the header checksum: ~m + m' of
/// its word does not depend on the value before.
const TTL_DELTA: u16 = !u16::from_ne_bytes([1, 0]);

/// The checksum deltas (RFC 1624: ~m + m') of the network and the transport
/// header when a segment that arrives with `from` leaves with `to`.
#[inline(always)]
#[must_use]
pub fn deltas<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> (u16, u16) {
    let addresses = Sum::default()
        .add(to.source.sum())
        .add(to.destination.sum())
        .subtract(from.source.sum())
        .subtract(from.destination.sum());
    let transport = addresses
        .add(ports(to.source_port, to.destination_port))
        .subtract(ports(from.source_port, from.destination_port));
    (addresses.add_u16(TTL_DELTA).fold(), transport.fold())
}

#[inline(always)]
fn ports(source: Port, destination: Port) -> Sum {
    Sum::default().add_u16(source.0).add_u16(destination.0)
}

/// Everything that a segment needs for its way on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewrite<A> {
    /// The addresses and ports that it leaves with.
    pub to: FlowKey<A>,
    /// What is added to the network header's checksum.
    pub network_delta: u16,
    /// What is added to the transport header's checksum.
    pub transport_delta: u16,
    /// The next hop.
    pub hop: Hop,
}

/// How the hook treats a checksum that the sender left to its NIC, of which
/// only the pseudo header's sum is there (Linux: CHECKSUM_PARTIAL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartialChecksum {
    /// Nobody will finish it once the frame has left: we must (native XDP).
    Finish,
    /// The kernel finishes it later: the pseudo sum is kept right (generic
    /// XDP, where the packet remains a socket buffer).
    Keep,
}

/// What remains to be done for a rewritten segment's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Remainder {
    /// Nothing.
    None,
    /// The checksum field holds the pseudo header's sum: the complement of
    /// the sum over TCP header and payload belongs there.
    Sum,
}

/// Rewrites `headers` for their way on: addresses, ports, time to live, both
/// checksums, next hop.
///
/// The caller has made sure that the time to live is above 1.
#[inline(always)]
pub fn apply(
    headers: &mut Headers,
    rewrite: &Rewrite<Ipv4>,
    partial: PartialChecksum,
) -> Remainder {
    let remainder = transport_checksum(headers, rewrite, partial);
    let Headers { eth, ip, tcp } = headers;
    eth.destination = rewrite.hop.destination;
    eth.source = rewrite.hop.source;
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.checksum = checksum::update(ip.checksum, rewrite.network_delta);
    ip.set_addresses(rewrite.to.source, rewrite.to.destination);
    tcp.source = rewrite.to.source_port;
    tcp.destination = rewrite.to.destination_port;
    remainder
}

#[inline(always)]
fn transport_checksum(
    headers: &mut Headers,
    rewrite: &Rewrite<Ipv4>,
    partial: PartialChecksum,
) -> Remainder {
    if !headers.checksum_partial() {
        headers.tcp.checksum = checksum::update(headers.tcp.checksum, rewrite.transport_delta);
        return Remainder::None;
    }
    let length = headers.tcp_length();
    headers.tcp.checksum = pseudo_sum(rewrite.to.source, rewrite.to.destination, length).fold();
    match partial {
        PartialChecksum::Keep => Remainder::None,
        PartialChecksum::Finish => Remainder::Sum,
    }
}

/// The sum of TCP's pseudo header (RFC 9293, 3.1) for a segment of `length`
/// bytes, header and payload.
#[inline(always)]
#[must_use]
pub fn pseudo_sum<A: Address>(source: A, destination: A, length: u16) -> Sum {
    source
        .sum()
        .add(destination.sum())
        .add_u16(u16::from(Ipv4Header::TCP).to_be())
        .add_u16(length.to_be())
}
