//! Raft's messages to the other nodes, as HTTP POSTs: of JSON; entries in the encoding of the log; a snapshot as one JSON line and its raw data.
//!
//! The path names the node that a message is for, so that a node which took over another's address refuses it. Where a peer does not
//! answer, openraft is told to wait a heartbeat before it tries again: its own default, half a second, is longer than the election
//! timeout of a peer that has just come back.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::{Method, StatusCode};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::cluster::{KvCluster, Member, NodeId, Snapshot, SnapshotMeta, Vote};
use crate::contact::QuorumClock;
use crate::outbound::{Outbound, SendError};
use crate::store::LogStore;

type RpcError = RPCError<NodeId, Member, RaftError<NodeId>>;

/// What stands before a snapshot's data.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The leader that sends it.
    pub vote: Vote,
    /// What it covers.
    pub meta: SnapshotMeta,
}

/// Why a peer gave no usable answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The message does not serialise.
    #[error("cannot encode a message for node {target}: {reason}")]
    Encode {
        /// The node that it was for.
        target: NodeId,
        /// What does not fit.
        reason: String,
    },
    /// Nothing came back.
    #[error("cannot reach node {target}")]
    Send {
        /// The node that it was for.
        target: NodeId,
        /// What happened to the request.
        #[source]
        source: SendError,
    },
    /// The peer refused: it is another node, or it is about to end.
    #[error("node {target} answered {status}")]
    Refused {
        /// The node that it was for.
        target: NodeId,
        /// Its HTTP status.
        status: StatusCode,
    },
    /// The answer is not what this version understands.
    #[error("cannot decode the answer of node {target}")]
    Decode {
        /// The node that it was for.
        target: NodeId,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
}

/// Makes the connections to the peers.
#[derive(Clone)]
pub struct Peers {
    /// The pool that all connections come from.
    pub outbound: Outbound,
    /// Where acknowledgements are noted.
    pub quorum: Arc<QuorumClock>,
    /// This node's own log.
    pub log: LogStore,
    /// How long to leave an unreachable peer alone.
    pub retry_after: Duration,
}

/// One peer, as one openraft task talks to it.
pub struct Peer {
    peers: Peers,
    target: NodeId,
    base: String,
}

impl Peers {
    /// A way to talk to `target`; connects when it is used.
    pub fn peer(&self, target: NodeId, member: &Member) -> Peer {
        Peer {
            peers: self.clone(),
            target,
            base: format!("http://{}/raft/{target}", member.raft),
        }
    }
}

impl RaftNetworkFactory<KvCluster> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node)
    }
}

impl Peer {
    /// Sends `message` as JSON and decodes the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q, A>(&self, verb: &str, message: &Q, limit: Duration) -> Result<A, CallError>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let target = self.target;
        let body = serde_json::to_vec(message).map_err(|error| encode_error(target, &error))?;
        self.post(verb, body.into(), limit).await
    }

    async fn post<A: DeserializeOwned>(
        &self,
        verb: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<A, CallError> {
        let target = self.target;
        let uri = format!("{}/{verb}", self.base);
        let answer = self
            .peers
            .outbound
            .send(Method::POST, &uri, body, limit)
            .await;
        let answer = answer.map_err(|source| CallError::Send { target, source })?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map_err(|source| CallError::Decode { target, source }),
            status => Err(CallError::Refused { target, status }),
        }
    }
}

impl RaftNetwork<KvCluster> for Peer {
    async fn append_entries(
        &mut self,
        message: AppendEntriesRequest<KvCluster>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let target = self.target;
        let body = postcard::to_stdvec(&message);
        let body = body.map_err(|error| unreachable(encode_error(target, &error)))?;
        let held = self.peers.log.queued();
        let sent_at = Instant::now();
        let answer = self.post("append", body.into(), option.hard_ttl()).await;
        let answer = answer.map_err(unreachable)?;
        match &answer {
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => {
                self.peers.quorum.record(message.vote, self.target, sent_at)
            }
            AppendEntriesResponse::HigherVote(_) => {}
        }
        // openraft counts this node's own copy of the entries with the first acknowledgement of them.
        let durable = self.peers.log.durable(held).await;
        durable.map_err(|error| Unreachable::new(&error))?;
        Ok(answer)
    }

    async fn vote(
        &mut self,
        message: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        self.call("vote", &message, option.hard_ttl())
            .await
            .map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<KvCluster, Fatal<NodeId>>> {
        let body = encode_snapshot(
            &SnapshotHeader {
                vote,
                meta: snapshot.meta,
            },
            &snapshot.snapshot,
        )
        .map_err(|error| Unreachable::new(&error))?;
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = self.post("snapshot", body, option.hard_ttl()) => {
                answer.map_err(|error| Unreachable::from(AnyError::new(&error)).into())
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.peers.retry_after))
    }
}

fn encode_error(target: NodeId, error: &impl ToString) -> CallError {
    CallError::Encode {
        target,
        reason: error.to_string(),
    }
}

fn unreachable(error: CallError) -> RpcError {
    Unreachable::from(AnyError::new(&error)).into()
}

fn encode_snapshot(header: &SnapshotHeader, data: &Bytes) -> Result<Bytes, serde_json::Error> {
    let mut body = BytesMut::new();
    body.put_slice(&serde_json::to_vec(header)?);
    body.put_u8(b'\n');
    body.put_slice(data);
    Ok(body.freeze())
}

/// Takes apart what a leader sends as a snapshot.
///
/// # Errors
/// Where the first line is no header.
pub fn decode_snapshot(body: &Bytes) -> Result<(SnapshotHeader, Bytes), serde_json::Error> {
    let header_length = body
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(body.len());
    let header = serde_json::from_slice(&body[..header_length])?;
    Ok((header, body.slice((header_length + 1).min(body.len())..)))
}
