//! Handshakes: from the SYN that was let in to the ACK that proves the client,
//! with which a connection moves from PENDING to FLOWS.

use crate::account::{self, Before};
use crate::addr::Address;
use crate::flow::{Direction, Flow, FlowKey, Pending, Progress};
use crate::service::Listener;
use crate::steer::{Case, answer, fin, send};
use crate::tables::{Inserted, Tables};
use crate::target::Target;
use crate::verdict::{Reason, Verdict};
use crate::wire::frame::Segment;
use crate::wire::tcp::Flags;

/// How far behind the server's sequence number a client's first
/// acknowledgment may lie: the data that a server may send with its SYN+ACK
/// (TCP Fast Open). A forger's chance is this over 2^32.
const FIRST_ACK_WINDOW: u32 = 1 << 16;

/// What was found of a segment's connection in PENDING.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The segment's own flow alone.
    Half,
    /// Both flows.
    Pair,
}

/// A step of `steer`: copies what PENDING holds of a segment's connection into
/// its case, at once. An entry that another CPU takes out is given to another
/// connection without delay.
///
/// The other flow may have been pushed out, and its key may serve another
/// connection already. Where the server does not answer us there is none, and
/// the segment's own stands for it.
#[inline(never)]
pub fn find<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>) -> Found {
    let key = &case.segment.key;
    let Some(pending) = tables.pending(key) else {
        return Found::Nothing;
    };
    case.draft = *pending;
    let flow = &case.draft.flow;
    let Some(target) = tables.target(flow.target()) else {
        return Found::Half;
    };
    if !target.mode().replies() {
        case.pair = case.draft;
        return Found::Pair;
    }
    let Some(other) = tables.pending(&flow.pair_key(key, &target)) else {
        return Found::Half;
    };
    case.pair = *other;
    if flow.is_paired_with(key, &target, &case.pair.flow) {
        Found::Pair
    } else {
        Found::Half
    }
}

/// A step of `steer`: the segments of unfinished handshakes.
#[inline(never)]
pub fn shake_hands<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, found: Found) -> bool {
    let verdict = unfinished(tables, case, found == Found::Pair);
    case.decided(verdict)
}

/// The verdict on a segment whose connection was found in PENDING; none where
/// that is over: it is forgotten then, and the segment may open a connection
/// anew.
#[inline(always)]
fn unfinished<A: Address, T: Tables<A>>(
    tables: &T,
    case: &mut Case<A>,
    paired: bool,
) -> Option<Verdict> {
    let Case {
        segment,
        draft: pending,
        pair,
        rewrite,
        tunnel,
        ..
    } = case;
    let (flow, way) = (&pending.flow, (rewrite, tunnel));
    let target = &*tables.target(flow.target())?;
    let stale = tables.generation(flow.target()) != flow.generation;
    let reason = if stale || (paired && selects_again(segment, flow, target, pair)) {
        Reason::CutOff
    } else if paired {
        let reason = match flow.direction() {
            Direction::Forward => shake_client(tables, segment, flow, target, pair),
            Direction::Reply => shake_server(tables, segment, pending, target),
        };
        return Some(send(segment, way, flow, target, reason));
    } else if tables.flow(&segment.key).is_some() {
        // Another CPU finished the handshake a moment ago.
        return Some(send(segment, way, flow, target, Reason::Handshake));
    } else {
        Reason::HandshakeLost
    };
    forget(tables, &segment.key, flow, target);
    (!segment.flags.open_connection()).then(|| answer(segment, flow, target, reason))
}

/// Whether a SYN that is sent again should select again: its server has not
/// answered, and gets no new connections any more.
#[inline(always)]
fn selects_again<A: Address>(
    segment: &Segment<A>,
    flow: &Flow<A>,
    target: &Target<A>,
    pair: &Pending<A>,
) -> bool {
    segment.flags.open_connection()
        && flow.direction() == Direction::Forward
        && !pair.progress.contain(Progress::ANSWERED)
        && target.accepts == 0
}

#[inline(always)]
fn shake_client<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    flow: &Flow<A>,
    target: &Target<A>,
    reply: &Pending<A>,
) -> Reason {
    if segment.flags.open_connection() {
        if reply.progress.contain(Progress::ANSWERED) || !target.mode().replies() {
            Reason::SynRetransmitted
        } else {
            Reason::SynUnanswered
        }
    } else if segment.flags.intersect(Flags::RST) {
        forget(tables, &segment.key, flow, target);
        Reason::ResetRelayed
    } else if segment.flags.intersect(Flags::ACK) {
        promote(tables, segment, flow, target, reply)
    } else {
        Reason::Handshake
    }
}

#[inline(always)]
fn shake_server<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    pending: &Pending<A>,
    target: &Target<A>,
) -> Reason {
    if segment.flags.intersect(Flags::RST) {
        forget(tables, &segment.key, &pending.flow, target);
        return Reason::BackendRefused;
    }
    if segment.flags.contain(Flags::SYN | Flags::ACK) {
        let mut answered = *pending;
        answered.progress = Progress::ANSWERED;
        answered.server_sequence = segment.sequence;
        if answered != *pending {
            tables.replace_pending(&segment.key, &answered);
        }
        if !pending.progress.contain(Progress::ANSWERED) {
            let took = (tables.microseconds() as u32).wrapping_sub(pending.opened);
            let id = pending.flow.target();
            tables.set_latency(id, tables.load(id).with_sample(took));
        }
    }
    Reason::Handshake
}

/// Moves a connection from PENDING to FLOWS, if the client's acknowledgment
/// proves that it saw the server's SYN+ACK. Where the server's segments do not
/// come by, there is nothing to prove it by.
#[inline(always)]
fn promote<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    flow: &Flow<A>,
    target: &Target<A>,
    reply: &Pending<A>,
) -> Reason {
    let acknowledged = segment
        .acknowledgment
        .wrapping_sub(reply.server_sequence.wrapping_add(1));
    if target.mode().replies()
        && (!reply.progress.contain(Progress::ANSWERED) || acknowledged >= FIRST_ACK_WINDOW)
    {
        return Reason::Handshake;
    }
    // As they are: a copy of both would not fit on the kernel's stack, and
    // nobody minds when the connection's idle time begins with its SYN.
    let reason = insert_pair(tables, &segment.key, flow, target, &reply.flow);
    if reason == Reason::Established
        && segment.flags.intersect(Flags::FIN)
        && let Some(entry) = tables.flow(&segment.key)
    {
        let replies = target.mode().replies();
        account::advance(tables, (&segment.key, flow), target, &entry, |now| {
            fin(Direction::Forward, replies, now)
        });
    }
    if reason != Reason::Handshake {
        // Only now: whoever finds no entry in PENDING must find it in FLOWS.
        forget(tables, &segment.key, flow, target);
    }
    reason
}

/// Puts both flows into FLOWS, or none, and counts the connection. Whoever
/// inserts the first one does the rest; another CPU that comes in between
/// forwards its segment and leaves the tables alone.
#[inline(always)]
fn insert_pair<A: Address, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    forward: &Flow<A>,
    target: &Target<A>,
    back: &Flow<A>,
) -> Reason {
    let reply_key = forward.pair_key(key, target);
    let replies = target.mode().replies();
    if replies {
        match tables.insert_flow(&reply_key, back) {
            Inserted::Yes => {}
            Inserted::Exists => return Reason::Handshake,
            Inserted::Full => return Reason::TableFull,
        }
    }
    // Before the flow is there: who finds it may close it.
    let (service, id) = (target.service, forward.target());
    let before = account::open(tables, service, id, key.source);
    let reason = match one_too_many(tables, key, target, before) {
        Some(reason) => reason,
        None => match tables.insert_flow(key, forward) {
            Inserted::Yes => return Reason::Established,
            Inserted::Exists if !replies => Reason::Handshake,
            Inserted::Exists | Inserted::Full => Reason::TableFull,
        },
    };
    account::close(tables, service, id, key.source);
    if replies {
        tables.remove_flow(&reply_key);
    }
    reason
}

/// Why a connection is one too many, where there were as many as `before` when
/// it was counted. The SYN was asked the same; since then others were let in.
#[inline(always)]
fn one_too_many<A: Address, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    target: &Target<A>,
    before: Before,
) -> Option<Reason> {
    let reached = |limit, before| limit != 0 && before >= limit;
    if before.all >= tables.connections_max() {
        return Some(Reason::TableFull);
    }
    if let Some(service) = tables.service(&Listener::new(key.destination, key.destination_port)) {
        if reached(service.max_connections, before.service) {
            return Some(Reason::ServiceFull);
        }
        if reached(service.source_connections, before.source) {
            return Some(Reason::SourceFull);
        }
    }
    reached(target.max_connections, before.target).then_some(Reason::ServersFull)
}

/// Takes a pair out of PENDING. A reverse key that serves another connection
/// by now stays.
#[inline(always)]
fn forget<A: Address, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    target: &Target<A>,
) {
    let pair = flow.pair_key(key, target);
    if let Some(other) = tables.pending(&pair)
        && flow.is_paired_with(key, target, &other.flow)
    {
        tables.remove_pending(&pair);
    }
    tables.remove_pending(key);
}
