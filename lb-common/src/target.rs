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
    pub const CAPACITY: u32 = 4096;
}

/// How often a target was cut off. A flow remembers the generation that it
/// was opened in, and is stale as soon as the target's has moved on.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Generation(pub u32);

/// The next hop of a packet: the Ethernet addresses that it leaves with.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Hop {
    /// The neighbour's address.
    pub destination: Mac,
    /// Our own.
    pub source: Mac,
}

/// The value of TARGETS. All zero: nothing is installed under this number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Target<A> {
    /// The server's address.
    pub server: A,
    /// The address that the server sees as its client's.
    pub snat: A,
    /// The server's port; 0 where nothing is installed.
    pub port: Port,
    /// The first source port to give out, in host order.
    pub snat_first: u16,
    /// How many source ports there are from `snat_first` on.
    pub snat_count: u16,
    /// The service that the target belongs to.
    pub service: ServiceId,
    /// The way to the server.
    pub hop: Hop,
}

impl<A: Address> Target<A> {
    /// Whether something is installed under this number.
    #[inline(always)]
    pub fn installed(&self) -> bool {
        self.port != Port(0)
    }
}
