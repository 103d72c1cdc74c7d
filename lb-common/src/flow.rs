//! Flows: one direction of one connection, and how to rewrite its segments.
//!
//! A connection is two flows under two keys. What becomes of the connection
//! as a whole (its [`Progress`]) stands in the forward flow alone, so that
//! there is one place to ask.

use crate::addr::{Address, Port};
use crate::target::{Generation, Hop, Target, TargetId};

/// The key of FLOWS and PENDING: addresses and ports of a segment as they
/// arrive. Also the addresses and ports that it is rewritten to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey<A> {
    /// The sender.
    pub source: A,
    /// The receiver.
    pub destination: A,
    /// The sender's port.
    pub source_port: Port,
    /// The receiver's port.
    pub destination_port: Port,
}

impl<A: Address> FlowKey<A> {
    /// The same connection, seen from the other end.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// Which way a flow goes.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the client to the server.
    Forward = 0,
    /// From the server to the client.
    Reply = 1,
}

/// A moment, in ticks of 2^20 ns (about 1.05 ms) since the host started.
/// Wraps after 52 days, so that only differences mean something.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// How long a tick is.
    pub const NANOSECONDS: u64 = 1 << 20;

    /// The tick at `nanoseconds` of the monotonic clock.
    #[inline(always)]
    #[must_use]
    pub const fn at(nanoseconds: u64) -> Self {
        Self((nanoseconds >> 20) as u32)
    }

    /// The moment so many ticks before this one.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_sub(ticks))
    }

    /// Whether this is later than `other`, by less than 26 days.
    #[inline(always)]
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        let ticks = self.0.wrapping_sub(other.0);
        ticks != 0 && ticks <= u32::MAX / 2
    }

    /// How long before `now` this was, in milliseconds. A moment that lies
    /// ahead (another CPU's clock is a tick further) is now.
    #[must_use]
    pub const fn milliseconds_before(self, now: Self) -> u64 {
        let ticks = now.0.wrapping_sub(self.0);
        if ticks > u32::MAX / 2 {
            return 0;
        }
        ((ticks as u64) << 20) / 1_000_000
    }
}

/// How far a connection has come: marks that are only ever set, by atomic
/// operations, so that of all CPUs one sees a mark appear.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Progress(pub u32);

impl Progress {
    /// The client has sent its FIN.
    pub const CLIENT_FIN: Self = Self(1);
    /// The server has sent its FIN.
    pub const SERVER_FIN: Self = Self(2);
    /// The server has sent its FIN, and the client had not: it is the server
    /// that keeps TIME_WAIT.
    pub const SERVER_FIRST: Self = Self(4);
    /// One of the two sent a RST.
    pub const RESET: Self = Self(8);
    /// In PENDING alone: the server sent its SYN+ACK.
    pub const ANSWERED: Self = Self(16);
    /// The connection is being taken out of the table.
    pub const REMOVED: Self = Self(32);

    /// Whether all of `marks` are set.
    #[inline(always)]
    #[must_use]
    pub const fn contain(self, marks: Self) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// These marks and `marks`.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, marks: Self) -> Self {
        Self(self.0 | marks.0)
    }

    /// Whether the connection is over: nothing but stragglers may follow.
    #[inline(always)]
    #[must_use]
    pub const fn closed(self) -> bool {
        self.0 & (Self::RESET.0 | Self::REMOVED.0) != 0
            || self.contain(Self(Self::CLIENT_FIN.0 | Self::SERVER_FIN.0))
    }
}

/// The value of FLOWS: what a segment's way on takes besides its target.
///
/// Small, for there may be millions: what all connections of a target have in
/// common stands in the target, which every segment looks at anyway.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow<A> {
    /// The end that the target does not tell: whom the server takes for its
    /// client (forward flows), or the client itself (replies).
    peer: A,
    /// What the new addresses add to a checksum over them.
    pub address_delta: u16,
    /// What the new ports add to a checksum over them.
    pub port_delta: u16,
    /// The target's generation when the connection was opened.
    pub generation: Generation,
    /// When the flow's last segment passed.
    pub last_seen: Tick,
    /// Replies: the way back to the client, as its SYN came. Forward flows
    /// follow their target's hop, which may change; the last word of theirs
    /// is how far the connection has come.
    pub hop: Hop,
    /// The port of that end.
    peer_port: Port,
    /// The target that the connection was opened to, and in the highest bit
    /// the direction.
    bearer: u16,
}

/// In [`Flow::bearer`]: it is a reply.
const REPLY: u16 = 1 << 15;
const _: () = assert!(TargetId::CAPACITY <= REPLY as u32);

impl<A: Address> Flow<A> {
    /// A flow that begins `now`. Its segments arrive with `key`, and leave with
    /// `rewrite`; replies leave by `hop`.
    #[inline(always)]
    #[must_use]
    pub fn new(
        key: &FlowKey<A>,
        rewrite: &FlowKey<A>,
        direction: Direction,
        owner: Owner,
        hop: Hop,
        now: Tick,
    ) -> Self {
        let (address_delta, port_delta) = crate::nat::deltas(key, rewrite);
        let (peer, peer_port, side, hop) = match direction {
            Direction::Forward => (rewrite.source, rewrite.source_port, 0, Hop::default()),
            Direction::Reply => (rewrite.destination, rewrite.destination_port, REPLY, hop),
        };
        Self {
            peer,
            address_delta,
            port_delta,
            generation: owner.generation,
            last_seen: now,
            hop,
            peer_port,
            bearer: owner.target.0 as u16 & !REPLY | side,
        }
    }

    /// The target that the connection was opened to.
    #[inline(always)]
    #[must_use]
    pub const fn target(&self) -> TargetId {
        TargetId((self.bearer & !REPLY) as u32)
    }

    /// To whom the connection belongs.
    #[inline(always)]
    #[must_use]
    pub const fn owner(&self) -> Owner {
        Owner {
            target: self.target(),
            generation: self.generation,
        }
    }

    /// Which way the flow goes.
    #[inline(always)]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.bearer & REPLY == 0 {
            Direction::Forward
        } else {
            Direction::Reply
        }
    }

    /// How far the connection has come, as far as this flow knows: nothing is
    /// known of it in a reply flow.
    #[inline(always)]
    #[must_use]
    pub const fn progress(&self) -> Progress {
        match self.direction() {
            Direction::Forward => Progress(self.hop.ifindex),
            Direction::Reply => Progress(0),
        }
    }

    /// The same forward flow of a connection that has come so far.
    #[must_use]
    pub const fn progressed(mut self, progress: Progress) -> Self {
        self.hop.ifindex = progress.0;
        self
    }

    /// The addresses and ports that its segments leave with; they arrive with
    /// `key`. A server that answers its clients itself gets them as they came.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(&self, key: &FlowKey<A>, target: &Target<A>) -> FlowKey<A> {
        self.rewrite_lazily(|| *key, target)
    }

    /// As [`Self::rewrite`], where the key is to be put together.
    #[inline(always)]
    #[must_use]
    pub fn rewrite_lazily(
        &self,
        key: impl FnOnce() -> FlowKey<A>,
        target: &Target<A>,
    ) -> FlowKey<A> {
        match self.direction() {
            Direction::Forward if target.mode().replies() => FlowKey {
                source: self.peer,
                destination: target.server,
                source_port: self.peer_port,
                destination_port: target.port,
            },
            Direction::Forward => key(),
            Direction::Reply => FlowKey {
                source: target.vip,
                destination: self.peer,
                source_port: target.vip_port,
                destination_port: self.peer_port,
            },
        }
    }

    /// The key of the connection's other flow: what comes back is addressed
    /// to where this flow's segments claim to come from.
    #[inline(always)]
    #[must_use]
    pub fn pair_key(&self, key: &FlowKey<A>, target: &Target<A>) -> FlowKey<A> {
        self.rewrite(key, target).reversed()
    }

    /// Whether `other`, which stands under the pair key of this flow, is its
    /// other half. It is not where the key serves another connection by now.
    #[inline(always)]
    #[must_use]
    pub fn is_paired_with(&self, key: &FlowKey<A>, target: &Target<A>, other: &Self) -> bool {
        self.bearer ^ other.bearer == REPLY
            && other.pair_key(&self.pair_key(key, target), target) == *key
    }

    /// The address of the connection's client; `key` is the flow's own.
    #[inline(always)]
    #[must_use]
    pub fn client(&self, key: &FlowKey<A>) -> A {
        match self.direction() {
            Direction::Forward => key.source,
            Direction::Reply => self.peer,
        }
    }
}

/// To whom a connection belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// The target.
    pub target: TargetId,
    /// Its generation when the connection was opened.
    pub generation: Generation,
}

/// The value of PENDING: a flow whose handshake is not finished.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pending<A> {
    /// What FLOWS will hold.
    pub flow: Flow<A>,
    /// In the reply flow: the sequence number of the server's SYN+ACK, in
    /// host order. The client proves that it saw it by acknowledging it.
    pub server_sequence: u32,
    /// When the SYN came, in microseconds since the host started; wraps after
    /// 71 minutes.
    pub opened: u32,
    /// In the reply flow: whether the server has answered.
    pub progress: Progress,
}
