//! Targets: one server as one service sees it, as the kernel stores it.

use crate::addr::{Address, Mac, Port};
use crate::service::ServiceId;

/// The number of a target: small, stable, and never given to another target
/// before every flow that holds it is gone.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TargetId(pub u32);

impl TargetId {
    /// No target: what an empty slot holds.
    pub const NONE: Self = Self(0);
    /// How many targets the maps have room for, [`Self::NONE`] included.
    pub const CAPACITY: u32 = 1 << 15;
}

/// How often a target was cut off. A flow remembers the generation that it
/// was opened in, and is stale as soon as the target's has moved on.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Generation(pub u32);

/// The next hop of a packet: the Ethernet addresses that it leaves with, and
/// the NIC that it leaves by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hop {
    /// The neighbour's address.
    pub destination: Mac,
    /// Our own.
    pub source: Mac,
    /// The index of our NIC.
    pub ifindex: u32,
}

/// How a target's segments get to its server.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Mode {
    /// Both addresses and both ports are translated; the server answers us.
    #[default]
    Nat = 0,
    /// The server listens on this host: the destination is translated.
    Local = 1,
    /// Only the Ethernet addresses change; the server answers the client.
    Dsr = 2,
    /// The packet travels inside of another one; the server answers the client.
    Ipip = 3,
}

impl Mode {
    /// The mode with number `number`; `Nat` for a number that is none.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Local,
            2 => Self::Dsr,
            3 => Self::Ipip,
            _ => Self::Nat,
        }
    }

    /// Whether the server's segments come back to us.
    #[inline(always)]
    #[must_use]
    pub const fn replies(self) -> bool {
        matches!(self, Self::Nat | Self::Local)
    }
}

/// The value of TARGETS. All zero: nothing is installed under this number.
///
/// Addresses, ports, service and mode never change for a number in use: open
/// connections are told by them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Target<A> {
    /// The server's address.
    pub server: A,
    /// The source of tunnelled packets: an address of our own.
    pub tunnel: A,
    /// Where its service's clients connect to.
    pub vip: A,
    /// The way to the server; means nothing where it listens on this host.
    pub hop: Hop,
    /// How many open connections it takes; 0 where there is no limit.
    pub max_connections: u32,
    /// The server's port; 0 where nothing is installed.
    pub port: Port,
    /// The port of the VIP.
    pub vip_port: Port,
    /// The service that the target belongs to.
    pub service: ServiceId,
    /// The first of its entries in SNATS.
    pub first_snat: u16,
    /// How many entries there are, one after the other.
    pub snats: u16,
    /// The server's share, in relation to the other servers' of its service.
    pub weight: u16,
    /// The longest packet that the way to the server takes, in bytes.
    pub mtu: u16,
    /// The number of its [`Mode`].
    pub mode: u8,
    /// Not 0: it may get new connections.
    pub accepts: u8,
}

impl<A: Address> Target<A> {
    /// Whether something is installed under this number.
    #[inline(always)]
    pub fn installed(&self) -> bool {
        self.port != Port(0)
    }

    /// How segments get to its server.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_number(self.mode)
    }
}

/// The value of SNATS: one address that servers see as their client's, and
/// the ports that it may use.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Snat<A> {
    /// The address.
    pub address: A,
    /// The first port to give out, in host order.
    pub first: u16,
    /// How many ports there are from `first` on.
    pub count: u16,
}

/// How many entries SNATS has, for each family.
pub const SNATS_CAPACITY: u32 = 64;

/// What a target carries: the value of LOAD. That of [`TargetId::NONE`] holds
/// the sum over all targets.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Load {
    /// Open connections: established, and not closed by both ends.
    pub open: u32,
    /// How long a handshake takes, in microseconds: a moving average; 0 where
    /// there was none yet.
    pub latency: u32,
}

impl Load {
    /// How much of a new sample goes into the average: one part of so many.
    const SMOOTHING: u32 = 8;

    /// The average with one more handshake, of `sample` microseconds.
    #[inline(always)]
    #[must_use]
    pub const fn with_sample(self, sample: u32) -> u32 {
        // Not 0, which means that nothing is known.
        let sample = if sample == 0 { 1 } else { sample };
        if self.latency == 0 {
            return sample;
        }
        let rest = self.latency - self.latency / Self::SMOOTHING;
        rest.saturating_add(sample / Self::SMOOTHING + (sample < Self::SMOOTHING) as u32)
    }
}
