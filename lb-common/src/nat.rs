//! Network address translation: the arithmetic and the stores.

use crate::addr::{Address, Port};
use crate::flow::{Direction, Flow, FlowKey};
use crate::target::{Hop, Mode, Target};
use crate::wire::checksum::{self, Sum};
use crate::wire::frame::Headers;
use crate::wire::network::{NetworkHeader, TCP};

/// The checksum deltas (RFC 1624: ~m + m') of the addresses and of the ports
/// when a segment that arrives with `from` leaves with `to`.
#[inline(always)]
#[must_use]
pub fn deltas<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> (u16, u16) {
    let addresses = address_delta((from.source, from.destination), (to.source, to.destination));
    let ports = ports(to.source_port, to.destination_port)
        .subtract(ports(from.source_port, from.destination_port));
    (addresses, ports.fold())
}

/// What replacing both addresses adds to a checksum over them.
#[inline(always)]
#[must_use]
pub fn address_delta<A: Address>(from: (A, A), to: (A, A)) -> u16 {
    let sum = to.0.sum().add(to.1.sum());
    sum.subtract(from.0.sum()).subtract(from.1.sum()).fold()
}

#[inline(always)]
fn ports(source: Port, destination: Port) -> Sum {
    Sum::default().add_u16(source.0).add_u16(destination.0)
}

/// Everything that a segment needs for its way on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewrite<A> {
    /// The addresses and ports that it leaves with.
    pub to: FlowKey<A>,
    /// What the new addresses add to a checksum over them.
    pub address_delta: u16,
    /// What the new ports add to a checksum over them.
    pub port_delta: u16,
    /// The next hop.
    pub hop: Hop,
    /// Not 0: the packet goes on to this host's own stack, or leaves it just
    /// now: its Ethernet addresses stay, and that is no hop.
    pub local: u32,
}

impl<A: Address> Rewrite<A> {
    /// The way along `flow`, under `key`, which is a connection to `target`.
    #[inline(always)]
    #[must_use]
    pub fn along(key: impl FnOnce() -> FlowKey<A>, flow: &Flow<A>, target: &Target<A>) -> Self {
        Self {
            to: flow.rewrite_lazily(key, target),
            address_delta: flow.address_delta,
            port_delta: flow.port_delta,
            hop: match flow.direction() {
                Direction::Forward => target.hop,
                Direction::Reply => flow.hop,
            },
            local: matches!(target.mode(), Mode::Local) as u32,
        }
    }
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

/// Rewrites addresses, ports and hops of `headers` for their way on; the
/// transport checksum is left as it is.
///
/// Where a hop is taken, the caller has made sure that more than one hop is left.
#[inline(always)]
pub fn readdress<A: Address>(headers: &mut Headers<A::Header>, rewrite: &Rewrite<A>) {
    let Headers { network, tcp } = headers;
    let to = &rewrite.to;
    if rewrite.local == 0 {
        network.forward(to.source, to.destination, rewrite.address_delta);
    } else {
        network.readdress(to.source, to.destination, rewrite.address_delta);
    }
    tcp.source = to.source_port;
    tcp.destination = to.destination_port;
}

/// Updates the transport checksum of a segment whose addresses and ports are
/// about to change, by these [`deltas`].
#[inline(always)]
pub fn update_checksum<N: NetworkHeader>(
    headers: &mut Headers<N>,
    (addresses, ports): (u16, u16),
    partial: PartialChecksum,
) -> Remainder {
    if !headers.checksum_partial() {
        let delta = checksum::plus(addresses, ports);
        headers.tcp.checksum = checksum::update(headers.tcp.checksum, delta);
        return Remainder::None;
    }
    // The sum over the pseudo header, which has no ports.
    headers.tcp.checksum = checksum::plus(headers.tcp.checksum, addresses);
    match partial {
        PartialChecksum::Keep => Remainder::None,
        PartialChecksum::Finish => Remainder::Sum,
    }
}

/// The sum of TCP's pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) for a segment
/// of `length` bytes, header and payload.
#[inline(always)]
#[must_use]
pub fn pseudo_sum<A: Address>(source: A, destination: A, length: u16) -> Sum {
    source
        .sum()
        .add(destination.sum())
        .add_u16(u16::from(TCP).to_be())
        .add_u16(length.to_be())
}
