//! ICMP errors about our connections: path MTU discovery works through the
//! balancer because each end is told in the addresses that it knows.
//!
//! An error quotes a segment as it left us. The segment's reverse is what the
//! connection's other flow expects, and that flow's recipe is the error's too:
//! it goes to the other end, and speaks of that end's own segment. As Linux'
//! connection tracking does it, the error then comes from the address that
//! this end talks to, whichever router sent it.

use crate::addr::Address;
use crate::datapath::Packet;
use crate::flow::Flow;
use crate::nat::{self, Rewrite};
use crate::steer::{Case, forward};
use crate::tables::{FlowEntry, Tables};
use crate::target::Mode;
use crate::tunnel;
use crate::verdict::{Reason, Verdict};
use crate::wire::checksum::{self, Sum};
use crate::wire::icmp::IcmpError;
use crate::wire::network::NetworkHeader as _;
use crate::wire::tcp::Flags;

/// A step for a packet that is IP, but not TCP: sets the verdict of its case,
/// and carries it out. Gives the index of the NIC that the packet leaves by;
/// 0 where it does not leave.
#[inline(never)]
pub fn translate<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    case: &mut Case<A>,
) -> u32 {
    case.verdict = Verdict::of_nobody(Reason::NotTcp);
    let Some(verdict) = about_ours(packet, tables, case) else {
        return 0;
    };
    case.verdict = verdict;
    if verdict.reason != Reason::IcmpTranslated {
        return 0;
    }
    if carry_out(packet, case).is_none() {
        case.verdict.reason = Reason::Unfinished;
        return 0;
    }
    case.rewrite.hop.ifindex
}

/// The verdict on an error about one of our connections; none on anything else.
#[inline(always)]
fn about_ours<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    case: &mut Case<A>,
) -> Option<Verdict> {
    let available = packet.available();
    let (_, error) = packet.window::<IcmpError<A::Header>>()?;
    error.check(available).ok()?;
    case.segment.key = error.key().reversed();
    case.segment.length = error.network.packet_length();
    case.segment.hops = error.network.hops();
    case.segment.flags = Flags::default();
    let verdict = match tables.flow(&case.segment.key) {
        Some(entry) => on(tables, case, &entry.get()),
        None => on(tables, case, &tables.pending(&case.segment.key)?.flow),
    };
    // Whoever talks to a target that was cut off hears of it by a RST.
    matches!(verdict.reason, Reason::IcmpTranslated | Reason::TtlExpired).then_some(verdict)
}

#[inline(always)]
fn on<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, flow: &Flow<A>) -> Verdict {
    match tables.target(flow.target()) {
        Some(target) if tables.generation(flow.target()) == flow.generation => {
            forward(case, flow, &target, Reason::IcmpTranslated)
        }
        _ => Verdict::of_nobody(Reason::NotTcp),
    }
}

#[inline(always)]
fn carry_out<A: Address, P: Packet>(packet: &mut P, case: &Case<A>) -> Option<()> {
    let rewrite = &case.rewrite;
    let (eth, error) = packet.window::<IcmpError<A::Header>>()?;
    apply::<A>(error, rewrite, case.verdict.mode);
    if rewrite.local == 0 {
        eth.leave_by(rewrite.hop);
        packet.sum_changed(A::Header::HOP_DELTA);
    }
    if case.verdict.mode == Mode::Ipip {
        return tunnel::encapsulate(packet, &case.tunnel);
    }
    Some(())
}

/// Rewrites an error for its way along a flow that is rewritten like this.
#[inline(always)]
fn apply<A: Address>(error: &mut IcmpError<A::Header>, rewrite: &Rewrite<A>, mode: Mode) {
    let IcmpError {
        network,
        icmp,
        quoted,
        tcp,
    } = error;
    let to = &rewrite.to;
    let from = (network.source(), network.destination());
    // A server that has the VIP itself sees its client's packets as they came.
    let source = if mode.replies() { to.source } else { from.0 };
    let delta = nat::address_delta(from, (source, to.destination));
    if rewrite.local == 0 {
        network.forward(source, to.destination, delta);
    } else {
        network.readdress(source, to.destination, delta);
    }
    // What is quoted went the other way, between the same two.
    quoted.readdress(to.destination, to.source, rewrite.address_delta);
    tcp.source = to.destination_port;
    tcp.destination = to.source_port;
    let mut sum = Sum::default().add_u16(rewrite.port_delta);
    if A::Header::ICMP_COVERS_ADDRESSES {
        sum = sum.add_u16(delta).add_u16(rewrite.address_delta);
    }
    icmp.checksum = checksum::update(icmp.checksum, sum.fold());
}
