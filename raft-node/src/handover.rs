//! How a leader hands its office over, for a planned stop or because an operator wants another to lead: in a few round trips, without
//! waiting for anybody's timer.
//!
//! openraft 0.9 has no transfer of leadership, but it has the parts:
//!
//! 1. Writes are held up, those under way end, and the successor's log becomes as long as the leader's.
//! 2. *Release*: the other voters, then the leader itself, note the successor as their candidate of the next term. It is a snapshot that
//!    covers nothing, with a vote that is not committed: openraft takes the vote over without a look at the leader's lease, and refuses
//!    candidates for the lease's sake only while the vote that it holds is committed.
//! 3. *Stand*: the successor stands for election, in that very term. Whether its log is long enough, each voter judges as in any election.
//!
//! So nothing here can elect anybody: a handover that breaks off in the middle leaves an ordinary election. ADR 0020.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::ServerState;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::api::ApiError;
use crate::cluster::{LogId, Member, NodeId, Snapshot, SnapshotMeta, Vote};
use crate::election::is_quorum;
use crate::node::Node;
use crate::role::Role;

/// How long a successor has for the last entries, while the writes wait.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(500);
/// How long a released successor may take to win.
const ELECTION_LIMIT: Duration = Duration::from_secs(1);

/// Why nobody took over. Writes go on, here or, where the handover had begun to release the voters, after an election.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// There is nothing to hand over.
    #[error("this node does not lead")]
    NotLeader,
    /// The one that was asked for cannot lead.
    #[error("node {0} is not a voter")]
    NotVoter(NodeId),
    /// No other voter answered lately.
    #[error("no other voter is in touch")]
    Alone,
    /// The writes under way found no quorum.
    #[error("the writes under way did not end within {0:?}")]
    Busy(Duration),
    /// The successor lacks entries.
    #[error("node {successor} did not catch up within {limit:?}")]
    Behind {
        /// Who was to lead.
        successor: NodeId,
        /// How long it was given.
        limit: Duration,
    },
    /// Too few voters would let another lead.
    #[error("no quorum released this leader")]
    NotReleased,
    /// The successor did not win.
    #[error("node {0} was not elected")]
    NotElected(NodeId),
}

/// Asks a voter to wait no longer for the leader of `vote`, and to note `successor` as its candidate of the next term.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Release {
    /// The leadership that ends.
    pub vote: Vote,
    /// Who is to lead next.
    pub successor: NodeId,
}

/// Asks the successor to stand for election.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stand {
    /// The leadership that ends.
    pub vote: Vote,
    /// The end of the log that the next leader must have.
    pub last_log: Option<LogId>,
}

/// Makes another voter the leader, if this node is: `wanted`, or the one whose log is longest. Returns who leads, once this node has
/// heard from it.
///
/// # Errors
/// See [`HandoverError`].
pub async fn run(node: &Node, wanted: Option<NodeId>) -> Result<NodeId, HandoverError> {
    // One that has no quorum could hand over to nobody, and should not keep its writers waiting.
    if node.standing().role != Role::Leader {
        return Err(HandoverError::NotLeader);
    }
    if wanted == Some(node.id()) {
        return Ok(node.id());
    }
    let limit = node.settings.write_timeout;
    // Held to the end: a write that waited meanwhile learns who leads now.
    let _quiet = tokio::time::timeout(limit, node.hold_writes())
        .await
        .map_err(|_elapsed| HandoverError::Busy(limit))?;
    let vote = leading_vote(node).ok_or(HandoverError::NotLeader)?;
    let (successor, member) = choose(node, vote, wanted)?;
    let last_log = catch_up(node, successor).await?;
    release(node, Release { vote, successor }).await?;
    let peer = node.peers.peer(successor, &member);
    let stands: Result<bool, _> = peer
        .call("stand", &Stand { vote, last_log }, ELECTION_LIMIT)
        .await;
    if !stands.unwrap_or(false) {
        return Err(HandoverError::NotElected(successor));
    }
    let mut heard = node.leader_contact.follow();
    let elected = async {
        while node
            .report()
            .leader
            .is_none_or(|leader| leader == node.id())
        {
            // The sender lives in the node.
            let _ = heard.changed().await;
        }
        node.report().leader
    };
    let elected = tokio::time::timeout(ELECTION_LIMIT, elected).await;
    elected
        .ok()
        .flatten()
        .ok_or(HandoverError::NotElected(successor))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transfer {
    to: Option<NodeId>,
}

/// `POST /transfer {"to"}`: what an operator asks for.
///
/// # Errors
/// 503 where this node does not lead or nobody took over, 409 where `to` cannot lead.
pub async fn transfer(
    State(node): State<std::sync::Arc<Node>>,
    body: Bytes,
) -> Result<Json<serde_json::Value>, ApiError> {
    let Transfer { to } = match body.is_empty() {
        true => Transfer::default(),
        false => serde_json::from_slice(&body).map_err(ApiError::malformed)?,
    };
    match run(&node, to).await {
        Ok(leader) => {
            tracing::info!(leader, "handed over");
            Ok(Json(json!({"leader": leader, "term": node.report().term})))
        }
        Err(HandoverError::NotLeader) => Err(ApiError::not_leader(&node)),
        Err(error @ HandoverError::NotVoter(_)) => Err(ApiError::conflict("not_voter", error)),
        Err(error) => Err(ApiError::unavailable("not_handed_over", error)),
    }
}

/// A voter's answer to [`Release`]: whether it has noted the successor.
///
/// # Errors
/// Where Raft has ended.
pub async fn accept_release(node: &Node, asked: &Release) -> Result<bool, String> {
    let Release { vote, successor } = *asked;
    let note = Vote::new(vote.leader_id.term + 1, successor);
    let held = node.raft.metrics().borrow().vote;
    // A leader may have learnt it already, as the answer of a voter that it released before.
    if held == note {
        return Ok(true);
    }
    if held != vote {
        return Ok(false);
    }
    let nothing = Snapshot {
        meta: SnapshotMeta::default(),
        snapshot: Box::default(),
    };
    let noted = node.raft.install_full_snapshot(note, nothing).await;
    noted
        .map(|answer| answer.vote == note)
        .map_err(|error| error.to_string())
}

/// The successor's answer to [`Stand`]: whether it stands.
///
/// # Errors
/// Where Raft has ended.
pub async fn accept_stand(node: &Node, asked: &Stand) -> Result<bool, String> {
    // Of another vote, it would stand in another term than the one that the voters were told.
    if node.raft.metrics().borrow().vote != asked.vote || node.log.last_log_id() < asked.last_log {
        return Ok(false);
    }
    let stood = node.raft.trigger().elect().await;
    stood.map(|()| true).map_err(|error| error.to_string())
}

/// The vote by which this node leads.
fn leading_vote(node: &Node) -> Option<Vote> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    (metrics.state == ServerState::Leader).then_some(metrics.vote)
}

/// The voter that is to lead: `wanted`, or of those that answered lately the one whose log is longest.
fn choose(
    node: &Node,
    vote: Vote,
    wanted: Option<NodeId>,
) -> Result<(NodeId, Member), HandoverError> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let chosen = match wanted {
        Some(wanted) if voters.contains(&wanted) => Some(wanted),
        Some(wanted) => return Err(HandoverError::NotVoter(wanted)),
        None => {
            let matched = metrics.replication.iter().flatten();
            let in_touch = matched.filter_map(|(id, matched)| {
                let at = node.peers.quorum.acked_at(vote, *id)?;
                let fresh = voters.contains(id) && at.elapsed() < election_max(node);
                fresh.then_some((matched, at, *id))
            });
            in_touch.max().map(|(_, _, id)| id)
        }
    };
    chosen
        .and_then(|id| Some((id, membership.get_node(&id)?.clone())))
        .ok_or(HandoverError::Alone)
}

/// Waits until the successor has all of this node's log, and returns its end.
async fn catch_up(node: &Node, successor: NodeId) -> Result<Option<LogId>, HandoverError> {
    let mut metrics = node.raft.metrics();
    let caught_up = metrics.wait_for(|now| {
        let matched = now.replication.as_ref().and_then(|all| all.get(&successor));
        matched.is_some_and(|matched| matched.map(|id| id.index) == now.last_log_index)
    });
    let behind = || HandoverError::Behind {
        successor,
        limit: CATCH_UP_LIMIT,
    };
    match tokio::time::timeout(CATCH_UP_LIMIT, caught_up).await {
        Ok(Ok(now)) => Ok(now
            .replication
            .as_ref()
            .and_then(|all| all.get(&successor).copied().flatten())),
        Ok(Err(_)) | Err(_) => Err(behind()),
    }
}

/// Releases the other voters, then this one; returns when they are, with the successor, a quorum.
async fn release(node: &Node, release: Release) -> Result<(), HandoverError> {
    let membership = node.raft.metrics().borrow().membership_config.clone();
    let membership = membership.membership();
    let others = membership
        .voter_ids()
        .filter(|id| *id != node.id() && *id != release.successor)
        .filter_map(|id| Some((id, membership.get_node(&id)?)));
    let mut answers: FuturesUnordered<_> = others
        .map(|(id, member)| async move {
            let peer = node.peers.peer(id, member);
            let released: Result<bool, _> = peer
                .call("release", &release, node.settings.heartbeat())
                .await;
            released.unwrap_or(false).then_some(id)
        })
        .collect();
    let mut released = BTreeSet::from([node.id(), release.successor]);
    while !is_quorum(membership, &released) {
        match answers.next().await {
            Some(answer) => released.extend(answer),
            None => return Err(HandoverError::NotReleased),
        }
    }
    // Last, because it deposes this node.
    match accept_release(node, &release).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(HandoverError::NotReleased),
    }
}

fn election_max(node: &Node) -> Duration {
    Duration::from_millis(node.settings.raft.election_timeout_max)
}
