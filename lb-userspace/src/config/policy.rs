//! What a service does with a connection, in the words of the configuration:
//! which servers it may use, how it chooses among them, how segments get
//! there, and whom it refuses.

use super::word::words;

words! {
    /// Which servers of the pool a service may use.
    pub enum Route {
        /// The one leader, or nobody.
        Leader = "leader",
        /// The replicas.
        Replicas = "replicas",
        /// The replicas; the leader only where no replica is UP.
        ReplicasFirst = "replicas-first",
        /// Every server that is UP, whatever its role.
        Any = "any",
    }
}

words! {
    /// How one of several usable servers is chosen for a new connection.
    pub enum Algorithm {
        /// Consistent hashing of the client's and the service's address and
        /// port: equal tables give equal answers, on every balancer.
        Maglev = "maglev",
        /// Consistent hashing of the client's address alone.
        SourceHash = "source-hash",
        /// One after the other.
        RoundRobin = "round-robin",
        /// By lot.
        Random = "random",
        /// The one of two drawn by lot that has fewer open connections.
        LeastConnections = "least-connections",
        /// The one of two drawn by lot that finishes handshakes sooner.
        LeastLatency = "least-latency",
    }
}

impl Algorithm {
    /// Whether the table is one of consistent hashing; else it is a sequence
    /// that holds each server as often as its weight says.
    #[must_use]
    pub const fn hashes(self) -> bool {
        match self {
            Self::Maglev | Self::SourceHash => true,
            Self::RoundRobin | Self::Random | Self::LeastConnections | Self::LeastLatency => false,
        }
    }
}

words! {
    /// How the segments of a connection reach its server.
    #[derive(Default)]
    pub enum Mode {
        /// Both addresses and ports are translated: works with any server.
        #[default]
        Nat = "nat",
        /// The server listens on the balancer's own host.
        Local = "local",
        /// Only the Ethernet addresses change; the server holds the VIP, and
        /// answers clients directly.
        Dsr = "dsr",
        /// In another IP header; the server holds the VIP behind a tunnel,
        /// and answers clients directly.
        Ipip = "ipip",
    }
}

impl Mode {
    /// Whether a server may have another port than its service.
    #[must_use]
    pub const fn translates_ports(self) -> bool {
        match self {
            Self::Nat | Self::Local => true,
            Self::Dsr | Self::Ipip => false,
        }
    }
}

words! {
    /// What becomes of a new connection that cannot be served.
    #[derive(Default)]
    pub enum Refusal {
        /// The client is told at once, by a RST.
        #[default]
        Reset = "reset",
        /// The SYN is dropped: the client tries again by itself, 1 s later.
        Drop = "drop",
    }
}

words! {
    /// Whether clients of a prefix may connect.
    pub enum Access {
        /// They may.
        Allow = "allow",
        /// They may not.
        Deny = "deny",
    }
}

words! {
    /// What becomes of the connections to a server that lost its role.
    pub enum OnChange {
        /// Both ends are reset at once, idle connections too.
        Reset = "reset",
        /// No new connections; the old ones may end within `drain_timeout`, then
        /// they are reset.
        Drain = "drain",
        /// No new connections; the old ones live on until they end.
        Keep = "keep",
    }
}

words! {
    /// What becomes of the connections to a server that is DOWN or in MAINT.
    pub enum OnDown {
        /// Both ends are reset at once, idle connections too.
        Reset = "reset",
        /// No new connections; the old ones may end within `drain_timeout`, then
        /// they are reset.
        Drain = "drain",
        /// No new connections; the old ones live on until they end.
        Keep = "keep",
    }
}

/// How much one client address may ask of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// New connections. `None`: without limit.
    pub rate: Option<Rate>,
    /// Connections open at a time. `None`: without limit.
    pub connections: Option<u32>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// New connections per second, in the long run.
    pub per_second: u32,
    /// New connections at once, after a pause.
    pub burst: u32,
}
