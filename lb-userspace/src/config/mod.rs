//! The validated configuration: plain data that the engine and the shell can
//! trust without looking twice.
//!
//! A value of [`Config`] that came from a file keeps every rule of
//! `docs/operations.md`: names resolve, addresses can be steered to, listeners
//! are unique, durations are in range, and everything fits the kernel's
//! tables. This module never reads anything but the one file it is given; what
//! the command line overrides is applied by `cli`.

mod check;
mod discover;
mod expect;
mod file;
mod health;
mod name;
mod overrides;
mod policy;
mod pool;
mod problem;
mod raw;
mod role;
pub mod room;
mod rules;
mod service;
mod syntax;
pub(crate) mod value;
pub(crate) mod word;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use ipnet::IpNet;

pub use discover::{Discover, MEMBERS_MAX, Member, Template};
pub use expect::{Answered, Condition, Expected, JsonTest, Pattern, Place};
pub use health::{
    AgentCheck, Breaker, Check, CheckKind, InitState, Method, Observe, Page, RoleCheck, RoleSource,
    StatusRange,
};
pub use name::{NAME_LENGTH_MAX, PoolName, ServerName, ServiceName, well_formed};
pub use overrides::{Clock, Name, Override, Overrides};
pub use policy::{Access, Algorithm, Mode, OnChange, OnDown, Rate, Refusal, Route, SourceLimits};
pub use problem::{LoadError, Problem};
use word::words;

/// Everything that one agent does.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The NICs to attach to. Empty: the command line has to name them.
    pub interfaces: Vec<String>,
    /// Where in the kernel the program is attached.
    pub hook: Hook,
    /// Who has the VIPs in hand.
    pub vips: Vips,
    /// What becomes of the data path when the agent is told to stop.
    pub on_stop: OnStop,
    /// The sizes of the kernel's connection tables.
    pub limits: Limits,
    /// How long the kernel's connection tables remember.
    pub timeouts: Timeouts,
    /// What the servers see as the source of a connection.
    pub snat: Snat,
    /// The named sets of servers.
    pub pools: BTreeMap<PoolName, Pool>,
    /// What clients connect to. Never empty.
    pub services: BTreeMap<ServiceName, Service>,
}

words! {
    /// Where in the kernel the program is attached. Never changed silently: a
    /// driver without native XDP is an error, not a fallback.
    pub enum Hook {
        /// The best of the others that the driver has; the agent says which,
        /// and why.
        Auto = "auto",
        /// In the driver, before a socket buffer exists. The fast path.
        XdpNative = "xdp-native",
        /// In the stack's receive path, for drivers without native XDP.
        XdpGeneric = "xdp-generic",
        /// At TC ingress: the quickest on virtual links.
        Tc = "tc",
    }
}

words! {
    /// Who adds the VIPs to the host, announces them and takes them away.
    #[derive(Default)]
    pub enum Vips {
        /// The agent, for as long as it runs.
        #[default]
        Managed = "managed",
        /// Something else that decides which of several balancers has them:
        /// keepalived, a routing daemon. What arrives for them is steered
        /// whether the host has them or not.
        External = "external",
    }
}

words! {
    /// What becomes of the data path when the agent is told to stop.
    #[derive(Default)]
    pub enum OnStop {
        /// It goes with the agent, and every connection with it.
        #[default]
        Detach = "detach",
        /// It goes on with what it knows, for the next agent to adopt: an
        /// upgrade.
        Leave = "leave",
    }
}

/// The sizes of the kernel's connection tables, fixed while the maps live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Established connections. One more is refused; none is ever evicted.
    pub connections: u32,
    /// Connections whose handshake is not finished. The oldest give way.
    pub half_open: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 131_072,
            half_open: 16_384,
        }
    }
}

/// How long the kernel's connection tables remember a connection that is not
/// open. A service's `idle_timeout` is for those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A handshake that nobody goes on with. Linux gives up on a SYN after
    /// 127 s.
    pub half_open: Duration,
    /// A connection that the client closed first: for stragglers.
    pub fin: Duration,
    /// A connection that was reset. The RST may have been a forgery that both
    /// ends ignore; whoever goes on talking is not forgotten.
    pub reset: Duration,
    /// A connection that the server closed first: as long as Linux keeps
    /// TIME_WAIT, for its source port serves nobody else meanwhile.
    pub rest: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            half_open: Duration::from_secs(130),
            fin: Duration::from_secs(10),
            reset: Duration::from_secs(10),
            rest: Duration::from_secs(60),
        }
    }
}

/// The source addresses and ports of the connections towards the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// In the order of the file, of either family. None of a family: what the
    /// host itself would use towards the server.
    pub addresses: Vec<IpAddr>,
    /// Source ports. The default lies below Linux's ephemeral range (32768 to
    /// 60999), so that the balancer's host can open connections of its own.
    pub ports: RangeInclusive<u16>,
}

impl Default for Snat {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: 1024..=32_767,
        }
    }
}

/// A named set of servers, and how they are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The pool's name: `kv` in `[pool.kv]`.
    pub name: PoolName,
    /// How the servers are found to be UP or DOWN.
    pub check: Check,
    /// How a server is asked for its role.
    pub role: Option<RoleCheck>,
    /// How long a server that comes back takes to get its whole share of new
    /// connections. `None`: it gets it at once.
    pub slow_start: Option<Duration>,
    /// Where the cluster's own list of members is. `None`: the servers are
    /// those of the file.
    pub discover: Option<Discover>,
    /// In the order of the file. Never empty; names and addresses are unique.
    pub servers: Vec<Server>,
}

/// One backend node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Unique in its pool.
    pub name: ServerName,
    /// Where clients' connections go.
    pub address: SocketAddr,
    /// Where probes go.
    pub check_address: SocketAddr,
    /// Where its agent is asked for weight and state. `None`: it has none.
    pub agent_address: Option<SocketAddr>,
    /// Its share of new connections, relative to the others'. Default 1.
    pub weight: u32,
    /// Open connections at a time, for each service that uses the server.
    /// `None`: without limit.
    pub max_connections: Option<u32>,
    /// Whether it serves only while no other server can.
    pub backup: bool,
    /// What it is to be used for, by an operator's word at run time.
    pub duty: Duty,
}

/// What a server is to be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// For whatever its checks and its agent allow. The file says nothing else.
    #[default]
    Ready,
    /// For no new connections.
    Drain {
        /// Since when.
        since: Instant,
        /// How long from then on those that it has may go on. `None`: the
        /// service's `drain_timeout`.
        deadline: Option<Duration>,
    },
    /// For nothing.
    Maint,
}

impl Server {
    /// Unless the file says otherwise.
    pub const WEIGHT: u32 = 1;

    /// One of which nothing is said but where it is, and where it is asked.
    #[must_use]
    pub fn at(
        name: ServerName,
        address: SocketAddr,
        check_port: Option<u16>,
        agent_port: Option<u16>,
    ) -> Self {
        Self {
            name,
            address,
            check_address: SocketAddr::new(address.ip(), check_port.unwrap_or(address.port())),
            agent_address: agent_port.map(|port| SocketAddr::new(address.ip(), port)),
            weight: Self::WEIGHT,
            max_connections: None,
            backup: false,
            duty: Duty::Ready,
        }
    }
}

/// A VIP and port that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's name: `kv-write` in `[service.kv-write]`.
    pub name: ServiceName,
    /// Unique among the services, and never the address of a server.
    pub listen: SocketAddr,
    /// A key of [`Config::pools`].
    pub pool: PoolName,
    /// Which servers of the pool the service may use. All routes but `any`
    /// need a pool with roles.
    pub route: Route,
    /// How one of the usable servers is chosen. Unused by `leader`, where
    /// there is no choice.
    pub algorithm: Algorithm,
    /// How long a client that comes back goes to the same server, whatever
    /// became of the table. `Some` only with `source-hash`.
    pub affinity: Option<Duration>,
    /// How segments reach the servers.
    pub mode: Mode,
    /// Open connections at a time. `None`: without limit.
    pub max_connections: Option<u32>,
    /// What becomes of a new connection while there is no target. Default
    /// `reset`.
    pub on_no_target: Refusal,
    /// The same, while all targets, the service or the tables are full.
    pub on_full: Refusal,
    /// How much one client address may ask.
    pub source: SourceLimits,
    /// Who may connect: the longest prefix that matches decides. All of the
    /// service's family.
    pub rules: BTreeMap<IpNet, Access>,
    /// What becomes of the connections to a server that lost the role which
    /// the route asks for. Default: `reset` for `leader`, else `keep`.
    pub on_change: OnChange,
    /// What becomes of the connections to a server that is DOWN. Default
    /// `reset`.
    pub on_down: OnDown,
    /// How long connections to a server that is to be left may go on before
    /// they are reset.
    pub drain_timeout: Duration,
    /// A connection without a segment for so long is forgotten. Default 350 s,
    /// the value that users of network load balancers know.
    pub idle_timeout: Duration,
}

impl Service {
    /// Unless the file says otherwise.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(350);

    /// The same.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// What becomes of clients that no rule matches; `None`: there are no
    /// rules. Whoever names some that are allowed means no others.
    #[must_use]
    pub fn unmatched(&self) -> Option<Access> {
        let mut rules = self.rules.values();
        let default = match rules.any(|&access| access == Access::Allow) {
            true => Access::Deny,
            false => Access::Allow,
        };
        (!self.rules.is_empty()).then_some(default)
    }
}
