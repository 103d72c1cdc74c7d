//! The steering policy: from a segment and the tables to a verdict.
//!
//! Decides, and touches no packet and no clock. The same code runs in the
//! kernel, in unit tests, and under a fuzzer. Invariants that it keeps:
//! a flow never stands in FLOWS without its pair, but for the moment between
//! two insertions; a reverse key serves one connection at a time; an
//! established flow never changes its target.

use crate::addr::{Address, Port};
use crate::flow::{Direction, Flow, FlowKey, Owner, Pending, Progress, Step, Tick};
use crate::nat::Rewrite;
use crate::select;
use crate::service::{Listener, Service};
use crate::tables::{FlowEntry, Inserted, Tables};
use crate::target::{Hop, Target, TargetId};
use crate::verdict::{Reason, Verdict};
use crate::wire::frame::Segment;
use crate::wire::tcp::Flags;

/// How many source ports are tried for a new connection.
const PORT_ATTEMPTS: u32 = 17;

/// How far behind the server's sequence number a client's first
/// acknowledgment may lie: the data that a server may send with its SYN+ACK
/// (TCP Fast Open). A forger's chance is this over 2^32.
const FIRST_ACK_WINDOW: u32 = 1 << 16;

/// What becomes of `segment`, which arrives at `now`.
#[inline(always)]
pub fn steer<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, now: Tick) -> Verdict<A> {
    if let Some(entry) = tables.flow(&segment.key) {
        let flow = entry.get();
        let stale = tables.generation(flow.target) != flow.generation;
        if !reopens(segment, &flow, stale) {
            return follow(tables, segment, &entry, &flow, stale, now);
        }
        remove_pair(tables, &segment.key, &flow);
    } else if let Some(pending) = tables.pending(&segment.key) {
        let flow = &pending.flow;
        let reason = if tables.generation(flow.target) != flow.generation {
            Reason::CutOff
        } else if let Some(pair) = other_half(tables, &segment.key, flow) {
            return shake_hands(tables, segment, &pending, &pair, now);
        } else if tables.flow(&segment.key).is_some() {
            // Another CPU finished the handshake a moment ago.
            return forward(tables, segment, flow, Reason::Handshake);
        } else {
            Reason::HandshakeLost
        };
        forget(tables, &segment.key, flow);
        if !segment.flags.open_connection() {
            return answer(segment, flow, reason);
        }
    }
    admit(tables, segment, now)
}

/// Whether a segment of an established connection opens a new one in its
/// place: the old one is finished, or its target was cut off.
#[inline(always)]
fn reopens<A: Address>(segment: &Segment<A>, flow: &Flow<A>, stale: bool) -> bool {
    segment.flags.open_connection()
        && (stale || (flow.direction() == Direction::Forward && flow.progress.closed()))
}

/// An established connection's segment.
#[inline(always)]
fn follow<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    entry: &T::FlowEntry,
    flow: &Flow<A>,
    stale: bool,
    now: Tick,
) -> Verdict<A> {
    if stale {
        return answer(segment, flow, Reason::CutOff);
    }
    entry.touch(now);
    let reason = if segment.flags.intersect(Flags::RST) {
        reset(tables, flow, entry);
        Reason::ResetRelayed
    } else if segment.flags.intersect(Flags::FIN) {
        end(tables, flow, entry);
        Reason::Closing
    } else {
        match flow.direction() {
            Direction::Forward => Reason::Forward,
            Direction::Reply => Reason::Reply,
        }
    };
    forward(tables, segment, flow, reason)
}

/// Takes a finished connection out of FLOWS. A reverse key that serves another
/// connection by now stays: an agent that was killed between two removals may
/// have left this half alone.
#[inline(always)]
fn remove_pair<A: Address, T: Tables<A>>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>) {
    let pair = flow.pair_key();
    if let Some(other) = tables.flow(&pair)
        && other.get().pair_key() == *key
    {
        tables.remove_flow(&pair);
    }
    tables.remove_flow(key);
}

/// Notes in the forward flow that a RST ended the connection.
#[inline(always)]
fn reset<A: Address, T: Tables<A>>(tables: &T, flow: &Flow<A>, entry: &T::FlowEntry) {
    match flow.direction() {
        Direction::Forward => entry.advance(Step::Reset),
        Direction::Reply => {
            if let Some(forward) = tables.flow(&flow.pair_key()) {
                forward.advance(Step::Reset);
            }
        }
    }
}

/// Notes in the forward flow that the sender of a segment of `flow` is done.
#[inline(always)]
fn end<A: Address, T: Tables<A>>(tables: &T, flow: &Flow<A>, entry: &T::FlowEntry) {
    match flow.direction() {
        Direction::Forward => entry.advance(Step::ClientFin),
        Direction::Reply => {
            if let Some(forward) = tables.flow(&flow.pair_key()) {
                forward.advance(server_fin(forward.get().progress));
            }
        }
    }
}

/// The step that a server's FIN is: whose FIN came first keeps TIME_WAIT.
#[inline(always)]
fn server_fin(progress: Progress) -> Step {
    let first = progress.client_fin == 0 || progress.server_fin == Progress::FIRST;
    if first {
        Step::ServerFinFirst
    } else {
        Step::ServerFin
    }
}

/// The other flow of a handshake. None: it was pushed out of PENDING, and its
/// key may serve another connection already.
#[inline(always)]
fn other_half<A: Address, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Option<Pending<A>> {
    let other = tables.pending(&flow.pair_key())?;
    (other.flow.pair_key() == *key).then_some(other)
}

/// A segment of an unfinished handshake, whose target is not cut off. `pair`
/// is the other direction.
#[inline(always)]
fn shake_hands<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    pending: &Pending<A>,
    pair: &Pending<A>,
    now: Tick,
) -> Verdict<A> {
    let flow = &pending.flow;
    let reason = match flow.direction() {
        Direction::Forward => shake_client(tables, segment, flow, pair, now),
        Direction::Reply => shake_server(tables, segment, pending),
    };
    if reason == Reason::TableFull {
        return Verdict::of_flow(reason, flow);
    }
    forward(tables, segment, flow, reason)
}

#[inline(always)]
fn shake_client<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    flow: &Flow<A>,
    reply: &Pending<A>,
    now: Tick,
) -> Reason {
    if segment.flags.open_connection() {
        Reason::SynRetransmitted
    } else if segment.flags.intersect(Flags::RST) {
        forget(tables, &segment.key, flow);
        Reason::ResetRelayed
    } else if segment.flags.intersect(Flags::ACK) {
        promote(tables, segment, flow, reply, now)
    } else {
        Reason::Handshake
    }
}

#[inline(always)]
fn shake_server<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    pending: &Pending<A>,
) -> Reason {
    if segment.flags.intersect(Flags::RST) {
        forget(tables, &segment.key, &pending.flow);
        return Reason::BackendRefused;
    }
    if segment.flags.contain(Flags::SYN | Flags::ACK) {
        let mut answered = *pending;
        answered.flow.progress.answered = 1;
        answered.server_sequence = segment.sequence;
        if answered != *pending {
            tables.replace_pending(&segment.key, &answered);
        }
    }
    Reason::Handshake
}

/// Moves a connection from PENDING to FLOWS, if the client's acknowledgment
/// proves that it saw the server's SYN+ACK.
#[inline(always)]
fn promote<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    flow: &Flow<A>,
    reply: &Pending<A>,
    now: Tick,
) -> Reason {
    let acknowledged = segment
        .acknowledgment
        .wrapping_sub(reply.server_sequence.wrapping_add(1));
    if reply.flow.progress.answered == 0 || acknowledged >= FIRST_ACK_WINDOW {
        return Reason::Handshake;
    }
    let mut forward = *flow;
    forward.last_seen = now;
    if segment.flags.intersect(Flags::FIN) {
        forward.progress.client_fin = 1;
    }
    let mut back = reply.flow;
    back.last_seen = now;
    back.progress.answered = 0;
    let reason = insert_pair(tables, &segment.key, &forward, &back);
    if reason != Reason::Handshake {
        // Only now: whoever finds no entry in PENDING must find it in FLOWS.
        forget(tables, &segment.key, flow);
    }
    reason
}

/// Puts both flows into FLOWS, or none. Whoever inserts the first one does
/// the rest; another CPU that comes in between forwards its segment and leaves
/// the tables alone.
#[inline(always)]
fn insert_pair<A: Address, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    forward: &Flow<A>,
    back: &Flow<A>,
) -> Reason {
    let reply_key = forward.pair_key();
    match tables.insert_flow(&reply_key, back) {
        Inserted::Yes => {}
        Inserted::Exists => return Reason::Handshake,
        Inserted::Full => return Reason::TableFull,
    }
    if tables.insert_flow(key, forward) != Inserted::Yes {
        tables.remove_flow(&reply_key);
        return Reason::TableFull;
    }
    Reason::Established
}

/// Takes a pair out of PENDING. A reverse key that serves another connection
/// by now stays.
#[inline(always)]
fn forget<A: Address, T: Tables<A>>(tables: &T, key: &FlowKey<A>, flow: &Flow<A>) {
    let pair = flow.pair_key();
    if let Some(other) = tables.pending(&pair)
        && other.flow.pair_key() == *key
    {
        tables.remove_pending(&pair);
    }
    tables.remove_pending(key);
}

/// A segment that was found in neither table.
#[inline(always)]
fn admit<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, now: Tick) -> Verdict<A> {
    let listener = Listener::new(segment.key.destination, segment.key.destination_port);
    let service = tables.service(&listener);
    if !segment.flags.open_connection()
        // Another CPU may have finished the handshake between our two look-ups.
        // Of a server's segments only a SYN+ACK that is sent again can be under
        // way just then: what else is not ours needs no third look-up.
        && (service.is_some() || segment.flags.contain(Flags::SYN | Flags::ACK))
        && let Some(entry) = tables.flow(&segment.key)
    {
        return forward(tables, segment, &entry.get(), Reason::Handshake);
    }
    let Some(service) = service else {
        return Verdict::of_nobody(Reason::NotOurs);
    };
    if segment.flags.open_connection() {
        open(tables, segment, &service, now)
    } else if segment.flags.intersect(Flags::RST) {
        Verdict::of_service(Reason::StrayReset, service.id)
    } else {
        Verdict::of_service(Reason::UnknownFlow, service.id)
    }
}

/// Selects a target and makes a pending pair for a new connection.
#[inline(always)]
fn open<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    service: &Service,
    now: Tick,
) -> Verdict<A> {
    let hash = select::hash(&segment.key);
    let slot = service.first_slot + select::below(hash, service.slots);
    let id = tables.slot(slot);
    let generation = tables.generation(id);
    let Some(target) = tables.target(id).filter(Target::installed) else {
        return Verdict::of_service(Reason::NoTarget, service.id);
    };
    // The agent changes the slot first and raises the generation then. Who
    // read the old target and the new generation sees the slot changed here:
    // to a leader that was cut off, no connection is opened that survives the
    // cut. (That needs the loads in this order, as x86 does them. A table of
    // many slots is swapped as a whole instead, and this look cannot tell.)
    if id == TargetId::NONE || tables.slot(slot) != id {
        return Verdict::of_service(Reason::NoTarget, service.id);
    }
    let owner = Owner {
        service: service.id,
        target: id,
        generation,
    };
    let Some(port) = reserve(tables, segment, &target, owner, hash, now) else {
        return Verdict {
            target: id,
            ..Verdict::of_service(Reason::PortsExhausted, service.id)
        };
    };
    let rewrite = towards(&target, port);
    let flow = Flow::new(
        &segment.key,
        rewrite,
        Direction::Forward,
        owner,
        Hop::default(),
        now,
    );
    let pending = Pending {
        flow,
        server_sequence: 0,
    };
    if tables.insert_pending(&segment.key, &pending) == Inserted::Yes {
        return forward(tables, segment, &flow, Reason::Opened);
    }
    // The same SYN on another CPU was quicker, or there is no room. It comes
    // again, and finds what the other one made.
    tables.remove_pending(&rewrite.reversed());
    Verdict::of_flow(Reason::SynLost, &flow)
}

/// What a connection's segments are rewritten to on their way to `target`.
#[inline(always)]
fn towards<A: Address>(target: &Target<A>, port: Port) -> FlowKey<A> {
    FlowKey {
        source: target.snat,
        destination: target.server,
        source_port: port,
        destination_port: target.port,
    }
}

/// Finds a source port that is free towards the target and puts the reply
/// flow into PENDING: its key there is the reservation.
#[inline(always)]
fn reserve<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    target: &Target<A>,
    owner: Owner,
    hash: u32,
    now: Tick,
) -> Option<Port> {
    let client = segment.key.source_port.number();
    let back = segment.key.reversed();
    for attempt in 0..PORT_ATTEMPTS {
        let port =
            select::source_port(client, hash, attempt, target.snat_first, target.snat_count)?;
        let port = Port::new(port);
        let reply_key = towards(target, port).reversed();
        let flow = Flow::new(&reply_key, back, Direction::Reply, owner, segment.back, now);
        let pending = Pending {
            flow,
            server_sequence: 0,
        };
        if tables.insert_pending(&reply_key, &pending) != Inserted::Yes {
            continue;
        }
        // In this order: a promotion puts a key into FLOWS before it takes it
        // out of PENDING, so that a key is never in neither.
        if tables.flow(&reply_key).is_none() {
            return Some(port);
        }
        tables.remove_pending(&reply_key);
    }
    None
}

/// The answer, for `reason`, to a segment of a connection that is no more. A
/// RST is never answered.
#[inline(always)]
fn answer<A: Address>(segment: &Segment<A>, flow: &Flow<A>, reason: Reason) -> Verdict<A> {
    if segment.flags.intersect(Flags::RST) {
        Verdict::of_flow(Reason::StrayReset, flow)
    } else {
        Verdict::of_flow(reason, flow)
    }
}

/// A segment on its way along `flow`.
#[inline(always)]
fn forward<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    flow: &Flow<A>,
    reason: Reason,
) -> Verdict<A> {
    if segment.ttl <= 1 {
        return Verdict::of_flow(Reason::TtlExpired, flow);
    }
    let hop = match flow.direction() {
        Direction::Reply => flow.hop,
        Direction::Forward => match tables.target(flow.target) {
            Some(target) => target.hop,
            None => return answer(segment, flow, Reason::CutOff),
        },
    };
    Verdict {
        rewrite: Rewrite {
            to: flow.rewrite,
            network_delta: flow.network_delta,
            transport_delta: flow.transport_delta,
            hop,
        },
        ..Verdict::of_flow(reason, flow)
    }
}
