//! A packet's way through `lb_common`, in subprograms: each has a stack of its
//! own, and they follow one another. The same for every hook.
//!
//! Each gives a number back: where a function gives nothing, the verifier may
//! find a pointer to the stack in its result's register.

use lb_common::addr::{Ipv4, Ipv6};
use lb_common::datapath::{self, Departure, Packet};
use lb_common::icmp;
use lb_common::nat::PartialChecksum;
use lb_common::steer::Case;
use lb_common::verdict::{Reason, Verdict};
use lb_common::wire::eth::EthernetHeader;

use crate::packet::Hook;
use crate::tables::{Maintained, Maps};
use crate::{kernel, report};

/// No hook's action: the quick way was not enough.
const UNDECIDED: i32 = i32::MIN;

/// Steers a packet that arrives; gives the hook's action.
#[inline(always)]
pub fn steer<P: Hook>(packet: &mut P, partial: PartialChecksum) -> i32 {
    match packet.ether_type() {
        None => stay(packet, Reason::Truncated),
        Some(EthernetHeader::IPV4) => through::<Ipv4, P>(packet, partial),
        Some(EthernetHeader::IPV6) => through::<Ipv6, P>(packet, partial),
        Some(_) => stay(packet, Reason::NotIp),
    }
}

#[inline(always)]
fn stay<P: Hook>(packet: &P, reason: Reason) -> i32 {
    let departure = Departure::stays(Verdict::of_nobody(reason));
    conclude(packet, packet.length(), &departure)
}

/// Counts what becomes of a packet that came with `length` bytes, and has the
/// hook do it.
#[inline(always)]
fn conclude<P: Hook>(packet: &P, length: usize, departure: &Departure) -> i32 {
    report::count(&departure.verdict, length);
    packet.action(departure)
}

/// What becomes of a packet that leaves this host, and nothing else of it: none
/// where it is no reply of a server here.
#[inline(always)]
pub fn steer_reply<P: Packet>(packet: &mut P) -> Option<Verdict> {
    match packet.ether_type()? {
        EthernetHeader::IPV4 => out::<Ipv4, P>(packet),
        EthernetHeader::IPV6 => out::<Ipv6, P>(packet),
        _ => None,
    }
}

#[inline(always)]
fn out<A: Maintained, P: Packet>(packet: &mut P) -> Option<Verdict> {
    let case = Maps::case::<A>()?;
    if !recognise::<A, P>(packet, case) {
        return None;
    }
    carry_out::<A, P>(packet, case, PartialChecksum::Keep);
    Some(case.verdict)
}

#[inline(never)]
fn recognise<A: Maintained, P: Packet>(packet: &mut P, case: &mut Case<A>) -> bool {
    datapath::recognise(packet, &Maps, case, kernel::now())
}

#[inline(always)]
fn through<A: Maintained, P: Hook>(packet: &mut P, partial: PartialChecksum) -> i32 {
    let action = quickly::<A, P>(packet, partial);
    if action != UNDECIDED {
        return action;
    }
    let length = packet.length();
    let Some(case) = Maps::case::<A>() else {
        return stay(packet, Reason::Unfinished);
    };
    decide::<A, P>(packet, case);
    let ifindex = match case.verdict.reason {
        Reason::NotTcp => translate::<A, P>(packet, case),
        _ => carry_out::<A, P>(packet, case, partial),
    };
    let verdict = case.verdict;
    conclude(packet, length, &Departure { verdict, ifindex })
}

#[inline(never)]
fn quickly<A: Maintained, P: Hook>(packet: &mut P, partial: PartialChecksum) -> i32 {
    match datapath::quickly::<A, _, _>(packet, &Maps, partial, kernel::now) {
        Some(departure) => conclude(packet, packet.length(), &departure),
        None => UNDECIDED,
    }
}

#[inline(never)]
fn decide<A: Maintained, P: Packet>(packet: &mut P, case: &mut Case<A>) -> bool {
    datapath::decide(packet, &Maps, case, kernel::now());
    true
}

#[inline(never)]
fn carry_out<A: Maintained, P: Packet>(
    packet: &mut P,
    case: &mut Case<A>,
    partial: PartialChecksum,
) -> u32 {
    let ifindex = datapath::carry_out(packet, case, partial);
    report::account_for(case, packet);
    ifindex
}

#[inline(always)]
fn translate<A: Maintained, P: Packet>(packet: &mut P, case: &mut Case<A>) -> u32 {
    let ifindex = icmp::translate(packet, &Maps, case);
    report::count_rare(&case.verdict);
    ifindex
}
