//! A leader that is told to stop hands its office over first, so that a planned stop costs the writers less than a crash.
//!
//! openraft 0.9 has no transfer of leadership. What it has is enough: the leader falls silent, the followers' loyalty to it runs out, and
//! then one of them, which has all of the log, is asked to stand at once instead of waiting for its own timer.

use std::time::Duration;

use crate::cluster::NodeId;
use crate::node::Node;

/// How long a follower may take to win, beyond the followers' loyalty.
const ELECTION_LIMIT: Duration = Duration::from_secs(1);

/// What becomes of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// This node did not lead.
    NotNeeded,
    /// That node leads now.
    To(NodeId),
    /// Nobody took over in time; the others will elect someone when this node is gone.
    Failed,
}

/// Makes another node the leader if this one is. Writes must be refused meanwhile: each would renew the followers' loyalty.
pub async fn run(node: &Node) -> Handover {
    let me = node.id();
    let mut metrics = node.raft.metrics();
    if metrics.borrow().current_leader != Some(me) {
        return Handover::NotNeeded;
    }
    node.raft.runtime_config().heartbeat(false);
    // Replication answers are still taken, so after this pause the leader knows who has what.
    let loyalty =
        Duration::from_millis(node.settings.raft.election_timeout_max) + node.settings.heartbeat();
    tokio::time::sleep(loyalty).await;
    let Some((successor, member)) = successor(node) else {
        return Handover::Failed;
    };
    let asked: Result<(), _> = node
        .peers
        .peer(successor, &member)
        .call("stand", &(), ELECTION_LIMIT)
        .await;
    if let Err(error) = asked {
        tracing::warn!(successor, %error, "handover refused");
    }
    let succeeded = metrics.wait_for(|now| now.current_leader.is_some_and(|leader| leader != me));
    match tokio::time::timeout(ELECTION_LIMIT, succeeded).await {
        Ok(Ok(now)) => now.current_leader.map_or(Handover::Failed, Handover::To),
        Ok(Err(_)) | Err(_) => Handover::Failed,
    }
}

/// The voter whose log is longest.
fn successor(node: &Node) -> Option<(NodeId, crate::cluster::Member)> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let (&id, _) = metrics
        .replication
        .as_ref()?
        .iter()
        .filter(|(id, _)| **id != node.id() && membership.voter_ids().any(|voter| voter == **id))
        .max_by_key(|(_, matched)| **matched)?;
    Some((id, membership.get_node(&id)?.clone()))
}
