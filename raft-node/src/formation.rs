//! How a cluster begins: a node with an empty directory forms it, unless one of its peers already has.
//!
//! All nodes of a new cluster write the same first entry, so it does no harm when several of them do. But a node that is late, and forms
//! what the others have long formed, would stand for election against a leader that it has not met.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::error::{InitializeError, RaftError};
use thiserror::Error;

use crate::node::Node;

/// How long to leave the peers alone that are to bring this node in.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Why a cluster cannot be formed.
#[derive(Debug, Error)]
#[error("cannot form the cluster: {0}")]
pub struct FormError(String);

/// Forms the cluster that the settings name, or waits for the peers that have formed it to bring this node in. Returns when this node
/// belongs to a cluster; one that was told to join waits until it is added.
///
/// # Errors
/// Where openraft refuses the membership, or has ended.
pub async fn form(node: Arc<Node>) -> Result<(), FormError> {
    while !is_member(&node).await? {
        if node.settings.join || a_peer_is_member(&node).await {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        match node.raft.initialize(node.settings.cluster.clone()).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Ok(()),
            Err(error @ RaftError::APIError(InitializeError::NotInMembers(_)))
            | Err(error @ RaftError::Fatal(_)) => return Err(FormError(error.to_string())),
        }
    }
    Ok(())
}

async fn is_member(node: &Node) -> Result<bool, FormError> {
    node.raft
        .is_initialized()
        .await
        .map_err(|error| FormError(error.to_string()))
}

async fn a_peer_is_member(node: &Node) -> bool {
    let limit = node.settings.heartbeat();
    let peers = node
        .settings
        .cluster
        .iter()
        .filter(|(id, _)| **id != node.id());
    let answers = peers.map(|(&id, member)| async move {
        let formed: Result<bool, _> = node.peers.peer(id, member).call("formed", &(), limit).await;
        // A peer that is not there yet has formed nothing that this node must respect.
        formed.unwrap_or(false)
    });
    join_all(answers).await.contains(&true)
}
