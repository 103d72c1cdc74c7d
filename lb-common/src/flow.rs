//! Flows: one direction of one connection, and how to rewrite its segments.
//!
//! A connection is two flows under two keys. What becomes of the connection
//! as a whole (its [`Progress`]) stands in the forward flow alone, so that
//! there is one place to ask.

use crate::addr::{Address, Port};
use crate::service::ServiceId;
use crate::target::{Generation, Hop, TargetId};

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
    /// The tick at `nanoseconds` of the monotonic clock.
    #[inline(always)]
    #[must_use]
    pub const fn at(nanoseconds: u64) -> Self {
        Self((nanoseconds >> 20) as u32)
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

/// How far a connection has come. Each mark is a byte of its own and is only
/// ever set, so that CPUs need no atomic operation between them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Progress {
    /// Not 0: the client has sent its FIN.
    pub client_fin: u8,
    /// Not 0: the server has sent its FIN; [`Progress::FIRST`] where the
    /// client had not sent its own by then.
    pub server_fin: u8,
    /// Not 0: one of the two sent a RST.
    pub reset: u8,
    /// Not 0, in PENDING, in the reply flow: the server sent its SYN+ACK.
    pub answered: u8,
}

impl Progress {
    /// In `server_fin`: the server's FIN came first, so that it is the
    /// server that keeps TIME_WAIT.
    pub const FIRST: u8 = 2;

    /// Whether the connection is over: nothing but stragglers may follow.
    #[inline(always)]
    #[must_use]
    pub const fn closed(self) -> bool {
        self.reset != 0 || (self.client_fin != 0 && self.server_fin != 0)
    }
}

/// One step in a connection's progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The client sent its FIN.
    ClientFin,
    /// The server sent its FIN, after the client.
    ServerFin,
    /// The server sent its FIN, and the client has not yet.
    ServerFinFirst,
    /// One of the two sent a RST.
    Reset,
}

/// The value of FLOWS: the finished recipe for a segment's way on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow<A> {
    /// The addresses and ports that the segment leaves with.
    pub rewrite: FlowKey<A>,
    /// What the rewriting adds to the network header's checksum.
    pub network_delta: u16,
    /// What it adds to the transport header's checksum.
    pub transport_delta: u16,
    /// The target that the connection was opened to.
    pub target: TargetId,
    /// The target's generation at that time.
    pub generation: Generation,
    /// When the flow's last segment passed.
    pub last_seen: Tick,
    /// How far the connection has come; only the forward flow's is kept.
    pub progress: Progress,
    /// Replies: the way back to the client, as its SYN came. Forward flows
    /// follow their target's hop, which may change.
    pub hop: Hop,
    /// The service that the connection was opened to.
    pub service: ServiceId,
    direction: u8,
    reserved: u8,
}

impl<A: Address> Flow<A> {
    /// A flow that begins `now`. `key` is what its segments arrive with.
    #[inline(always)]
    #[must_use]
    pub fn new(
        key: &FlowKey<A>,
        rewrite: FlowKey<A>,
        direction: Direction,
        owner: Owner,
        hop: Hop,
        now: Tick,
    ) -> Self {
        let Owner {
            service,
            target,
            generation,
        } = owner;
        let (network_delta, transport_delta) = crate::nat::deltas(key, &rewrite);
        Self {
            rewrite,
            network_delta,
            transport_delta,
            target,
            generation,
            last_seen: now,
            progress: Progress {
                client_fin: 0,
                server_fin: 0,
                reset: 0,
                answered: 0,
            },
            hop,
            service,
            direction: direction as u8,
            reserved: 0,
        }
    }

    /// Which way the flow goes.
    #[inline(always)]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.direction == Direction::Forward as u8 {
            Direction::Forward
        } else {
            Direction::Reply
        }
    }

    /// The key of the connection's other flow: what comes back is addressed
    /// to where this flow's segments claim to come from.
    #[inline(always)]
    #[must_use]
    pub fn pair_key(&self) -> FlowKey<A> {
        self.rewrite.reversed()
    }
}

/// To whom a connection belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The service.
    pub service: ServiceId,
    /// The target.
    pub target: TargetId,
    /// The target's generation when the connection was opened.
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
}
