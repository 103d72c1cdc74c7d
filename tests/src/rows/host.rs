//! The data path on the host: `lb_common` with tables and packets in
//! ordinary memory.

use lb_common::addr::Address;
use lb_common::datapath::Departure;
use lb_common::fake::{FakePacket, FakeTables, process, process_leaving};
use lb_common::flow::Tick;
use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason, Verdict};

use super::connections::Connections;
use super::family::Family;
use super::world::NIC;
use super::{Hook, Outcome, Passage, Way};

/// What becomes of `packet` with `tables`, which keep what it leaves.
#[must_use]
pub fn run<A: Family>(
    tables: &FakeTables<A>,
    hook: Hook,
    packet: &[u8],
    partial: PartialChecksum,
) -> Outcome<A> {
    Outcome {
        passage: pass_by(tables, hook, packet, partial),
        connections: connections(tables),
    }
}

/// What becomes of `packet` alone, which meets `hook`.
#[must_use]
pub fn pass_by<A: Family>(
    tables: &FakeTables<A>,
    hook: Hook,
    packet: &[u8],
    partial: PartialChecksum,
) -> Passage {
    match hook {
        Hook::Ingress => pass(tables, packet, partial),
        Hook::Egress => leave(tables, packet),
    }
}

/// What becomes of `packet` alone, which arrives.
#[must_use]
pub fn pass<A: Family>(tables: &FakeTables<A>, packet: &[u8], partial: PartialChecksum) -> Passage {
    let (departure, frame) = process_in(tables, packet, partial);
    let (departure, frame) = match departure.verdict.reason {
        // Tables of one family, and a packet of the other one.
        Reason::NotIp => process_in(&FakeTables::<A::Other>::default(), packet, partial),
        _ => (departure, frame),
    };
    passage(departure, &frame)
}

/// What becomes of `packet` alone, which leaves this host: its checksum is
/// complete, or the kernel's to finish.
#[must_use]
pub fn leave<A: Family>(tables: &FakeTables<A>, packet: &[u8]) -> Passage {
    let mut frame = FakePacket::arriving(packet, NIC);
    let verdict = process_leaving(&mut frame, tables, PartialChecksum::Keep, Tick(1));
    let verdict = verdict.unwrap_or(Verdict::of_nobody(Reason::NotOurs));
    passage(Departure::stays(verdict), &frame)
}

fn passage(departure: Departure, frame: &FakePacket) -> Passage {
    let fate = departure.verdict.fate();
    Passage {
        reason: departure.verdict.reason,
        fate,
        way: match fate {
            Fate::Transmit | Fate::Reset | Fate::Notify if departure.ifindex == NIC => Way::Back,
            Fate::Transmit | Fate::Reset | Fate::Notify => Way::Across,
            Fate::Pass | Fate::Deliver | Fate::Drop => Way::None,
        },
        frame: (fate != Fate::Drop).then(|| frame.bytes()),
    }
}

fn process_in<A: Address>(
    tables: &FakeTables<A>,
    packet: &[u8],
    partial: PartialChecksum,
) -> (Departure, FakePacket) {
    let mut frame = FakePacket::arriving(packet, NIC);
    let departure = process(&mut frame, tables, partial, Tick(1));
    (departure, frame)
}

/// What `tables` hold of connections.
#[must_use]
pub fn connections<A: Address>(tables: &FakeTables<A>) -> Connections<A> {
    let flows = tables.flows.borrow();
    let sources = tables.sources.borrow();
    let load = tables.load.borrow();
    Connections {
        flows: flows.iter().map(|(key, flow)| (*key, flow.get())).collect(),
        pending: tables.pending.borrow().clone(),
        sources: sources
            .iter()
            .map(|(key, state)| (*key, state.get()))
            .collect(),
        affinities: tables.affinities.borrow().clone(),
        open: load.iter().map(|(id, load)| (*id, load.open)).collect(),
        open_of_services: tables.service_load.borrow().clone(),
    }
    .timeless()
}
