//! What a node counts, in Prometheus' text format. Gauges are read from the node when they are asked for.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::node::Report;
use crate::role::Role;

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `POST /kv`
    Put,
    /// `GET /kv/{key}`
    Get,
    /// `DELETE /kv/{key}`
    Delete,
}

impl EncodeLabelValue for Verb {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let name = match self {
            Verb::Put => "put",
            Verb::Get => "get",
            Verb::Delete => "delete",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Done.
    Ok,
    /// No such key.
    NotFound,
    /// The request does not make sense.
    Malformed,
    /// This node cannot; another can, or soon will.
    NotLeader,
    /// No quorum answered in time.
    Unknown,
}

impl EncodeLabelValue for Fate {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let name = match self {
            Fate::Ok => "ok",
            Fate::NotFound => "not_found",
            Fate::Malformed => "malformed",
            Fate::NotLeader => "not_leader",
            Fate::Unknown => "unknown",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: Verb,
    result: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabels {
    role: &'static str,
}

/// The counters and gauges of one node.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    write_seconds: Histogram,
    role: Family<RoleLabels, Gauge>,
    term: Gauge<u64, AtomicU64>,
    last_applied: Gauge<u64, AtomicU64>,
    lag: Gauge<u64, AtomicU64>,
    keys: Gauge<u64, AtomicU64>,
    quorum_age_seconds: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("raft_node");
        let requests = Family::default();
        registry.register("requests", "Requests of clients", requests.clone());
        // 100 µs to 3.3 s
        let write_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        let help = "Time from a write's arrival to its acknowledgement by a quorum";
        registry.register_with_unit("write_duration", help, Unit::Seconds, write_seconds.clone());
        let role = Family::default();
        registry.register(
            "role",
            "1 for the role that this node can prove, 0 for the others",
            role.clone(),
        );
        let term = Gauge::default();
        registry.register("term", "Current term", term.clone());
        let last_applied = Gauge::default();
        registry.register(
            "last_applied_index",
            "Last log entry in the state machine",
            last_applied.clone(),
        );
        let lag = Gauge::default();
        registry.register(
            "lag_entries",
            "Committed log entries still to be applied",
            lag.clone(),
        );
        let keys = Gauge::default();
        registry.register("keys", "Keys that hold a value", keys.clone());
        let quorum_age_seconds = Gauge::<f64, AtomicU64>::default();
        let help = "Time since a quorum last confirmed this leader, NaN elsewhere";
        registry.register_with_unit(
            "quorum_age",
            help,
            Unit::Seconds,
            quorum_age_seconds.clone(),
        );
        Self {
            registry,
            requests,
            write_seconds,
            role,
            term,
            last_applied,
            lag,
            keys,
            quorum_age_seconds,
        }
    }

    /// Counts one request of a client.
    pub fn count(&self, verb: Verb, result: Fate) {
        self.requests
            .get_or_create(&RequestLabels { verb, result })
            .inc();
    }

    /// Notes how long an acknowledged write took.
    pub fn observe_write(&self, took: Duration) {
        self.write_seconds.observe(took.as_secs_f64());
    }

    /// The text of one scrape of a node that says `report` of itself and holds `keys` keys.
    pub fn scrape(&self, report: &Report, keys: usize) -> String {
        for role in [Role::Leader, Role::Replica, Role::Unknown] {
            let gauge = self.role.get_or_create(&RoleLabels { role: role.name() });
            gauge.set(i64::from(role == report.role));
        }
        self.term.set(report.term);
        self.last_applied.set(report.last_applied);
        self.lag.set(report.lag);
        self.keys.set(keys as u64);
        self.quorum_age_seconds.set(
            report
                .quorum_age_ms
                .map_or(f64::NAN, |age| age as f64 / 1000.0),
        );
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
