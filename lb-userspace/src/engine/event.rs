//! What the engine is told: one closed enum.
//!
//! Events are facts that the shell observed, never orders. A new source of
//! knowledge becomes a new variant here, and the compiler names every place
//! that has to know it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::target::{Hop, TargetId};

pub use crate::api::Role;
use crate::config::{Config, Member, PoolName, ServerName};
pub use crate::engine::advice::AgentReport;
use crate::engine::health::Evidence;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A check of a server ended.
    Checked {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// What the check found.
        report: CheckReport,
    },
    /// The way to an address is known, has changed, or is lost (`None`). Until
    /// it is known, servers at the address get no connections.
    Resolved {
        /// The address of one or more servers.
        server: IpAddr,
        /// The way there.
        route: Option<NextHop>,
    },
    /// A server told by itself what it is, or does so no longer.
    Watched {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// What was heard.
        report: WatchReport,
    },
    /// The agent beside a server answered, or did not: the reason.
    Advised {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// What it said.
        report: Result<AgentReport, String>,
    },
    /// A client's connection to a server failed, as the kernel saw it.
    BackendFailed {
        /// The target whose server it was.
        id: TargetId,
        /// How.
        failure: BackendFailure,
    },
    /// A walk over all connections ended.
    Swept {
        /// How many connections hold a target, half-open, finished and stale
        /// ones included. A target that is not named has none.
        open: BTreeMap<TargetId, u64>,
    },
    /// A pool's leader told who the cluster's members are, or did not: the
    /// reason.
    Listed {
        /// The server's pool.
        pool: PoolName,
        /// The server.
        server: ServerName,
        /// What it told.
        report: Result<Vec<Member>, String>,
    },
    /// The configuration is another one from now on. The shell probes the
    /// servers that it names, and follows the ways to them.
    Configured {
        /// All of it.
        config: Box<Config>,
    },
    /// Time passed. Due every [`TICK`](crate::engine::TICK).
    Tick,
}

/// How a client's connection to a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendFailure {
    /// The server answered the SYN with a RST.
    Refused,
    /// The client sent its SYN again, and the server had not answered.
    Unanswered,
}

/// What was heard on a server's watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchReport {
    /// A line: what the server says of itself now.
    Line(RoleClaim),
    /// There is none any more, or never was: the reason.
    Lost(String),
}

/// How packets reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The Ethernet addresses to send to and from, and the NIC to send by.
    pub hop: Hop,
    /// The largest IP packet that fits the way, in bytes.
    pub mtu: u16,
    /// The address that the server sees as its client's, where the
    /// configuration names none of its family.
    pub snat: IpAddr,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckReport {
    /// How the check ended.
    pub outcome: Outcome,
    /// What a human wants to know beyond the outcome's code.
    pub detail: String,
    /// What the server said of itself; `None` where it was not asked or did
    /// not answer.
    pub role: Option<RoleClaim>,
    /// When it began: what was said before by other ways is older than the
    /// answer, however long the report then waited for us.
    pub began: Instant,
    /// From the first SYN to the end.
    pub took: Duration,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The connection was accepted, and that was the whole check.
    Connected,
    /// The answer is one that was expected.
    Answered,
    /// The connection was refused: nothing listens there.
    Refused,
    /// No connection came about for another reason than time, such as no
    /// route or no file descriptor.
    Unconnected,
    /// No connection came about in time.
    ConnectTimeout,
    /// The answer has a status that was not expected.
    Status,
    /// The answer does not say what it has to say.
    Content,
    /// No complete answer came in time.
    AnswerTimeout,
    /// What came is no answer of its protocol, or no whole one.
    Garbage,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = &[
        Self::Connected,
        Self::Answered,
        Self::Refused,
        Self::Unconnected,
        Self::ConnectTimeout,
        Self::Status,
        Self::Content,
        Self::AnswerTimeout,
        Self::Garbage,
    ];

    /// HAProxy's code for the outcome: what operators know.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Connected => "L4OK",
            Self::Answered => "L7OK",
            Self::Refused | Self::Unconnected => "L4CON",
            Self::ConnectTimeout => "L4TOUT",
            Self::Status => "L7STS",
            Self::AnswerTimeout => "L7TOUT",
            Self::Content | Self::Garbage => "L7RSP",
        }
    }

    /// Whether the check passed.
    #[must_use]
    pub const fn passed(self) -> bool {
        matches!(self, Self::Connected | Self::Answered)
    }

    /// What the outcome says about the server's health.
    ///
    /// Only a refusal is conclusive: it comes from the server's own kernel,
    /// and a process that listens does not cause it. A reset in the middle of
    /// an answer may be one worker's death.
    #[must_use]
    pub const fn evidence(self) -> Evidence {
        match self {
            Self::Connected | Self::Answered => Evidence::Passed,
            Self::Refused => Evidence::Conclusive,
            Self::Unconnected
            | Self::ConnectTimeout
            | Self::Status
            | Self::Content
            | Self::AnswerTimeout
            | Self::Garbage => Evidence::Failed,
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleClaim {
    /// By which of the role paths answered 200, or whose condition the answer
    /// meets; `Unknown`: neither.
    pub role: Role,
    /// The term that the server is in, where it tells.
    pub term: Option<u64>,
    /// Whom it takes for the leader, in its own words: a node id, as a rule.
    pub leader: Option<String>,
    /// Its own node id, where it tells.
    pub node: Option<String>,
    /// How far behind the leader it is, where it tells: in entries, bytes or
    /// seconds, as servers count.
    pub lag: Option<u64>,
}
