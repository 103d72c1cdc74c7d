//! A packet's whole way, from bytes to bytes: parse, steer, carry out. The
//! hooks differ in how they reach packets and maps, and in nothing else.
//!
//! In steps that a hook calls one after the other, so that one with a small
//! stack can give each its own: [`quickly`], [`decide`], [`carry_out`]; where
//! it was decided that this is not TCP, [`translate`](crate::icmp::translate)
//! in the place of the last.

use crate::addr::Address;
use crate::emit;
use crate::flow::Tick;
use crate::layout::Plain;
use crate::nat::{self, PartialChecksum, Remainder, Rewrite};
use crate::steer::{Case, carried, carry_on, steer, steer_reply};
use crate::tables::{FlowEntry as _, Tables};
use crate::target::{Hop, Mode};
use crate::tunnel;
use crate::verdict::{Fate, Reason, Verdict};
use crate::wire::checksum::Sum;
use crate::wire::eth::EthernetHeader;
use crate::wire::frame::Headers;
use crate::wire::network::NetworkHeader;

/// A packet in its buffer.
pub trait Packet {
    /// The Ethernet type of what the frame carries, VLAN tags skipped; none
    /// where the frame is too short. Called once, before all else.
    fn ether_type(&mut self) -> Option<u16>;
    /// How many bytes there are from the network header on.
    fn available(&self) -> usize;
    /// The NIC that the packet came by.
    fn ifindex(&self) -> u32;
    /// The Ethernet header, and the headers from the network header on; none
    /// where the frame is shorter.
    fn window<T: Plain>(&mut self) -> Option<(&mut EthernetHeader, &mut T)>;
    /// The Ethernet header, and network and TCP header; none where the frame
    /// is shorter.
    #[inline(always)]
    fn headers<A: Address>(&mut self) -> Option<(&mut EthernetHeader, &mut Headers<A::Header>)> {
        self.window()
    }
    /// Notes that the sum over the packet, as a whole, changed by `delta`.
    #[inline(always)]
    fn sum_changed(&mut self, _delta: u16) {}
    /// The sum over `length` bytes from the TCP header on; none where the
    /// frame is shorter or they are too many.
    fn transport_sum<A: Address>(&self, length: u16) -> Option<Sum>;
    /// The longest packet on the wire that becomes of one of `length` bytes.
    #[inline(always)]
    fn longest<A: Address>(&mut self, length: u32) -> u32 {
        length
    }
    /// Rewrites the packet for its way on: addresses, ports, hops, checksums.
    #[inline(always)]
    fn rewrite<A: Address>(
        &mut self,
        rewrite: &Rewrite<A>,
        partial: PartialChecksum,
    ) -> Option<()> {
        let (eth, headers) = self.headers::<A>()?;
        let deltas = (rewrite.address_delta, rewrite.port_delta);
        let remainder = Self::update_checksum(headers, deltas, partial);
        readdress(eth, headers, rewrite);
        self.complete(rewrite, remainder)
    }
    /// What these headers are enough for of the transport checksum of a segment
    /// that is rewritten next, see [`nat::update_checksum`].
    #[inline(always)]
    fn update_checksum<N: NetworkHeader>(
        headers: &mut Headers<N>,
        deltas: (u16, u16),
        partial: PartialChecksum,
    ) -> Remainder {
        nat::update_checksum(headers, deltas, partial)
    }
    /// The rest of it.
    #[inline(always)]
    fn complete<A: Address>(&mut self, _: &Rewrite<A>, remainder: Remainder) -> Option<()> {
        match remainder {
            Remainder::None => Some(()),
            Remainder::Sum => {
                let length = self.headers::<A>()?.1.tcp_length();
                let checksum = self.transport_sum::<A>(length)?.checksum();
                self.headers::<A>()?.1.tcp.checksum = checksum;
                Some(())
            }
        }
    }
    /// Turns the segment into the RST that answers it.
    #[inline(always)]
    fn reset<A: Address>(&mut self, partial: PartialChecksum) -> Option<()> {
        let headers = self.headers::<A>()?.1;
        emit::reset::<A>(headers, headers.checksum_form(partial));
        self.truncate::<A>()
    }
    /// The sum over the headers as they will be once the packet has left.
    #[inline(always)]
    fn quoted_sum<A: Address>(&mut self, partial: PartialChecksum) -> Option<Sum> {
        let headers = self.headers::<A>()?.1;
        Some(headers.quoted_sum(headers.checksum_form(partial)))
    }
    /// Cuts the frame off behind its headers.
    fn truncate<A: Address>(&mut self) -> Option<()>;
    /// Puts `header` between the Ethernet header, tags included, and the
    /// network header. It begins with a network header of the same family.
    fn prepend<T: Plain>(&mut self, header: &T) -> Option<()>;
    /// Puts the packet into another one, with the header `outer`.
    #[inline(always)]
    fn wrap<N: NetworkHeader>(&mut self, outer: &N) -> Option<()> {
        self.prepend(outer)
    }
}

/// What became of a packet, and by which NIC it leaves; 0 where it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Departure {
    /// The verdict.
    pub verdict: Verdict,
    /// The index of the NIC.
    pub ifindex: u32,
}

impl Departure {
    /// A packet that does not leave.
    #[inline(always)]
    pub const fn stays(verdict: Verdict) -> Self {
        Self {
            verdict,
            ifindex: 0,
        }
    }
}

/// The quick way, for the packets that there are most of: of established
/// connections, and of nobody's. None: it takes [`decide`] and [`carry_out`].
///
/// `clock` is asked only where time matters.
#[inline(always)]
pub fn quickly<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    partial: PartialChecksum,
    clock: impl Fn() -> Tick,
) -> Option<Departure> {
    let stays = |reason| Some(Departure::stays(Verdict::of_nobody(reason)));
    let available = packet.available();
    let Some((eth, headers)) = packet.headers::<A>() else {
        return stays(Reason::Truncated);
    };
    let destination = || headers.network.destination();
    match headers.check(available) {
        Ok(()) if tables.may_come_to_us(headers) => {}
        Ok(()) => return stays(Reason::NotOurs),
        Err(Reason::NotTcp)
            if headers.network.protocol() == A::Header::ICMP
                && tables.may_be_ours(destination()) =>
        {
            return None;
        }
        Err(reason) => return stays(reason),
    }
    let (entry, target) = carry_on(tables, headers, clock)?;
    let flow = entry.get();
    let verdict = Verdict::of_flow(carried(flow.direction()), &flow, &target);
    let deltas = (flow.address_delta, flow.port_delta);
    let remainder = P::update_checksum(headers, deltas, partial);
    // Read again, where it is needed: there are not registers enough to keep it.
    let rewrite = Rewrite::along(|| headers.key(), &entry.get(), &target);
    readdress(eth, headers, &rewrite);
    Some(match packet.complete(&rewrite, remainder) {
        Some(()) => Departure {
            verdict,
            ifindex: rewrite.hop.ifindex,
        },
        None => Departure::stays(Verdict::of_nobody(Reason::Unfinished)),
    })
}

/// Addresses a packet to where it goes on.
#[inline(always)]
fn readdress<A: Address>(
    eth: &mut EthernetHeader,
    headers: &mut Headers<A::Header>,
    rewrite: &Rewrite<A>,
) {
    if rewrite.local == 0 {
        eth.leave_by(rewrite.hop);
    }
    nat::readdress(headers, rewrite);
}

/// Reads the packet into its case, and decides it by the full policy.
#[inline(always)]
pub fn decide<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    case: &mut Case<A>,
    now: Tick,
) {
    let (available, ifindex) = (packet.available(), packet.ifindex());
    let Some((eth, headers)) = packet.headers::<A>() else {
        case.verdict = Verdict::of_nobody(Reason::Truncated);
        return;
    };
    if let Err(reason) = headers.check(available) {
        case.verdict = Verdict::of_nobody(reason);
        return;
    }
    case.segment = headers.segment();
    case.back = Hop {
        destination: eth.source,
        source: eth.destination,
        ifindex,
    };
    case.segment.length = packet.longest::<A>(case.segment.length);
    steer(tables, case, now);
}

/// As [`decide`], for a packet that leaves this host: whether it is a reply of
/// a server here, and something was decided. Everything else stays as it is.
#[inline(always)]
pub fn recognise<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    case: &mut Case<A>,
    now: Tick,
) -> bool {
    let available = packet.available();
    let Some((_, headers)) = packet.headers::<A>() else {
        return false;
    };
    if headers.check(available).is_err() || !tables.may_be_ours(headers.network.source()) {
        return false;
    }
    case.segment = headers.segment();
    steer_reply(tables, case, now)
}

/// Does with the packet what the verdict on its case says. Gives the index of
/// the NIC that it leaves by; 0 where it does not leave.
#[inline(always)]
pub fn carry_out<A: Address, P: Packet>(
    packet: &mut P,
    case: &mut Case<A>,
    partial: PartialChecksum,
) -> u32 {
    let (done, ifindex) = match case.verdict.fate() {
        Fate::Pass | Fate::Drop => return 0,
        Fate::Transmit if case.verdict.mode == Mode::Ipip => {
            (tunnelled(packet, case, partial), case.rewrite.hop.ifindex)
        }
        Fate::Transmit | Fate::Deliver => (
            packet.rewrite(&case.rewrite, partial),
            case.rewrite.hop.ifindex,
        ),
        Fate::Notify => (
            tunnel::notify::<A, P>(packet, case, partial),
            case.back.ifindex,
        ),
        Fate::Reset => (reset::<A, P>(packet, case.back, partial), case.back.ifindex),
    };
    if done.is_none() {
        case.verdict.reason = Reason::Unfinished;
        return 0;
    }
    ifindex
}

#[inline(always)]
fn tunnelled<A: Address, P: Packet>(
    packet: &mut P,
    case: &Case<A>,
    partial: PartialChecksum,
) -> Option<()> {
    packet.rewrite(&case.rewrite, partial)?;
    tunnel::encapsulate(packet, &case.tunnel)
}

#[inline(always)]
fn reset<A: Address, P: Packet>(packet: &mut P, back: Hop, partial: PartialChecksum) -> Option<()> {
    packet.headers::<A>()?.0.leave_by(back);
    packet.reset::<A>(partial)
}
