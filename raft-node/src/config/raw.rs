//! The command line, as the operator types it: each word is checked by itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use thiserror::Error;

use crate::cluster::{Member, NodeId};

/// A sample Raft cluster: a replicated key-value store with endpoints that tell a load balancer each node's role.
#[derive(Debug, Parser)]
#[command(name = "raft-node", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run one node of the cluster
    ///
    /// Reads are linearizable by default, on every node: a replica asks the leader how far the log is committed and answers when it has
    /// applied as much. `?consistency=lease` reads from the leader alone, without asking the others while they have confirmed it recently.
    /// `?consistency=eventual` reads what the node has, which may be old.
    ///
    /// Exit status: 0 after SIGTERM or SIGINT, 1 on any error, 2 on a wrong command line.
    Serve(ServeArgs),
    /// Read or write keys, or change who belongs to the cluster and who leads it, following the cluster's hints to its leader
    ///
    /// A put or delete whose outcome is unknown is sent again, so it may take effect twice. Exit status: 0 done, 1 not done or no such key,
    /// 2 on a wrong command line.
    Client(ClientArgs),
}

/// How to run one node.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// This node's number
    #[arg(long, value_name = "N")]
    pub id: NodeId,
    /// Directory for the log, the vote and the snapshot; created where missing
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// One node of the initial cluster, this one included; repeat for each
    #[arg(
        long = "peer",
        value_name = "ID=RAFT_ADDR,API_ADDR,HEALTH_ADDR",
        required = true
    )]
    pub peers: Vec<Peer>,
    /// Bind this IP instead of the one that this node's --peer names (the ports stay)
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Do not form a cluster: wait until an existing one adds this node
    #[arg(long)]
    pub join: bool,
    /// How often a leader speaks to its followers, and how long one message, with the write to disk that it asks for, may take: several
    /// times what the disk needs for an fsync
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = humantime::parse_duration)]
    pub heartbeat: Duration,
    /// Shortest wait before a node stands again that did not win, or never had a leader; those that lost one stand in turns instead
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = humantime::parse_duration)]
    pub election_min: Duration,
    /// Longest such wait; also how long a follower stays loyal to a silent leader
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = humantime::parse_duration)]
    pub election_max: Duration,
    /// How long a client waits for a quorum; then a write's outcome is unknown (504), a read is refused (503)
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub write_timeout: Duration,
    /// Snapshot after so many log entries, and forget the entries it covers
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_every: u64,
    /// How long to go on serving after SIGTERM while probes already see this node as not ready
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// How to write the log, which goes to stderr; RUST_LOG selects what
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How to talk to the cluster.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// Where to start: a node, or the load balancer in front of them; repeat for several
    #[arg(long = "endpoint", value_name = "http://IP:PORT", required = true)]
    pub endpoints: Vec<Endpoint>,
    /// How long to try
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub verb: ClientVerb,
}

/// What `raft-node client` can do.
#[derive(Debug, Subcommand)]
pub enum ClientVerb {
    /// One request.
    #[command(flatten)]
    Request(ClientRequest),
    /// Measure how many requests a second the endpoints answer; puts go to the leader, of etcd to the first
    ///
    /// It writes keys of its own, named bench-N.
    Bench(BenchArgs),
}

/// What a client can ask for.
#[derive(Debug, Subcommand)]
pub enum ClientRequest {
    /// Bind KEY to VALUE
    Put {
        /// The key
        key: String,
        /// The value
        value: String,
    },
    /// Print the value of KEY
    Get {
        /// The key
        key: String,
        /// How current the value must be
        #[arg(long, default_value = "linearizable")]
        consistency: Consistency,
    },
    /// Forget KEY
    Delete {
        /// The key
        key: String,
    },
    /// Print who belongs to the cluster, as the first node that answers knows it
    Members,
    /// Add a node, which was started with --join; done when it has caught up and votes
    Add {
        /// The new node
        #[arg(value_name = "ID=RAFT_ADDR,API_ADDR,HEALTH_ADDR")]
        member: Peer,
        /// Let it follow without a vote; add it again without this to let it vote
        #[arg(long)]
        learner: bool,
    },
    /// Remove a node; one that leads hands over first. Refused where too few of the others are up
    Remove {
        /// Its number
        id: NodeId,
    },
    /// Make another node the leader, without an election timeout
    Transfer {
        /// Which; without it, the voter that is the most up to date
        #[arg(long, value_name = "N")]
        to: Option<NodeId>,
    },
}

/// What to measure, and how.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; repeat for several [default: put, linearizable, eventual]
    #[arg(long = "workload", value_name = "WORKLOAD")]
    pub workloads: Vec<Workload>,
    /// How many clients have one request under way each
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub clients: usize,
    /// How long the values are
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub value_bytes: usize,
    /// How long one run takes
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How often to measure each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub runs: usize,
    /// What the endpoints speak
    #[arg(long, value_name = "API", default_value = "kv")]
    pub api: Api,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What clients do in a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Write.
    Put,
    /// Read linearizably.
    Linearizable,
    /// Read from the leader's lease.
    Lease,
    /// Read whatever a node has.
    Eventual,
}

impl Workload {
    /// What the rows call it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Linearizable => "get linearizable",
            Workload::Lease => "get lease",
            Workload::Eventual => "get eventual",
        }
    }
}

/// A protocol that a benchmark speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// This program's.
    Kv,
    /// etcd's, version 3, over gRPC.
    Etcd,
}

/// How current a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Includes every write acknowledged before the read; from any node, at the price of a round to the leader and its quorum.
    #[default]
    Linearizable,
    /// The same as long as clocks run at the same speed; from the leader only, without a round.
    Lease,
    /// What the node has applied so far; refused only by one that was removed.
    Eventual,
}

impl Consistency {
    /// The word in a query string.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Lease => "lease",
            Consistency::Eventual => "eventual",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// One node of the initial cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub id: NodeId,
    /// Its addresses.
    pub member: Member,
}

/// What is wrong with a `--peer`.
#[derive(Debug, Error)]
pub enum PeerError {
    /// Not of the form `ID=RAFT,API,HEALTH`.
    #[error(
        "expected ID=RAFT_ADDR,API_ADDR,HEALTH_ADDR, for example 1=10.0.0.11:9081,10.0.0.11:8081,10.0.0.11:10001"
    )]
    Shape,
    /// The part before `=` is no number.
    #[error("`{0}` is not a node number")]
    Id(String),
    /// One of the addresses is none.
    #[error("`{0}` is not an address of the form IP:PORT")]
    Address(String),
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let (id, addresses) = text.split_once('=').ok_or(PeerError::Shape)?;
        let id = id
            .parse()
            .map_err(|_not_a_number| PeerError::Id(id.to_owned()))?;
        let addresses: Vec<&str> = addresses.split(',').collect();
        let [raft, api, health] = addresses[..] else {
            return Err(PeerError::Shape);
        };
        let address = |text: &str| {
            text.parse::<SocketAddr>()
                .map_err(|_not_one| PeerError::Address(text.to_owned()))
        };
        Ok(Self {
            id,
            member: Member {
                raft: address(raft)?,
                api: address(api)?,
                health: address(health)?,
            },
        })
    }
}

/// A base address that a client starts from, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

/// What is wrong with an `--endpoint`.
#[derive(Debug, Error)]
#[error("expected http://IP:PORT or http://NAME:PORT")]
pub struct EndpointError;

impl Endpoint {
    /// The endpoint of a node's API address.
    pub fn of(api: SocketAddr) -> Self {
        Self(format!("http://{api}"))
    }

    /// Its host and port.
    pub fn authority(&self) -> &str {
        self.0.strip_prefix("http://").unwrap_or(&self.0)
    }

    /// The address of `path`, which starts with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: hyper::Uri = text.parse().map_err(|_invalid| EndpointError)?;
        let plain = uri.scheme_str() == Some("http")
            && uri.host().is_some()
            && matches!(uri.path(), "/" | "");
        if !plain || uri.query().is_some() {
            return Err(EndpointError);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}
