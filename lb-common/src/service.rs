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

/// How a service picks a slot for a new connection.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Algorithm {
    /// By the hash of addresses and ports.
    #[default]
    Maglev = 0,
    /// By the hash of the client's address.
    SourceHash = 1,
    /// One after the other.
    RoundRobin = 2,
    /// By chance.
    Random = 3,
    /// Of two by chance the one with fewer open connections for its weight.
    LeastConnections = 4,
    /// Of two by chance the one with less handshake time times connections.
    LeastLatency = 5,
}

impl Algorithm {
    /// The algorithm with number `number`; `Maglev` for a number that is none.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::SourceHash,
            2 => Self::RoundRobin,
            3 => Self::Random,
            4 => Self::LeastConnections,
            5 => Self::LeastLatency,
            _ => Self::Maglev,
        }
    }
}

/// What else there is to know of a service: one bit each.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Options(pub u8);

impl Options {
    /// Who finds no target is dropped instead of reset.
    pub const DROP_NO_TARGET: Self = Self(1);
    /// Who finds everything full is dropped instead of reset.
    pub const DROP_FULL: Self = Self(2);
    /// There are rules for this service in PREFIXES.
    pub const PREFIXES: Self = Self(4);
    /// Whom no rule names is denied.
    pub const DENY_OTHERS: Self = Self(8);

    /// Whether all of `options` are set.
    #[inline(always)]
    #[must_use]
    pub const fn contain(self, options: Self) -> bool {
        self.0 & options.0 == options.0
    }

    /// These options and `options`, where `condition` holds.
    #[must_use]
    pub const fn with(self, options: Self, condition: bool) -> Self {
        if condition {
            Self(self.0 | options.0)
        } else {
            self
        }
    }
}

/// The value of SERVICES: where the service's targets are found, and its
/// limits; 0 is no limit.
///
/// A service selects among `slots` entries of SLOTS from `first_slot` on;
/// `members` entries follow, one for each target. Replacing this value by one
/// update swaps the whole table at once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Service {
    /// The first of the service's slots.
    pub first_slot: u32,
    /// How many slots there are: 1 for a service that goes to the leader.
    pub slots: u32,
    /// How many targets are listed behind the slots.
    pub members: u32,
    /// Open connections.
    pub max_connections: u32,
    /// Open connections of one source.
    pub source_connections: u32,
    /// Microseconds between two new connections of one source.
    pub source_interval: u32,
    /// How many new connections of one source may come at once.
    pub source_burst: u32,
    /// For how many ticks a client remains with its target after its last new
    /// connection.
    pub affinity: u32,
    /// The service's number.
    pub id: ServiceId,
    /// The number of its [`Algorithm`].
    pub algorithm: u8,
    /// What else there is to know.
    pub options: Options,
}

impl Service {
    /// How it picks a slot.
    #[inline(always)]
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        Algorithm::from_number(self.algorithm)
    }

    /// Whether single sources are limited.
    #[inline(always)]
    #[must_use]
    pub const fn limits_sources(&self) -> bool {
        self.source_connections != 0 || self.source_interval != 0
    }
}

/// How many entries SLOTS has at least, for all services together. The agent
/// makes it larger where the configuration asks for more.
pub const SLOTS_MIN: u32 = 1 << 20;

/// A source of connections to a service: the key of SOURCES and AFFINITIES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceKey<A> {
    /// The client's address.
    pub address: A,
    /// The service.
    pub service: ServiceId,
    reserved: u16,
}

impl<A: Address> SourceKey<A> {
    /// `address` as a source of connections to `service`.
    #[inline(always)]
    pub const fn new(address: A, service: ServiceId) -> Self {
        Self {
            address,
            service,
            reserved: 0,
        }
    }
}

/// What the key of PREFIXES, an LPM trie, consists of behind the number of
/// its leading bits that count: the service, and the clients' address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix<A> {
    /// The service's number, in network order: all of its bits count.
    service: u32,
    /// The address.
    address: A,
}

impl<A: Address> Prefix<A> {
    /// How many bits count for a single address.
    pub const HOST_BITS: u32 = Self::bits(size_of::<A>() as u32 * 8);

    /// Addresses like `address`, as clients of `service`.
    #[inline(always)]
    pub const fn new(service: ServiceId, address: A) -> Self {
        Self {
            service: (service.0 as u32).to_be(),
            address,
        }
    }

    /// The service.
    #[must_use]
    pub const fn service(&self) -> ServiceId {
        ServiceId(u32::from_be(self.service) as u16)
    }

    /// The address.
    pub const fn address(&self) -> A {
        self.address
    }

    /// How many bits count where `bits` of the address do.
    #[must_use]
    pub const fn bits(bits: u32) -> u32 {
        u32::BITS + bits
    }
}

/// The value of PREFIXES.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rule(pub u32);

impl Rule {
    /// New connections are refused.
    pub const DENY: Self = Self(0);
    /// New connections are welcome.
    pub const ALLOW: Self = Self(1);
}

/// How many entries PREFIXES has, for each family: while they change, old and
/// new ones are there.
pub const PREFIXES_CAPACITY: u32 = 2048;
