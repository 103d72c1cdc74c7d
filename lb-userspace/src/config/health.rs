//! How servers are found to be UP or DOWN, and how they tell their role: the
//! model. `check` and `role` read it from the file.

use std::time::Duration;

use super::expect::{Condition, JsonTest, Pattern, Place};
use super::word::words;

/// How a server is found to be UP or DOWN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked, and which answer is good.
    pub kind: CheckKind,
    /// The port of all of the pool's servers that do not name their own.
    /// `None`: the port that the server serves on.
    pub port: Option<u16>,
    /// Whether a server whose check port is another than its service port has
    /// to accept connections on that one too. Default true.
    pub service_port: bool,
    /// From the start of one probe to the start of the next. Default 1 s.
    pub interval: Duration,
    /// The same, while a server is between UP and DOWN, or its pool has no
    /// leader. Default: a quarter of the interval, within 20 to 100 ms.
    pub fast_interval: Duration,
    /// The same, while a server is DOWN. Default: the interval.
    pub down_interval: Duration,
    /// A probe without an answer by then has failed. Default: the interval.
    pub timeout: Duration,
    /// Consecutive good answers that make a DOWN server UP. Default 2.
    pub rise: u32,
    /// Consecutive failures that make an UP server DOWN. Default 3.
    pub fall: u32,
    /// What a server is taken for before its first check. Default `down`.
    pub init_state: InitState,
    /// How servers with an agent are asked.
    pub agent: AgentCheck,
    /// Whether what becomes of clients' connections counts.
    pub observe: Observe,
    /// When a server whose clients' connections fail is left alone.
    pub breaker: Breaker,
}

impl Check {
    /// `interval` unless the file says otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(1);
    /// `rise` unless the file says otherwise.
    pub const RISE: u32 = 2;
    /// `fall` unless the file says otherwise.
    pub const FALL: u32 = 3;

    /// `fast_interval` unless the file says otherwise.
    #[must_use]
    pub fn fast_interval_of(interval: Duration) -> Duration {
        let quarter = interval / 4;
        let fast = quarter.clamp(Duration::from_millis(20), Duration::from_millis(100));
        fast.min(interval)
    }

    /// A check of this kind, all else as it is where the file says nothing.
    #[must_use]
    pub fn with_defaults(kind: CheckKind) -> Self {
        Self {
            kind,
            port: None,
            service_port: true,
            interval: Self::INTERVAL,
            fast_interval: Self::fast_interval_of(Self::INTERVAL),
            down_interval: Self::INTERVAL,
            timeout: Self::INTERVAL,
            rise: Self::RISE,
            fall: Self::FALL,
            init_state: InitState::Down,
            agent: AgentCheck::default(),
            observe: Observe::None,
            breaker: Breaker::default(),
        }
    }

    /// The longest time from the start of a probe to the start of the next.
    #[must_use]
    pub fn longest_interval(&self) -> Duration {
        self.interval
            .max(self.fast_interval)
            .max(self.down_interval)
    }
}

/// What is asked of a server, and which answer is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// The port accepts a connection, and what is sent is answered.
    Tcp {
        /// What to say first. Empty: nothing.
        send: Vec<u8>,
        /// What the answer has to contain. `None`: no answer is waited for.
        expect: Option<Pattern>,
    },
    /// The port answers an HTTP request.
    Http {
        /// How `path` is asked for.
        method: Method,
        /// `None`: the role is the check, and the server is UP when it has
        /// one.
        path: Option<String>,
        /// The good answers to `path`. Default 200 to 299: a redirect says
        /// nothing about the server's health.
        expect_status: Vec<StatusRange>,
        /// What the body has to contain.
        expect_body: Option<Pattern>,
        /// What the body's JSON has to say.
        json: Option<JsonTest>,
    },
}

impl CheckKind {
    /// The port accepts a connection, and that is all.
    pub const CONNECT: Self = Self::Tcp {
        send: Vec::new(),
        expect: None,
    };

    /// A GET of `path` is answered with 200 to 299.
    #[must_use]
    pub fn get(path: Option<String>) -> Self {
        Self::Http {
            method: Method::Get,
            path,
            expect_status: vec![StatusRange::SUCCESS],
            expect_body: None,
            json: None,
        }
    }
}

words! {
    /// How a page is asked for.
    #[derive(Default)]
    pub enum Method {
        /// With its body.
        #[default]
        Get = "GET",
        /// Without.
        Head = "HEAD",
    }
}

words! {
    /// What a server is taken for before its first check, in HAProxy's words.
    #[derive(Default)]
    pub enum InitState {
        /// UP; `fall` failures make it DOWN.
        FullyUp = "fully-up",
        /// UP; the first check decides.
        Up = "up",
        /// Not to be used; the first check decides.
        #[default]
        Down = "down",
        /// DOWN; `rise` good answers make it UP.
        FullyDown = "fully-down",
    }
}

words! {
    /// What of the clients' connections counts, in HAProxy's words.
    #[derive(Default)]
    pub enum Observe {
        /// Nothing.
        #[default]
        None = "none",
        /// Connections that the server refused or did not answer.
        Layer4 = "layer4",
    }
}

/// How the agents beside servers are asked: HAProxy's agent check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentCheck {
    /// The port of all agents that their servers do not name. `None`: those
    /// servers have none.
    pub port: Option<u16>,
    /// What to say first. Empty: nothing.
    pub send: Vec<u8>,
    /// From the start of one request to the start of the next. `None`: the
    /// check's interval.
    pub interval: Option<Duration>,
}

/// When a server is left alone because clients' connections to it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures within `error_window` open the circuit.
    pub error_limit: u32,
    /// How long a failure counts.
    pub error_window: Duration,
    /// How long the circuit stays open before probes may close it.
    pub open_time: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            error_limit: 5,
            error_window: Duration::from_secs(10),
            open_time: Duration::from_secs(60),
        }
    }
}

/// HTTP status codes from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// At least 100.
    pub first: u16,
    /// At most 599, and not below `first`.
    pub last: u16,
}

impl StatusRange {
    /// 200 to 299.
    pub const SUCCESS: Self = Self {
        first: 200,
        last: 299,
    };

    /// Whether `status` is one of these codes.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

/// How a server tells its role, and what else it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleCheck {
    /// Where its role comes from.
    pub source: RoleSource,
    /// Its term. `None`: `/term` of JSON, or the header `X-Raft-Term`.
    pub term: Option<Place>,
    /// Whom it takes for the leader. `None`: `/leader`, or `X-Raft-Leader`.
    pub leader_node: Option<Place>,
    /// Its own node id. `None`: `/id`, or `X-Raft-Node`.
    pub node: Option<Place>,
    /// How far behind the leader it is. `None`: `/lag`, or `X-Raft-Lag`.
    pub lag: Option<Place>,
    /// A replica that is further behind, or does not tell, is not read from.
    /// `None`: all are.
    pub max_lag: Option<u64>,
    /// A page without end: a line of JSON for each change.
    pub watch: Option<String>,
}

impl RoleCheck {
    /// The first of two paths that answers 200.
    #[must_use]
    pub fn by_paths(leader: &str, replica: &str) -> Self {
        Self {
            source: RoleSource::Paths {
                leader: leader.to_owned(),
                replica: replica.to_owned(),
            },
            term: None,
            leader_node: None,
            node: None,
            lag: None,
            max_lag: None,
            watch: None,
        }
    }
}

/// Where a server's role comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleSource {
    /// Paths on the check port that answer 200 while the server has the role.
    Paths {
        /// 200 while the server is the one that may write: `/primary`.
        leader: String,
        /// 200 while the server may serve reads: `/replica`.
        replica: String,
    },
    /// One answer: a page, or what a tcp check has sent for.
    Answer {
        /// `None`: the answer to the tcp check.
        page: Option<Page>,
        /// It is the leader's answer. Looked at first.
        leader: Condition,
        /// It is a replica's.
        replica: Condition,
    },
}

/// A page that tells the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its path on the check port.
    pub path: String,
    /// Asked for by POST with this body, which is JSON. `None`: by GET.
    pub post: Option<String>,
}
