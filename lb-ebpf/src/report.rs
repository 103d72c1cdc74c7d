//! What is told of verdicts: counters, and events for the agent.

use lb_common::addr::{Address, Ipv6};
use lb_common::counters::{Traffic, service_verdict, target_traffic};
use lb_common::datapath::Packet;
use lb_common::event::Event;
use lb_common::flow::FlowKey;
use lb_common::steer::Case;
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::eth::EthernetHeader;

use crate::kernel;
use crate::maps::{BUDGETS, EVENTS, SERVICE_VERDICTS, TARGET_COUNTERS, TARGET_TRAFFIC, VERDICTS};

/// Counts a verdict on a frame of `length` bytes; from the IP header on.
#[inline(always)]
pub fn count(verdict: &Verdict, length: usize) {
    let bytes = length.saturating_sub(EthernetHeader::LENGTH) as u64;
    add(VERDICTS.get_ptr_mut(verdict.reason as u32), bytes);
    match verdict.fate() {
        Fate::Transmit | Fate::Deliver => {
            let index = target_traffic(verdict.target, verdict.direction);
            add(TARGET_TRAFFIC.get_ptr_mut(index), bytes);
        }
        Fate::Pass | Fate::Reset | Fate::Notify | Fate::Drop => {}
    }
}

/// Counts and tells what there is to say of a verdict of the full policy.
#[inline(always)]
pub fn account_for<A: Address, P: Packet>(case: &Case<A>, packet: &mut P) {
    let verdict = &case.verdict;
    match verdict.fate() {
        Fate::Pass => return,
        Fate::Transmit | Fate::Deliver | Fate::Reset | Fate::Notify | Fate::Drop => {}
    }
    match verdict.reason {
        // Counted as traffic, and that is all.
        Reason::Forward | Reason::Reply => {}
        _ => count_rare(verdict),
    }
    tell(case, packet);
}

#[inline(always)]
fn add(traffic: Option<*mut Traffic>, bytes: u64) {
    if let Some(traffic) = traffic {
        // SAFETY: the element is this CPU's own, and programs on one CPU do
        // not interrupt each other.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += bytes;
        }
    }
}

/// Counts what is not an established connection's ordinary traffic.
#[inline(always)]
pub fn count_rare(verdict: &Verdict) {
    if matches!(verdict.fate(), Fate::Pass) {
        return;
    }
    let index = service_verdict(verdict.service, verdict.reason);
    if let Some(packets) = SERVICE_VERDICTS.get_ptr_mut(index) {
        // SAFETY: as in `add`.
        unsafe { *packets += 1 };
    }
    let Some(counters) = TARGET_COUNTERS.get_ptr_mut(verdict.target.0) else {
        return;
    };
    // SAFETY: as in `add`.
    let counters = unsafe { &mut *counters };
    match verdict.reason {
        Reason::Opened => counters.opened += 1,
        Reason::Established => counters.established += 1,
        Reason::BackendRefused => counters.refused += 1,
        Reason::CutOff => counters.cut_off += 1,
        _ => {}
    }
}

/// Tells the agent of a verdict, where it wants to know.
#[inline(always)]
fn tell<A: Address, P: Packet>(case: &Case<A>, packet: &mut P) {
    let verdict = &case.verdict;
    let Some(urgency) = verdict.reason.urgency() else {
        return;
    };
    let Some(budget) = BUDGETS.get_ptr_mut(urgency as u32) else {
        return;
    };
    // SAFETY: as in `add`.
    let budget = unsafe { &mut *budget };
    let Some(rest) = budget.spend(kernel::now()) else {
        return;
    };
    *budget = rest;
    let Some(key) = mapped_key(case, packet) else {
        return;
    };
    let event = Event {
        key,
        target: verdict.target,
        service: verdict.service,
        reason: verdict.reason as u8,
        direction: verdict.direction as u8,
    };
    // A full buffer: the agent is busy, and the counters know it all.
    let _ = EVENTS.output::<Event>(event, 0);
}

/// The addresses and ports that the segment leaves with, as IPv6.
#[inline(always)]
fn mapped_key<A: Address, P: Packet>(case: &Case<A>, packet: &mut P) -> Option<FlowKey<Ipv6>> {
    // Not those of the packet: by now it may travel inside of another one.
    let key = match case.verdict.fate() {
        Fate::Transmit | Fate::Deliver => case.rewrite.to,
        Fate::Pass | Fate::Reset | Fate::Notify | Fate::Drop => packet.headers::<A>()?.1.key(),
    };
    Some(FlowKey {
        source: key.source.mapped(),
        destination: key.destination.mapped(),
        source_port: key.source_port,
        destination_port: key.destination_port,
    })
}
