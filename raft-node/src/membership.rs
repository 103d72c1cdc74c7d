//! Who belongs to the cluster, and how that changes while it runs. Asked on the API port; the list on the health port, too.
//!
//! | request | answer |
//! |---|---|
//! | `GET /members` | 200: [`Listing`], what this node knows, without asking anyone |
//! | `POST /members {"id","raft","api","health"[,"voter":false]}` | 200 [`Listing`] once the node has caught up and votes |
//! | `DELETE /members/{id}` | 200 [`Listing`] once the others have agreed without it |
//! | `POST /snapshot` | 202: this node writes a snapshot and then forgets the log it covers |
//!
//! Changes are taken by the leader, one at a time. A node is added without a vote first, and votes once it has caught up; the step from
//! the old voters to the new ones is joint consensus: for a moment both must agree. A leader that finds such a step half done, because
//! its predecessor died, finishes it. Every request may be repeated: what is done already is answered with 200.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Membership};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::ApiError;
use crate::cluster::{Member, NodeId, StoredMembership};
use crate::handover;
use crate::node::Node;
use crate::role::Role;

/// How long a new node has to catch up, and the old ones to agree.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// The routes of the API port.
pub fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/members", get(list).post(add))
        .route("/members/{id}", delete(remove))
        .route("/snapshot", post(snapshot))
}

/// What one node knows of the cluster's members: always a membership that a quorum has agreed to.
///
/// Of two answers the one with the higher `index` is newer, whoever gave it. A cluster's first membership has index 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Who answers.
    pub node: NodeId,
    /// The term of the one who answers.
    pub term: u64,
    /// Who leads that term, as far as the one who answers can prove it.
    pub leader: Option<NodeId>,
    /// The log entry that holds this membership; `None` on a node that belongs to no cluster yet.
    pub index: Option<u64>,
    /// How far the one who answers has applied the log: an old list from a node that lags shows here.
    pub commit_index: u64,
    /// Whether a change of the voters is under way.
    pub changing: bool,
    /// In the order of their numbers.
    pub members: Vec<ListedMember>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedMember {
    /// Its number.
    pub id: NodeId,
    /// Its addresses: `raft`, `api`, `health`.
    #[serde(flatten)]
    pub member: Member,
    /// Whether it counts for a quorum; one that does not is a learner.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMember {
    id: NodeId,
    raft: std::net::SocketAddr,
    api: std::net::SocketAddr,
    health: std::net::SocketAddr,
    #[serde(default = "votes")]
    voter: bool,
}

fn votes() -> bool {
    true
}

type Changed = Result<Json<Listing>, ApiError>;

/// What `node` knows.
pub fn listing(node: &Node) -> Listing {
    let report = node.report();
    let known = node.machine.look(|applied| applied.membership.clone());
    let voters: BTreeSet<NodeId> = known.voter_ids().collect();
    let listed = |(id, member): (&NodeId, &Member)| ListedMember {
        id: *id,
        member: member.clone(),
        voter: voters.contains(id),
        leader: report.leader == Some(*id),
    };
    Listing {
        node: report.id,
        term: report.term,
        leader: report.leader,
        index: known.log_id().map(|id| id.index),
        commit_index: report.last_applied,
        changing: is_joint(&known),
        members: known.nodes().map(listed).collect(),
    }
}

/// `GET /members`
pub async fn list(State(node): State<Arc<Node>>) -> Json<Listing> {
    Json(listing(&node))
}

async fn add(State(node): State<Arc<Node>>, body: Bytes) -> Changed {
    let NewMember {
        id,
        raft,
        api,
        health,
        voter,
    } = serde_json::from_slice(&body).map_err(ApiError::malformed)?;
    let member = Member { raft, api, health };
    change(&node, async {
        let known = effective(&node);
        if known
            .membership()
            .get_node(&id)
            .is_some_and(|old| *old != member)
        {
            let detail = format!("node {id} is a member with other addresses; remove it first");
            return Err(ApiError::conflict("other_addresses", detail));
        }
        if known.voter_ids().any(|other| other == id) {
            return Ok(());
        }
        // First without a vote: a voter with an empty log would count for the quorum and hold up every write.
        let learns = node.raft.add_learner(id, member, true).await;
        learns.map_err(|error| refusal(&node, error))?;
        if !voter {
            return Ok(());
        }
        propose(&node, ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    })
    .await
}

async fn remove(State(node): State<Arc<Node>>, Path(id): Path<NodeId>) -> Changed {
    check_leads(&node)?;
    if id == node.id() {
        // A leader does not see its own removal through: another does, to which the client is sent on.
        let handed_over = handover::run(&node, None).await;
        handed_over.map_err(|error| ApiError::unavailable("not_handed_over", error))?;
        return Err(ApiError::not_leader(&node));
    }
    change(&node, async {
        let known = effective(&node);
        if known.membership().get_node(&id).is_none() {
            return Ok(());
        }
        let left: BTreeSet<NodeId> = known.voter_ids().filter(|voter| *voter != id).collect();
        if !has_quorum(&node, &left) {
            let detail = format!(
                "too few of the voters {} that would be left are in touch",
                numbers(&left)
            );
            return Err(ApiError::conflict("no_quorum_left", detail));
        }
        // Both steps are taken by nodes that do not vote, too: they are learners first, then gone.
        let ids = BTreeSet::from([id]);
        propose(&node, ChangeMembers::RemoveVoters(ids.clone())).await?;
        propose(&node, ChangeMembers::RemoveNodes(ids)).await
    })
    .await
}

async fn snapshot(
    State(node): State<Arc<Node>>,
) -> Result<(StatusCode, Json<serde_json::Value>), ApiError> {
    node.raft
        .trigger()
        .snapshot()
        .await
        .map_err(|error| ApiError::unavailable("stopping", error))?;
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": true}))))
}

/// Finishes what a predecessor left half done, for as long as the node runs.
///
/// Without it the cluster would go on needing a quorum of both the old voters and the new ones.
pub async fn finish_changes(node: Arc<Node>) {
    let mut metrics = node.raft.metrics();
    loop {
        let half_done = |now: &crate::cluster::RaftMetrics| {
            now.current_leader == Some(node.id()) && is_joint(&now.membership_config)
        };
        if metrics.wait_for(half_done).await.is_err() {
            return;
        }
        // Whoever is at it here holds the lock until it is done.
        let _alone = node.membership_changes.lock().await;
        if !is_joint(&effective(&node)) {
            continue;
        }
        // From a joint membership, a change that changes nothing leads to its newer half.
        let nothing = ChangeMembers::AddVoterIds(BTreeSet::new());
        match tokio::time::timeout(CHANGE_LIMIT, propose(&node, nothing)).await {
            Ok(Ok(())) => {
                tracing::info!(voters = %voters_text(&node), "membership change finished")
            }
            // Not committed yet, or no longer the leader: it is looked at again.
            Ok(Err(_)) | Err(_) => tokio::time::sleep(node.settings.heartbeat()).await,
        }
    }
}

/// Runs one change at a time, on the leader only, and answers with what came of it.
async fn change(node: &Node, steps: impl Future<Output = Result<(), ApiError>>) -> Changed {
    let limited = async {
        let _alone = node.membership_changes.lock().await;
        // Looked at now: the change before may have taken long.
        check_leads(node)?;
        steps.await
    };
    match tokio::time::timeout(CHANGE_LIMIT, limited).await {
        Ok(Ok(())) => {
            tracing::info!(voters = %voters_text(node), "membership changed");
            Ok(Json(listing(node)))
        }
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(ApiError::outcome_unknown(format!(
            "not agreed within {CHANGE_LIMIT:?}"
        ))),
    }
}

async fn propose(node: &Node, change: ChangeMembers<NodeId, Member>) -> Result<(), ApiError> {
    match node.raft.change_membership(change, true).await {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(node, error)),
    }
}

fn refusal(node: &Node, error: RaftError<NodeId, ClientWriteError<NodeId, Member>>) -> ApiError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ApiError::not_leader(node),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ApiError::conflict("refused", error)
        }
        RaftError::Fatal(error) => ApiError::unavailable("stopping", error),
    }
}

fn check_leads(node: &Node) -> Result<(), ApiError> {
    match node.standing().role {
        Role::Leader => Ok(()),
        Role::Replica | Role::Unknown => Err(ApiError::not_leader(node)),
    }
}

/// Whether most of these voters are in touch with this leader: a change to them must not be the cluster's last.
fn has_quorum(node: &Node, voters: &BTreeSet<NodeId>) -> bool {
    let vote = node.raft.metrics().borrow().vote;
    let members: BTreeMap<NodeId, Member> =
        voters.iter().map(|id| (*id, Member::default())).collect();
    let membership = Membership::new(vec![voters.clone()], members);
    let acked_at = node
        .peers
        .quorum
        .quorum_acked_at(vote, node.id(), &membership, Instant::now());
    acked_at.is_some_and(|at| at.elapsed() < node.settings.freshness().quorum_age_max)
}

/// The newest membership in this node's log, agreed to or not.
fn effective(node: &Node) -> StoredMembership {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.as_ref().clone()
}

fn is_joint(membership: &StoredMembership) -> bool {
    membership.membership().get_joint_config().len() > 1
}

fn voters_text(node: &Node) -> String {
    numbers(&effective(node).voter_ids().collect())
}

fn numbers(ids: &BTreeSet<NodeId>) -> String {
    let ids: Vec<String> = ids.iter().map(NodeId::to_string).collect();
    ids.join(",")
}
