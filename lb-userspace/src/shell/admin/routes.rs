//! The paths of the API, and what each asks the agent's loop.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{self, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Answer, Query, Refusal};
use crate::api::{Change, Changed, Failure, FlowFilter, Flows, Reloaded, Stats, Status, path};

/// A loop that takes longer than this is stuck, and the operator should know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// The router over all paths.
pub(super) fn router(queries: mpsc::Sender<Query>) -> Router {
    Router::new()
        .route(path::STATUS, get(status))
        .route(path::STATS, get(stats))
        .route(path::FLOWS, get(flows))
        .route(path::RELOAD, post(reload))
        .route(path::OVERRIDES, post(change))
        .fallback(no_such_path)
        .method_not_allowed_fallback(other_method)
        .with_state(queries)
}

async fn status(State(queries): State<mpsc::Sender<Query>>) -> Result<Json<Status>, Failed> {
    ask(&queries, Query::Status).await
}

async fn stats(State(queries): State<mpsc::Sender<Query>>) -> Result<Json<Stats>, Failed> {
    ask(&queries, Query::Stats).await
}

async fn flows(
    State(queries): State<mpsc::Sender<Query>>,
    filter: Result<extract::Query<FlowFilter>, QueryRejection>,
) -> Result<Json<Flows>, Failed> {
    let extract::Query(filter) = filter.map_err(|rejection| {
        let reason = format!("{}; known: service, server, limit", rejection.body_text());
        Failed(StatusCode::BAD_REQUEST, reason)
    })?;
    ask(&queries, |answer| Query::Flows { filter, answer }).await
}

async fn reload(State(queries): State<mpsc::Sender<Query>>) -> Result<Json<Reloaded>, Failed> {
    ask(&queries, Query::Reload).await
}

async fn change(
    State(queries): State<mpsc::Sender<Query>>,
    change: Result<Json<Change>, JsonRejection>,
) -> Result<Json<Changed>, Failed> {
    let Json(change) = change.map_err(|rejection| {
        let reason = rejection.body_text();
        Failed(StatusCode::BAD_REQUEST, reason)
    })?;
    ask(&queries, |answer| Query::Change { change, answer }).await
}

async fn no_such_path(uri: Uri) -> Failed {
    let reason = format!(
        "no such path: {}; known: {}",
        uri.path(),
        [&path::READ[..], &path::CHANGE].concat().join(", ")
    );
    Failed(StatusCode::NOT_FOUND, reason)
}

async fn other_method(method: Method, uri: Uri) -> Failed {
    let known = match path::READ.contains(&uri.path()) {
        true => "it only reads; use GET",
        false => "it changes something; use POST",
    };
    let reason = format!("{method} {} is not allowed: {known}", uri.path());
    Failed(StatusCode::METHOD_NOT_ALLOWED, reason)
}

/// Asks the agent's loop, and waits for its answer.
async fn ask<T: Serialize>(
    queries: &mpsc::Sender<Query>,
    query: impl FnOnce(Answer<T>) -> Query,
) -> Result<Json<T>, Failed> {
    let unavailable = |reason: &str| Failed(StatusCode::SERVICE_UNAVAILABLE, reason.to_owned());
    let (answer, answered) = oneshot::channel();
    let exchange = async {
        let stopping = |_| unavailable("the agent is stopping");
        queries.send(query(answer)).await.map_err(stopping)?;
        let given_up = |_| unavailable("the agent gave no answer: it is stopping");
        answered.await.map_err(given_up)
    };
    let late = || {
        let seconds = ANSWER_TIMEOUT.as_secs();
        unavailable(&format!("the agent gave no answer within {seconds} s"))
    };
    match timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(answered) => Ok(Json(answered??)),
        Err(_elapsed) => Err(late()),
    }
}

/// An answer that is not 200.
#[derive(Debug)]
struct Failed(StatusCode, String);

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(reason) => Self(StatusCode::NOT_FOUND, reason),
            Refusal::Invalid(reason) => Self(StatusCode::UNPROCESSABLE_ENTITY, reason),
            Refusal::Failed(reason) => Self(StatusCode::INTERNAL_SERVER_ERROR, reason),
        }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        (status, Json(Failure { error })).into_response()
    }
}
