//! What is told of verdicts: counters, and events for the agent.

use lb_common::addr::Ipv4;
use lb_common::counters::{Traffic, service_verdict, target_traffic};
use lb_common::datapath::Packet as _;
use lb_common::event::Event;
use lb_common::verdict::{Fate, Reason, Verdict};

use crate::kernel;
use crate::maps::{BUDGETS, EVENTS, SERVICE_VERDICTS, TARGET_COUNTERS, TARGET_TRAFFIC, VERDICTS};
use crate::packet::XdpPacket;

/// Bytes before the IP header, which are not counted.
const ETH_LENGTH: usize = 14;

/// Counts a verdict on a frame of `length` bytes.
#[inline(always)]
pub fn count(verdict: &Verdict<Ipv4>, length: usize) {
    let bytes = length.saturating_sub(ETH_LENGTH) as u64;
    add(VERDICTS.get_ptr_mut(verdict.reason as u32), bytes);
    match verdict.fate() {
        Fate::Pass => {}
        Fate::Transmit => {
            let index = target_traffic(verdict.target, verdict.direction);
            add(TARGET_TRAFFIC.get_ptr_mut(index), bytes);
            match verdict.reason {
                // Nearly all packets: counted as traffic, and that is all.
                Reason::Forward | Reason::Reply => {}
                _ => count_rare(verdict),
            }
        }
        Fate::Reset | Fate::Drop => count_rare(verdict),
    }
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

#[inline(always)]
fn count_rare(verdict: &Verdict<Ipv4>) {
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
pub fn tell(verdict: &Verdict<Ipv4>, packet: &mut XdpPacket<'_>) {
    let Some(urgency) = verdict.reason.urgency() else {
        return;
    };
    let Some(headers) = packet.headers() else {
        return;
    };
    let key = headers.key();
    let Some(budget) = BUDGETS.get_ptr_mut(urgency as u32) else {
        return;
    };
    // SAFETY: as in `add`.
    let budget = unsafe { &mut *budget };
    let Some(rest) = budget.spend(kernel::now()) else {
        return;
    };
    *budget = rest;
    let event = Event {
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        target: verdict.target,
        service: verdict.service,
        reason: verdict.reason as u8,
        direction: verdict.direction as u8,
    };
    // A full buffer: the agent is busy, and the counters know it all.
    let _ = EVENTS.output::<Event<Ipv4>>(event, 0);
}
