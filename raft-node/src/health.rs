//! What probes ask a node, on the health port. GET, HEAD and OPTIONS; 200 for yes, 503 for no; nothing here waits for another node.
//!
//! | path | 200 while |
//! |---|---|
//! | `/primary` | it leads: confirmed by a quorum within the election timeout, and everything acknowledged before is applied |
//! | `/replica[?lag=N]` | it heard from the current leader lately, and lags by at most N entries |
//! | `/ready` | either of the two |
//! | `/health`, `/live` | its Raft runs; its storage works |
//! | `/health/detailed` | the same, with members and log positions |
//! | `/metrics` | always: Prometheus text |
//! | `/members` | always: who belongs to the cluster, see [`crate::membership`] |
//! | `/watch` | always: a line per change, see [`crate::watch`] |
//!
//! The body is [`Report`] as JSON; the headers `X-Raft-…` say the same.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::membership;
use crate::node::{Node, Report};
use crate::role::Role;
use crate::watch;

/// The routes of the health port.
pub fn router(node: Arc<Node>) -> Router {
    // axum answers HEAD wherever GET is.
    let probe = |route: MethodRouter<Arc<Node>>| route.options(options);
    Router::new()
        .route("/primary", probe(get(primary)))
        .route("/replica", probe(get(replica)))
        .route("/ready", probe(get(ready)))
        .route("/live", probe(get(live)))
        .route("/health", probe(get(live)))
        .route("/health/detailed", probe(get(detailed)))
        .route("/metrics", probe(get(metrics)))
        .route("/members", probe(get(membership::list)))
        .route("/watch", probe(get(watch::lines)))
        .with_state(node)
}

/// A probe's answer.
struct Answer {
    status: StatusCode,
    report: Report,
}

impl Answer {
    fn new(yes: bool, report: Report) -> Self {
        let status = if yes {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self { status, report }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let headers = headers(&self.report);
        (self.status, headers, Json(self.report)).into_response()
    }
}

async fn primary(State(node): State<Arc<Node>>) -> Answer {
    let report = node.report();
    Answer::new(report.role == Role::Leader, report)
}

#[derive(Deserialize)]
struct ReplicaQuery {
    /// The most entries that a replica may lag.
    lag: Option<u64>,
}

async fn replica(State(node): State<Arc<Node>>, Query(query): Query<ReplicaQuery>) -> Answer {
    let report = node.report();
    let close_enough = query.lag.is_none_or(|lag_max| report.lag <= lag_max);
    Answer::new(report.role == Role::Replica && close_enough, report)
}

async fn ready(State(node): State<Arc<Node>>) -> Answer {
    let report = node.report();
    Answer::new(report.role != Role::Unknown, report)
}

async fn live(State(node): State<Arc<Node>>) -> Answer {
    Answer::new(node.failure().is_none(), node.report())
}

async fn detailed(State(node): State<Arc<Node>>) -> Response {
    let report = node.report();
    let failure = node.failure();
    let status = if failure.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = headers(&report);
    let metrics = node.raft.metrics().borrow().clone();
    let body = json!({
        "report": report,
        "failure": failure,
        "state": format!("{:?}", metrics.state).to_lowercase(),
        "last_log": metrics.last_log_index,
        "snapshot": metrics.snapshot.map(|id| id.index),
        "purged": metrics.purged.map(|id| id.index),
        "keys": node.machine.look(|applied| applied.kv.len()),
        "replication": metrics.replication.map(|matched| {
            matched.into_iter().map(|(id, log)| (id.to_string(), log.map(|id| id.index))).collect::<std::collections::BTreeMap<_, _>>()
        }),
        "members": membership::listing(&node).members,
    });
    (status, headers, Json(body)).into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let keys = node.machine.look(|applied| applied.kv.len());
    let text = node.metrics.scrape(&node.report(), keys);
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
}

async fn options() -> impl IntoResponse {
    (StatusCode::OK, [(header::ALLOW, "GET,HEAD,OPTIONS")])
}

fn headers(report: &Report) -> HeaderMap {
    // Destructured, so that a new field is not forgotten here.
    let Report {
        id,
        role,
        term,
        leader,
        leader_api: _,
        last_applied,
        lag,
        quorum_age_ms,
        members_index: _,
        reason: _,
    } = report;
    let number = |value: u64| HeaderValue::from(value);
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value)
    };
    put("x-raft-node", number(*id));
    put("x-raft-role", HeaderValue::from_static(role.name()));
    put("x-raft-term", number(*term));
    put("x-raft-last-applied", number(*last_applied));
    put("x-raft-lag", number(*lag));
    if let Some(leader) = leader {
        put("x-raft-leader", number(*leader));
    }
    if let Some(age) = quorum_age_ms {
        put("x-raft-quorum-age-ms", number(*age));
    }
    headers
}
