//! The steering policy: from a segment and the tables to a verdict.
//!
//! Decides, and touches no packet and no clock. The same code runs in the
//! kernel, in unit tests, and under a fuzzer. Invariants that it keeps:
//! a flow never stands in FLOWS without its pair, but for the moment between
//! two insertions; a reverse key serves one connection at a time; an
//! established flow never changes its target; what is open is counted once.

use crate::account;
use crate::addr::Address;
use crate::admit::{Grant, grant, open};
use crate::flow::{Direction, Flow, FlowKey, Owner, Pending, Progress, Tick};
use crate::handshake::{Found, find, shake_hands};
use crate::nat::Rewrite;
use crate::tables::{FlowEntry, Tables};
use crate::target::{Hop, Mode, Target};
use crate::tunnel::Tunnel;
use crate::verdict::{Reason, Verdict};
use crate::wire::frame::{Headers, Segment};
use crate::wire::network::NetworkHeader as _;
use crate::wire::tcp::Flags;

/// One segment's case: what arrived, and what was decided. One memory for all
/// of it, because the kernel's stack is too small.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case<A> {
    /// The segment.
    pub segment: Segment<A>,
    /// The way back to whoever handed it to us.
    pub back: Hop,
    /// What becomes of it.
    pub verdict: Verdict,
    /// How it is rewritten; means something where it goes on.
    pub rewrite: Rewrite<A>,
    /// How it is wrapped; means something where it travels through a tunnel.
    pub tunnel: Tunnel<A>,
    /// Leave to open a connection.
    pub grant: Grant,
    /// A pending flow in the making, or one that was found.
    pub draft: Pending<A>,
    /// The one in the other direction.
    pub pair: Pending<A>,
    /// The key of the reply flow in the making.
    pub reply_key: FlowKey<A>,
}

/// The flow and the target of a segment in the middle of a connection, which is
/// to go on: nearly all segments, and therefore apart from the rest. None: it
/// takes [`steer`].
#[inline(always)]
pub fn carry_on<A: Address, T: Tables<A>>(
    tables: &T,
    headers: &Headers<A::Header>,
    now: impl FnOnce() -> Tick,
) -> Option<(T::FlowEntry, T::TargetEntry)> {
    if !headers.tcp.flags.carry_on() || headers.network.hops() <= 1 {
        return None;
    }
    let entry = tables.flow_of(headers)?;
    let flow = entry.get();
    if tables.generation(flow.target()) != flow.generation {
        return None;
    }
    let target = tables.target(flow.target())?;
    if target.mode() == Mode::Ipip {
        return None;
    }
    entry.touch(now());
    Some((entry, target))
}

/// The reason for which a segment goes along a flow in this direction.
#[inline(always)]
pub(crate) const fn carried(direction: Direction) -> Reason {
    match direction {
        Direction::Forward => Reason::Forward,
        Direction::Reply => Reason::Reply,
    }
}

/// Decides on the segment of `case`, which arrives at `now`: sets its verdict.
///
/// Each step is a call, for the sake of the kernel's stack, and says whether
/// it reached a verdict.
#[inline(always)]
pub fn steer<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) {
    let _decided = follow(tables, case, now)
        || handshake(tables, case)
        || !grant(tables, case, now)
        || open(tables, case, now);
}

/// As [`steer`], for a segment that leaves this host: whether it belongs to a
/// server here, and something was decided.
///
/// A RST cannot be given back on this way: what would be answered is dropped.
#[inline(always)]
pub fn steer_reply<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) -> bool {
    let decided = from_server_here(tables, &case.segment.key)
        && (follow(tables, case, now) || handshake(tables, case));
    case.verdict.silent = true;
    decided
}

/// Whether segments with `key` are replies of a server on this host.
#[inline(always)]
fn from_server_here<A: Address, T: Tables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    let is_so = |flow: &Flow<A>| {
        flow.direction() == Direction::Reply
            && tables
                .target(flow.target())
                .is_some_and(|target| target.mode() == Mode::Local)
    };
    match tables.flow(key) {
        Some(entry) => is_so(&entry.get()),
        None => tables.pending(key).is_some_and(|found| is_so(&found.flow)),
    }
}

impl<A: Address> Default for Case<A> {
    /// A case of which nothing is known yet.
    fn default() -> Self {
        let (key, hop, now) = (FlowKey::default(), Hop::default(), Tick(0));
        let owner = Owner::default();
        let pending = Pending {
            flow: Flow::new(&key, &key, Direction::Forward, owner, hop, now),
            server_sequence: 0,
            opened: 0,
            progress: Progress(0),
        };
        Self {
            segment: Segment::default(),
            back: hop,
            verdict: Verdict::of_nobody(Reason::NotOurs),
            rewrite: Rewrite::default(),
            tunnel: Tunnel::default(),
            grant: Grant::default(),
            draft: pending,
            pair: pending,
            reply_key: key,
        }
    }
}

impl<A: Address> Case<A> {
    /// Notes a verdict, if there is one; whether there is.
    #[inline(always)]
    pub(crate) fn decided(&mut self, verdict: Option<Verdict>) -> bool {
        match verdict {
            Some(verdict) => {
                self.verdict = verdict;
                true
            }
            None => false,
        }
    }
}

#[inline(always)]
fn handshake<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>) -> bool {
    let found = find(tables, case);
    found != Found::Nothing && shake_hands(tables, case, found)
}

#[inline(never)]
fn follow<A: Address, T: Tables<A>>(tables: &T, case: &mut Case<A>, now: Tick) -> bool {
    let verdict = established(tables, case, now);
    case.decided(verdict)
}

/// The verdict on a segment whose connection is in FLOWS; none where it is
/// not, or no more: what was there is removed then.
#[inline(always)]
fn established<A: Address, T: Tables<A>>(
    tables: &T,
    case: &mut Case<A>,
    now: Tick,
) -> Option<Verdict> {
    let segment = &case.segment;
    let entry = tables.flow(&segment.key)?;
    let flow = entry.get();
    let target = tables.target(flow.target())?;
    let stale = tables.generation(flow.target()) != flow.generation;
    if reopens(segment, &flow, stale) {
        account::remove(tables, (&segment.key, &flow), &target, &entry);
        return None;
    }
    if stale {
        return Some(answer(segment, &flow, &target, Reason::CutOff));
    }
    entry.touch(now);
    let Segment { key, flags, .. } = segment;
    let reason = if flags.intersect(Flags::RST) {
        account::advance(tables, (key, &flow), &target, &entry, |_| Progress::RESET);
        Reason::ResetRelayed
    } else if flags.intersect(Flags::FIN) {
        let direction = flow.direction();
        let replies = target.mode().replies();
        account::advance(tables, (key, &flow), &target, &entry, |now| {
            fin(direction, replies, now)
        });
        Reason::Closing
    } else {
        carried(flow.direction())
    };
    Some(forward(case, &flow, &target, reason))
}

/// Whether a segment of an established connection opens a new one in its
/// place: the old one is finished, or its target was cut off.
#[inline(always)]
fn reopens<A: Address>(segment: &Segment<A>, flow: &Flow<A>, stale: bool) -> bool {
    segment.flags.open_connection()
        && (stale || (flow.direction() == Direction::Forward && flow.progress().closed()))
}

/// The marks that a FIN sets: whose came first keeps TIME_WAIT. Where the
/// server's segments do not come by, the client's FIN stands for both.
#[inline(always)]
pub(crate) const fn fin(direction: Direction, replies: bool, now: Progress) -> Progress {
    match direction {
        Direction::Forward if replies => Progress::CLIENT_FIN,
        Direction::Forward => Progress::CLIENT_FIN.with(Progress::SERVER_FIN),
        Direction::Reply if now.contain(Progress::CLIENT_FIN) => Progress::SERVER_FIN,
        Direction::Reply => Progress::SERVER_FIN.with(Progress::SERVER_FIRST),
    }
}

/// The answer, for `reason`, to a segment of a connection that is no more. A
/// RST is never answered.
#[inline(always)]
pub fn answer<A: Address>(
    segment: &Segment<A>,
    flow: &Flow<A>,
    target: &Target<A>,
    reason: Reason,
) -> Verdict {
    let reason = if segment.flags.intersect(Flags::RST) {
        Reason::StrayReset
    } else {
        reason
    };
    Verdict::of_flow(reason, flow, target)
}

/// A segment on its way along `flow`; or refused, for a `reason` that says so.
#[inline(always)]
pub fn forward<A: Address>(
    case: &mut Case<A>,
    flow: &Flow<A>,
    target: &Target<A>,
    reason: Reason,
) -> Verdict {
    let Case {
        segment,
        rewrite,
        tunnel,
        ..
    } = case;
    send(segment, (rewrite, tunnel), flow, target, reason)
}

/// As [`forward`], where another part of the case is in use.
#[inline(always)]
pub fn send<A: Address>(
    segment: &Segment<A>,
    (rewrite, tunnel): (&mut Rewrite<A>, &mut Tunnel<A>),
    flow: &Flow<A>,
    target: &Target<A>,
    reason: Reason,
) -> Verdict {
    if !reason.goes_on() {
        return Verdict::of_flow(reason, flow, target);
    }
    if segment.hops <= 1 && target.mode() != Mode::Local {
        return Verdict::of_flow(Reason::TtlExpired, flow, target);
    }
    if target.mode() == Mode::Ipip && flow.direction() == Direction::Forward {
        *tunnel = Tunnel::to(target);
        if tunnel.is_too_narrow_for(segment.length) {
            return Verdict::of_flow(Reason::TooBig, flow, target);
        }
    }
    *rewrite = Rewrite::along(|| segment.key, flow, target);
    Verdict::of_flow(reason, flow, target)
}
