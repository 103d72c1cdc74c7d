//! Raft's messages from the other nodes: the receiving end of [`crate::network`], on the Raft port.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::{KvCluster, NodeId, Snapshot, Vote};
use crate::contact::Heard;
use crate::election::{self, PreVote};
use crate::handover::{self, Release, Stand};
use crate::network::decode_snapshot;
use crate::node::Node;
use crate::removal;

/// A snapshot is the whole state machine; what the others send is not limited by what clients may send.
const BODY_MAX: usize = 4 << 30;

/// The routes of the Raft port.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/raft/{target}/append", post(append))
        .route("/raft/{target}/vote", post(vote))
        .route("/raft/{target}/snapshot", post(snapshot))
        .route("/raft/{target}/read-index", post(read_index))
        .route("/raft/{target}/pre-vote", post(pre_vote))
        .route("/raft/{target}/release", post(release))
        .route("/raft/{target}/stand", post(stand))
        .route("/raft/{target}/formed", post(formed))
        .route("/raft/{target}/belongs", post(belongs))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(node)
}

/// A message that gets no answer but a status, and why.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, reason) = self;
        (status, reason).into_response()
    }
}

type Reply = Result<Vec<u8>, Refusal>;

async fn append(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let message: AppendEntriesRequest<KvCluster> =
        postcard::from_bytes(&body).map_err(|error| malformed(&error))?;
    let vote = message.vote;
    let commit_index = message.leader_commit.map_or(0, |id| id.index);
    let answer = node
        .raft
        .append_entries(message)
        .await
        .map_err(|error| stopped(&error))?;
    match answer {
        AppendEntriesResponse::Success
        | AppendEntriesResponse::PartialSuccess(_)
        | AppendEntriesResponse::Conflict => {
            hear(&node, vote, commit_index);
            // The leader counts on it that this node has on disk what it acknowledges.
            let acknowledged = node.log.queued();
            let durable = node.log.durable(acknowledged).await;
            durable.map_err(|error| stopped(&error))?;
        }
        AppendEntriesResponse::HigherVote(_) => {}
    }
    encode(&answer)
}

async fn vote(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let message: VoteRequest<NodeId> = decode(&body)?;
    let answer = node
        .raft
        .vote(message)
        .await
        .map_err(|error| stopped(&error))?;
    encode(&answer)
}

async fn snapshot(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let (header, data) = decode_snapshot(&body).map_err(|error| malformed(&error))?;
    let commit_index = header.meta.last_log_id.map_or(0, |id| id.index);
    let snapshot = Snapshot {
        meta: header.meta,
        snapshot: Box::new(data),
    };
    let answer = node
        .raft
        .install_full_snapshot(header.vote, snapshot)
        .await
        .map_err(|error| stopped(&error))?;
    if answer.vote == header.vote {
        hear(&node, header.vote, commit_index);
    }
    encode(&answer)
}

/// Answers only as the leader itself: a replica that asked another replica on would loop.
async fn read_index(State(node): State<Arc<Node>>, Path(target): Path<NodeId>) -> Reply {
    check_target(&node, target)?;
    if node.raft.metrics().borrow().current_leader != Some(node.id()) {
        return Err(Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "not the leader".into(),
        ));
    }
    let index = node.committed_index().await;
    encode(&index.map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?)
}

async fn pre_vote(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let asked: PreVote = decode(&body)?;
    encode(&election::grant(&node, &asked))
}

/// A leader hands over to another node.
async fn release(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let asked: Release = decode(&body)?;
    let released = handover::accept_release(&node, &asked).await;
    encode(&released.map_err(unavailable)?)
}

/// A leader hands over to this node.
async fn stand(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let asked: Stand = decode(&body)?;
    let stood = handover::accept_stand(&node, &asked).await;
    encode(&stood.map_err(unavailable)?)
}

/// Whether this node belongs to a cluster: asked by peers that start with an empty directory.
async fn formed(State(node): State<Arc<Node>>, Path(target): Path<NodeId>) -> Reply {
    check_target(&node, target)?;
    encode(
        &node
            .raft
            .is_initialized()
            .await
            .map_err(|error| stopped(&error))?,
    )
}

/// Whether another node still belongs to the cluster.
async fn belongs(State(node): State<Arc<Node>>, Path(target): Path<NodeId>, body: Bytes) -> Reply {
    check_target(&node, target)?;
    let asker: NodeId = decode(&body)?;
    encode(&removal::belongs(&node, asker))
}

fn hear(node: &Node, vote: Vote, commit_index: u64) {
    node.leader_contact.record(Heard {
        vote,
        at: Instant::now(),
        commit_index,
    });
}

fn check_target(node: &Node, target: NodeId) -> Result<(), Refusal> {
    match target == node.id() {
        true => Ok(()),
        false => Err(Refusal(
            StatusCode::MISDIRECTED_REQUEST,
            format!("this is node {}", node.id()),
        )),
    }
}

fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

fn encode<T: Serialize>(answer: &T) -> Reply {
    serde_json::to_vec(answer)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn malformed(error: &impl ToString) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.to_string())
}

fn unavailable(reason: String) -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn stopped(error: &impl ToString) -> Refusal {
    unavailable(error.to_string())
}
