//! Services: what clients connect to, as the kernel stores it.

use crate::addr::{Address, Port};

/// The number of a service: an index of its counters. 0 is a service too.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// How many services the maps have room for.
    pub const CAPACITY: u32 = 1024;
}

/// The key of SERVICES: the VIP and the port that a client connects to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Listener<A> {
    /// The VIP.
    pub address: A,
    /// The port.
    pub port: Port,
    reserved: u16,
}

impl<A: Address> Listener<A> {
    /// The listener on `address` and `port`.
    #[inline(always)]
    pub const fn new(address: A, port: Port) -> Self {
        Self {
            address,
            port,
            reserved: 0,
        }
    }
}

/// The value of SERVICES: where the service's targets are found.
///
/// A service selects among `slots` entries of SLOTS from `first_slot` on.
/// Replacing this value by one update swaps the whole table at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Service {
    /// The first of the service's slots.
    pub first_slot: u32,
    /// How many slots there are: 1 for a service that goes to the leader.
    pub slots: u32,
    /// The service's number.
    pub id: ServiceId,
    reserved: u16,
}

impl Service {
    /// Service `id`, which selects from `first_slot..first_slot + slots`.
    #[must_use]
    pub const fn new(id: ServiceId, first_slot: u32, slots: u32) -> Self {
        Self {
            first_slot,
            slots,
            id,
            reserved: 0,
        }
    }
}

/// How many entries SLOTS has for all services together.
pub const SLOTS_CAPACITY: u32 = 1 << 20;
