//! What the agent and the command line say to each other: the JSON bodies of
//! the admin API, version 1.
//!
//! Plain data. Times are milliseconds in fields that end in `_ms`; counters
//! are totals since the maps were created, which is longer than the agent has
//! lived where it adopted them. Fields may be added within a version, never
//! renamed or removed: a reader ignores what it does not know.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{
    Algorithm, Hook, Mode, PoolName, Route, Server, ServerName, ServiceName, word::words,
};

pub use crate::engine::Admin;

/// Where the API answers.
pub mod path {
    /// [`Status`](super::Status).
    pub const STATUS: &str = "/v1/status";
    /// [`Stats`](super::Stats).
    pub const STATS: &str = "/v1/stats";
    /// [`Flows`](super::Flows); the query is a [`FlowFilter`](super::FlowFilter).
    pub const FLOWS: &str = "/v1/flows";
    /// [`Reloaded`](super::Reloaded).
    pub const RELOAD: &str = "/v1/reload";
    /// [`Changed`](super::Changed); the body is a [`Change`](super::Change).
    pub const OVERRIDES: &str = "/v1/overrides";
    /// Those that are asked by GET, and change nothing.
    pub const READ: [&str; 3] = [STATUS, STATS, FLOWS];
    /// Those that are asked by POST.
    pub const CHANGE: [&str; 2] = [RELOAD, OVERRIDES];
}

/// What an agent means that does not tell a weight.
const fn weight() -> u32 {
    Server::WEIGHT
}

/// What an agent means that does not tell how warm a server is.
const fn warm() -> u32 {
    100
}

/// `GET /v1/status`: what the agent believes and does now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running agent.
    pub version: String,
    /// The NICs that the program is attached to: `eth0, eth1`.
    pub interface: String,
    /// How it is attached.
    pub hook: Hook,
    /// Process id of the agent.
    pub pid: u32,
    /// Since the agent started.
    pub uptime_ms: u64,
    /// By name.
    pub services: Vec<ServiceStatus>,
    /// By name.
    pub pools: Vec<PoolStatus>,
    /// Targets that get no new connections and have some still, which are reset
    /// at a deadline.
    #[serde(default)]
    pub draining: Vec<DrainingStatus>,
    /// What operators changed at run time, by pool and server.
    #[serde(default)]
    pub overrides: Vec<OverrideStatus>,
}

/// What is otherwise than in the configuration file, for one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideStatus {
    /// Name of the server's pool.
    pub pool: PoolName,
    /// Name of the server.
    pub server: ServerName,
    /// In words: `weight 5, drain`. `None`: nothing.
    pub what: Option<String>,
}

/// The connections that a target has left, until they are reset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainingStatus {
    /// The id that the kernel's tables use.
    pub id: u32,
    /// Name of the service; where it listened, if the configuration no longer
    /// has it.
    pub service: ServiceName,
    /// Name of the server; its address, if the configuration no longer has it.
    pub server: ServerName,
    /// Name of the server's pool. `None`: the configuration no longer has the
    /// service.
    #[serde(default)]
    pub pool: Option<PoolName>,
    /// Where the connections go.
    pub address: SocketAddr,
    /// How many are open.
    pub connections: u64,
    /// Until those that are open then are reset.
    pub reset_in_ms: u64,
}

/// One service, and where its connections go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name of the service.
    pub name: ServiceName,
    /// The VIP and port.
    pub listen: SocketAddr,
    /// Which servers it may use.
    pub route: Route,
    /// How one of them is chosen.
    pub algorithm: Algorithm,
    /// How segments reach its servers.
    #[serde(default)]
    pub mode: Mode,
    /// Name of its pool.
    pub pool: PoolName,
    /// Whether there is a target at all.
    pub state: ServiceState,
    /// The targets that new connections may be given, by server.
    pub targets: Vec<TargetStatus>,
}

words! {
    /// Whether a service takes connections.
    pub enum ServiceState {
        /// There is at least one target.
        Serving = "serving",
        /// There is none: new connections are refused with a RST.
        NoTarget = "no-target",
    }
}

/// One server as one service sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The id that the kernel's tables use.
    pub id: u32,
    /// Name of the server.
    pub server: ServerName,
    /// Where its connections go.
    pub address: SocketAddr,
    /// Open connections, as of the agent's last sweep over the flows.
    pub connections: u64,
}

/// One pool, and what its servers say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Name of the pool.
    pub name: PoolName,
    /// The server that is the leader by the rules of fencing, not just by its
    /// own claim.
    pub leader: Option<ServerName>,
    /// The leader's term, where the servers tell.
    pub term: Option<u64>,
    /// Why there is no leader although there should be one, or what else an
    /// operator must know.
    pub problem: Option<String>,
    /// Who told the cluster's members how long ago, or why nobody does. `None`:
    /// the servers are those of the file.
    #[serde(default)]
    pub members: Option<String>,
    /// In the order of the configuration, or of the list that is followed.
    pub servers: Vec<ServerStatus>,
}

/// One server, and its last check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Name of the server.
    pub name: ServerName,
    /// Where connections go.
    pub address: SocketAddr,
    /// Where probes go.
    pub check_address: SocketAddr,
    /// Its share of new connections, relative to the others'.
    #[serde(default = "weight")]
    pub weight: u32,
    /// Whether it serves only while no other server can.
    #[serde(default)]
    pub backup: bool,
    /// How much of its share it gets, in percent: less than 100 while it starts
    /// slowly.
    #[serde(default = "warm")]
    pub warmth: u32,
    /// By `rise` and `fall`.
    pub state: ServerState,
    /// What the server says of itself.
    pub role: Role,
    /// The term it last told.
    pub term: Option<u64>,
    /// `None` until the first check is done.
    pub check: Option<CheckStatus>,
    /// How long `state` has been what it is.
    pub since_ms: u64,
    /// How far behind the leader it last said to be, as it counts.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Whether that is too far for reads, by `max_lag`.
    #[serde(default)]
    pub lagging: bool,
    /// What its agent advises, or why that cannot be asked: `up 50%`. `None`:
    /// it has none.
    #[serde(default)]
    pub agent: Option<String>,
    /// Why it is what it is, and gets what it gets: one sentence each.
    #[serde(default)]
    pub why: Vec<String>,
}

words! {
    /// Whether a server may be used, in HAProxy's words.
    pub enum ServerState {
        /// It may be used.
        Up = "UP",
        /// Its checks fail, or none has been done.
        Down = "DOWN",
        /// It gets no new connections; the old ones may end.
        Drain = "DRAIN",
        /// An operator took it out.
        Maint = "MAINT",
    }
}

words! {
    /// What a server says of itself.
    #[derive(Default)]
    pub enum Role {
        /// The one that may write.
        Leader = "leader",
        /// It follows a leader, and may serve reads.
        Replica = "replica",
        /// It did not say, or nobody asked.
        #[default]
        Unknown = "unknown",
    }
}

/// The outcome of the last check of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// One of HAProxy's codes: `L4OK`, `L4CON`, `L4TOUT`, `L7OK`, `L7STS`,
    /// `L7TOUT`, `L7RSP`.
    pub code: String,
    /// What a human wants to know beyond the code: `503 Service Unavailable`.
    pub detail: String,
    /// How long the check took.
    pub took_ms: u64,
    /// How long ago it ended.
    pub ago_ms: u64,
}

/// `GET /v1/stats`: the kernel's counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// What became of the packets, by reason; reasons that never occurred
    /// included.
    pub verdicts: Vec<VerdictStats>,
    /// By name.
    pub services: Vec<ServiceStats>,
    /// By service, then server.
    pub targets: Vec<TargetStats>,
    /// How full the connection tables are.
    pub table: TableStats,
}

/// Packets that met one verdict for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictStats {
    /// `not-ours`, `no-target`, …: the data path's own list.
    pub reason: String,
    /// `pass`, `drop`, `transmit`, `redirect` or `reset`.
    pub action: String,
    /// Packets.
    pub packets: u64,
    /// Bytes on the wire, without the frame check sequence.
    pub bytes: u64,
}

/// Connections of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// Name of the service.
    pub service: ServiceName,
    /// The VIP and port.
    pub listen: SocketAddr,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused: no target, no port, no room.
    pub refused: u64,
}

/// Traffic of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStats {
    /// Name of the service.
    pub service: ServiceName,
    /// Name of the server.
    pub server: ServerName,
    /// The id that the kernel's tables use.
    pub id: u32,
    /// Connections that are open now.
    pub open: u64,
    /// Connections that were ever given to it.
    pub connections: u64,
    /// Packets from clients to the server.
    pub packets_in: u64,
    /// Bytes from clients to the server.
    pub bytes_in: u64,
    /// Packets from the server to clients.
    pub packets_out: u64,
    /// Bytes from the server to clients.
    pub bytes_out: u64,
    /// Connections that the server refused.
    pub refused: u64,
}

/// How full the connection tables are. A connection takes two flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableStats {
    /// Flows of established connections.
    pub flows: u64,
    /// Room for such flows.
    pub flows_max: u64,
    /// Flows of connections whose handshake is not finished.
    #[serde(default)]
    pub pending: u64,
    /// Room for such flows.
    pub pending_max: u64,
}

/// `GET /v1/flows`: the connection table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// One entry per connection, at most `limit`.
    pub flows: Vec<FlowStatus>,
    /// How many connections met the filter.
    pub total: u64,
    /// Whether some of them were left off.
    pub truncated: bool,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Name of the service; where it listens, if the configuration no longer has
    /// it.
    pub service: ServiceName,
    /// The client.
    pub client: SocketAddr,
    /// What the client connected to.
    pub vip: SocketAddr,
    /// What the server sees as its peer.
    pub snat: SocketAddr,
    /// Where the connection goes.
    pub server: SocketAddr,
    /// The server's name; its address where the configuration no longer has it.
    pub server_name: ServerName,
    /// State of the connection as the data path tracks it.
    pub state: String,
    /// Since the last segment in either direction.
    pub idle_ms: u64,
}

/// Which connections come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowOrder {
    /// By the client's address.
    #[default]
    Client,
    /// Those that have been idle longest.
    Idle,
}

/// Which connections `GET /v1/flows` lists: the parameters of its query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Only this service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Only this server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerName>,
    /// Only those of clients with such addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpNet>,
    /// Which come first.
    #[serde(default)]
    pub sort: FlowOrder,
    /// How many at most; [`FlowFilter::LIMIT`] where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl FlowFilter {
    /// Unless the query says otherwise.
    pub const LIMIT: usize = 1000;

    /// How many connections to list at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(Self::LIMIT)
    }
}

/// `POST /v1/reload`: what the configuration that is in force now has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// How many services.
    pub services: usize,
    /// How many pools.
    pub pools: usize,
    /// How many servers, in all pools.
    pub servers: usize,
}

/// What `POST /v1/overrides` changes: its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "lowercase", deny_unknown_fields)]
pub enum Change {
    /// Another weight.
    Weight {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// 1 to 256.
        weight: u32,
    },
    /// What the server is to be used for; `ready` takes back what was said
    /// before.
    State {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// `ready`, `drain` or `maint`.
        state: Admin,
        /// With `drain`: how long the connections that it has may go on; where
        /// it is not given, as long as the service says.
        #[serde(default)]
        deadline_ms: Option<u64>,
    },
    /// A server that the file does not have.
    Add {
        /// The pool.
        pool: PoolName,
        /// The server's name.
        server: ServerName,
        /// Where connections go.
        address: SocketAddr,
        /// 1 to 256.
        #[serde(default)]
        weight: Option<u32>,
        /// Where it is checked, if not where the pool's others are.
        #[serde(default)]
        check_port: Option<u16>,
        /// Open connections at a time.
        #[serde(default)]
        max_connections: Option<u32>,
    },
    /// A server is not there any more.
    Remove {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
    },
    /// As in the file again: one server, those of a pool, or all.
    Clear {
        /// The pool. `None`: all.
        #[serde(default)]
        pool: Option<PoolName>,
        /// The server. `None`: all of the pool.
        #[serde(default)]
        server: Option<ServerName>,
    },
}

/// `POST /v1/overrides`: the overrides of the servers that were changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// By pool and server.
    pub servers: Vec<OverrideStatus>,
}

/// The body of every answer that is not 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, in one line; with status 422, in a line for each problem.
    pub error: String,
}
