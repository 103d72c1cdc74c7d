//! How a node learns that it was removed from the cluster, also when that happened while it was down.
//!
//! Nobody speaks to a node that is no member, so it cannot be told. A node that hears from no leader asks the members that it knows: one
//! whose newer membership lacks the asker is proof. The answer of a node that is itself behind proves nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ServerState;
use serde::{Deserialize, Serialize};

use crate::cluster::NodeId;
use crate::node::Node;

/// What a node knows of another's membership.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Belonging {
    /// The log entry that holds the newest membership that the one who answers has applied.
    pub index: Option<u64>,
    /// Whether the asker is in it.
    pub member: bool,
}

/// Looks, for as long as the node runs, whether it still belongs to the cluster.
pub async fn look(node: Arc<Node>) {
    loop {
        tokio::time::sleep(Duration::from_millis(
            node.settings.raft.election_timeout_max,
        ))
        .await;
        let removed = !is_in_touch(&node) && was_removed(&node).await && !is_in_touch(&node);
        node.note_removal(removed);
    }
}

/// Answers another node that hears from nobody.
pub fn belongs(node: &Node, asker: NodeId) -> Belonging {
    node.machine.look(|applied| Belonging {
        index: applied.membership.log_id().map(|id| id.index),
        member: applied.membership.membership().get_node(&asker).is_some(),
    })
}

fn is_in_touch(node: &Node) -> bool {
    let leads = node.raft.metrics().borrow().state == ServerState::Leader;
    let heard = node.leader_contact.latest();
    leads
        || heard.is_some_and(|heard| heard.at.elapsed() < node.settings.freshness().contact_age_max)
}

async fn was_removed(node: &Node) -> bool {
    let known = node.raft.metrics().borrow().membership_config.clone();
    let index = known.log_id().map(|id| id.index);
    let me = node.id();
    let others = known.nodes().filter(|(id, _)| **id != me);
    let answers = others.map(|(&id, member)| async move {
        let peer = node.peers.peer(id, member);
        peer.call("belongs", &me, node.settings.heartbeat())
            .await
            .ok()
    });
    let answers: Vec<Option<Belonging>> = join_all(answers).await;
    answers
        .into_iter()
        .flatten()
        .any(|answer| answer.index > index && !answer.member)
}
