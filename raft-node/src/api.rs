//! What clients ask a node, on the API port: keys, who it is, and the administration of the cluster.
//!
//! | request | answer |
//! |---|---|
//! | `POST /kv {"key","value"}` | 200 `{"index","term"}` once a quorum has it on disk; writes of several clients may share an index |
//! | `GET /kv/{key}[?consistency=linearizable\|lease\|eventual]` | 200 `{"key","value","node"}`, 404 |
//! | `DELETE /kv/{key}` | 200 `{"index","term","existed"}` |
//! | `GET /whoami` | 200 `{"node","role"}`, without asking anyone |
//! | `/members`, `/snapshot` | see [`crate::membership`] |
//! | `POST /transfer [{"to"}]` | 200 `{"leader","term"}` once another node leads, see [`crate::handover`] |
//!
//! Reads are linearizable by default, on any node; where no leader is known, 503. A write on a node that is not the leader: 503
//! `{"error":"not_leader","leader":{"id","api"}|null}`. A node that was removed from the cluster: 503 `{"error":"removed"}`. A write that no quorum confirms in time: 504 `{"error":"outcome_unknown"}`.
//! Every answer carries `X-Raft-Node`, `X-Raft-Role` and `X-Raft-Term`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::config::raw::Consistency;
use crate::handover;
use crate::kv::{Command, Outcome};
use crate::membership;
use crate::metrics::{Fate, Verb};
use crate::node::{GetError, Node};
use crate::write_queue::WriteError;

/// The longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// The longest body of a request, bytes: the key and the value as JSON. Bounded by what a heartbeat has room for, see
/// [`crate::write_queue`].
pub const BODY_BYTES_MAX: usize = 256 << 10;

/// The routes of the API port.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/kv", post(put))
        .route("/kv/{*key}", get(read).delete(delete))
        .route("/whoami", get(whoami))
        .route("/transfer", post(handover::transfer))
        .merge(membership::router())
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&node), sign))
        .with_state(node)
}

/// An error answer: a status, a word for programs, a sentence for people.
pub struct ApiError {
    status: StatusCode,
    body: serde_json::Value,
}

impl ApiError {
    /// The client's mistake.
    pub fn malformed(detail: impl ToString) -> Self {
        let body = json!({"error": "malformed", "detail": detail.to_string()});
        Self {
            status: StatusCode::BAD_REQUEST,
            body,
        }
    }

    /// This node cannot do it; the leader can. A node that was removed says so instead.
    pub fn not_leader(node: &Node) -> Self {
        if node.is_removed() {
            return Self::unavailable("removed", GetError::Removed);
        }
        let body = json!({"error": "not_leader", "leader": node.leader_hint()});
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body,
        }
    }

    /// Nobody knows whether it happened.
    pub fn outcome_unknown(detail: impl ToString) -> Self {
        let body = json!({"error": "outcome_unknown", "detail": detail.to_string()});
        Self {
            status: StatusCode::GATEWAY_TIMEOUT,
            body,
        }
    }

    /// It cannot be done now.
    pub fn unavailable(word: &str, detail: impl ToString) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: json!({"error": word, "detail": detail.to_string()}),
        }
    }

    /// It cannot be done in the cluster's present state.
    pub fn conflict(word: &str, detail: impl ToString) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            body: json!({"error": word, "detail": detail.to_string()}),
        }
    }

    fn not_found(word: &str, detail: impl ToString) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            body: json!({"error": word, "detail": detail.to_string()}),
        }
    }

    fn fate(&self) -> Fate {
        match self.status {
            StatusCode::NOT_FOUND => Fate::NotFound,
            StatusCode::SERVICE_UNAVAILABLE => Fate::NotLeader,
            StatusCode::GATEWAY_TIMEOUT => Fate::Unknown,
            _ => Fate::Malformed,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Signs every answer with who gave it.
async fn sign(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let term = node.raft.metrics().borrow().current_term;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert("x-raft-node", HeaderValue::from(node.id()));
    headers.insert(
        "x-raft-role",
        HeaderValue::from_static(node.standing().role.name()),
    );
    headers.insert("x-raft-term", HeaderValue::from(term));
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    key: Arc<str>,
    value: Arc<str>,
}

async fn put(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let done = async {
        let PutBody { key, value } = serde_json::from_slice(&body).map_err(ApiError::malformed)?;
        check_key(&key)?;
        let (index, term, _outcome) = write(&node, Command::Put { key, value }).await?;
        Ok(Json(json!({"index": index, "term": term})))
    };
    answer(&node, Verb::Put, done.await)
}

async fn delete(State(node): State<Arc<Node>>, Path(key): Path<String>) -> Response {
    let done = async {
        check_key(&key)?;
        let (index, term, outcome) = write(&node, Command::Delete { key: key.into() }).await?;
        let existed = outcome == Outcome::Deleted;
        Ok(Json(
            json!({"index": index, "term": term, "existed": existed}),
        ))
    };
    answer(&node, Verb::Delete, done.await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadQuery {
    #[serde(default)]
    consistency: Consistency,
}

async fn read(
    State(node): State<Arc<Node>>,
    Path(key): Path<String>,
    query: Result<Query<ReadQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let done = async {
        check_key(&key)?;
        let Query(ReadQuery { consistency }) =
            query.map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
        let value = node
            .get(&key, consistency)
            .await
            .map_err(|error| match error {
                GetError::NoLease | GetError::Removed => ApiError::not_leader(&node),
                GetError::ReadIndex(error) => ApiError::unavailable("no_leader", error),
            })?;
        let value =
            value.ok_or_else(|| ApiError::not_found("no_such_key", "there is no such key"))?;
        Ok(Json(json!({"key": key, "value": value, "node": node.id()})))
    };
    answer(&node, Verb::Get, done.await)
}

async fn whoami(State(node): State<Arc<Node>>) -> Json<serde_json::Value> {
    Json(json!({"node": node.id(), "role": node.standing().role}))
}

async fn nothing_here() -> ApiError {
    ApiError::not_found("no_such_path", "there is nothing at this path")
}

async fn write(node: &Node, command: Command) -> Result<(u64, u64, Outcome), ApiError> {
    let started = Instant::now();
    match node.write(command).await {
        Ok(written) => {
            node.metrics.observe_write(started.elapsed());
            Ok((written.index, written.term, written.outcome))
        }
        Err(WriteError::NotLeader { .. }) => Err(ApiError::not_leader(node)),
        Err(error @ WriteError::Unknown(_)) => Err(ApiError::outcome_unknown(error)),
        Err(error @ WriteError::Stopped) => Err(ApiError::unavailable("stopping", error)),
    }
}

fn check_key(key: &str) -> Result<(), ApiError> {
    match key.len() {
        0 => Err(ApiError::malformed("the key is empty")),
        length if length > KEY_BYTES_MAX => Err(ApiError::malformed(format!(
            "the key has {length} bytes, more than {KEY_BYTES_MAX}"
        ))),
        _ => Ok(()),
    }
}

fn answer(node: &Node, verb: Verb, done: Result<Json<serde_json::Value>, ApiError>) -> Response {
    let fate = match &done {
        Ok(_) => Fate::Ok,
        Err(error) => error.fate(),
    };
    node.metrics.count(verb, fate);
    done.into_response()
}
