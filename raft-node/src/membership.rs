//! The administration of a cluster at run time, on the API port. Changes are taken by the leader only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /admin/members` | 200: every member with its addresses and whether it votes |
//! | `POST /admin/members {"id","raft","api","health"}` | 200 once the node has caught up and votes |
//! | `DELETE /admin/members/{id}` | 200 once the others have agreed without it |
//! | `POST /admin/snapshot` | 202: this node writes a snapshot and then forgets the log it covers |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
use crate::cluster::{Member, NodeId};
use crate::node::Node;
use crate::role::Role;

/// How long a new node has to catch up, and the old ones to agree.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// The routes under `/admin`.
pub fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/admin/members", get(list).post(add))
        .route("/admin/members/{id}", delete(remove))
        .route("/admin/snapshot", post(snapshot))
}

/// One member as the administration sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedMember {
    /// Its number.
    pub id: NodeId,
    /// Its addresses.
    #[serde(flatten)]
    pub member: Member,
    /// Whether it counts for a quorum.
    pub voter: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMember {
    id: NodeId,
    raft: std::net::SocketAddr,
    api: std::net::SocketAddr,
    health: std::net::SocketAddr,
}

type Changed = Result<Json<serde_json::Value>, ApiError>;

/// All members, in the order of their numbers.
pub fn members(membership: &Membership<NodeId, Member>) -> Vec<ListedMember> {
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let listed = |(id, member): (&NodeId, &Member)| ListedMember {
        id: *id,
        member: member.clone(),
        voter: voters.contains(id),
    };
    membership.nodes().map(listed).collect()
}

async fn list(State(node): State<Arc<Node>>) -> Json<Vec<ListedMember>> {
    let metrics = node.raft.metrics();
    let membership = metrics.borrow().membership_config.clone();
    Json(members(membership.membership()))
}

async fn add(State(node): State<Arc<Node>>, body: Bytes) -> Changed {
    let NewMember {
        id,
        raft,
        api,
        health,
    } = serde_json::from_slice(&body).map_err(ApiError::malformed)?;
    check_leads(&node)?;
    let member = Member { raft, api, health };
    // First without a vote: a voter with an empty log would count for the quorum and hold up every write.
    let change = async {
        node.raft.add_learner(id, member, true).await?;
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        node.raft.change_membership(voters, true).await
    };
    complete(&node, change).await
}

async fn remove(State(node): State<Arc<Node>>, Path(id): Path<NodeId>) -> Changed {
    check_leads(&node)?;
    if id == node.id() {
        let detail = "this node leads; remove it while another leads";
        return Err(ApiError::conflict("is_leader", detail));
    }
    let current = node.raft.metrics().borrow().membership_config.clone();
    if current.membership().get_node(&id).is_none() {
        return Err(ApiError::conflict(
            "no_such_member",
            format!("node {id} is not a member"),
        ));
    }
    let change = async {
        // Both steps are taken by nodes that do not vote, too: they are learners first, then gone.
        let voters = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        node.raft.change_membership(voters, true).await?;
        node.raft
            .change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), true)
            .await
    };
    complete(&node, change).await
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

fn check_leads(node: &Node) -> Result<(), ApiError> {
    match node.standing().role {
        Role::Leader => Ok(()),
        Role::Replica | Role::Unknown => Err(ApiError::not_leader(node)),
    }
}

async fn complete<T>(
    node: &Node,
    change: impl Future<Output = Result<T, RaftError<NodeId, ClientWriteError<NodeId, Member>>>>,
) -> Changed {
    match tokio::time::timeout(CHANGE_LIMIT, change).await {
        Ok(Ok(_)) => {
            let current = node.raft.metrics().borrow().membership_config.clone();
            tracing::info!(members = %voters_text(current.membership()), "membership changed");
            Ok(Json(json!({"members": members(current.membership())})))
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            Err(ApiError::not_leader(node))
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
            Err(ApiError::conflict("refused", error))
        }
        Ok(Err(RaftError::Fatal(error))) => Err(ApiError::unavailable("stopping", error)),
        Err(_elapsed) => Err(ApiError::outcome_unknown(format!(
            "not agreed within {CHANGE_LIMIT:?}"
        ))),
    }
}

fn voters_text(membership: &Membership<NodeId, Member>) -> String {
    let voters: BTreeMap<NodeId, ()> = membership.voter_ids().map(|id| (id, ())).collect();
    voters
        .keys()
        .map(NodeId::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
