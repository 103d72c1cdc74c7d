//! Pre-vote, which openraft 0.9 lacks: a node may stand for election only while a quorum agrees that there is no leader.
//!
//! Without it a node that was cut off, or stopped and continued, comes back with a higher term and deposes a leader that everybody else
//! follows. openraft's own timers still decide when; this gate decides whether. It only ever holds an election back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use openraft::{Membership, ServerState};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use crate::cluster::{LogId, Member, NodeId};
use crate::node::Node;
use crate::role::Phase;

/// What a node asks the others before it stands for election.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PreVote {
    /// The end of its log: who lacks an entry that another has must not lead it.
    pub last_log: Option<LogId>,
}

/// Opens and closes the gate for as long as the node runs.
pub async fn guard(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(node.settings.heartbeat());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Looked at again after the answers: a leader may have spoken meanwhile.
        let open = may_stand(&node).await && !has_leader(&node);
        node.raft.runtime_config().elect(open);
    }
}

/// Closes the gate at the moment when a leader speaks: if the process is stopped right after, it must not find the gate open when it is
/// continued.
pub fn close(node: &Node) {
    node.raft.runtime_config().elect(false);
}

/// Whether this node follows a leader that spoke within the shortest election timeout, or is one that a quorum confirmed.
pub fn has_leader(node: &Node) -> bool {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    let now = Instant::now();
    let last_proof = match metrics.state {
        ServerState::Leader => {
            let membership = metrics.membership_config.membership();
            node.peers
                .quorum
                .quorum_acked_at(metrics.vote, node.id(), membership, now)
        }
        ServerState::Learner
        | ServerState::Follower
        | ServerState::Candidate
        | ServerState::Shutdown => node.leader_contact.from(metrics.vote).map(|heard| heard.at),
    };
    last_proof.is_some_and(|at| now.saturating_duration_since(at) < election_min(node))
}

/// Answers another node that would stand.
pub fn grant(node: &Node, asked: &PreVote) -> bool {
    !has_leader(node) && asked.last_log >= node.log.last_log_id()
}

async fn may_stand(node: &Node) -> bool {
    if *node.phase().borrow() != Phase::Serving || node.is_removed() || has_leader(node) {
        return false;
    }
    let last_log = node.log.last_log_id();
    let membership = node.raft.metrics().borrow().membership_config.clone();
    let membership = membership.membership();
    let asked = PreVote { last_log };
    let limit = node.settings.heartbeat();
    let answers =
        membership
            .nodes()
            .filter(|(id, _)| **id != node.id())
            .map(|(&id, member)| async move {
                let granted: Result<bool, _> = node
                    .peers
                    .peer(id, member)
                    .call("pre-vote", &asked, limit)
                    .await;
                granted.unwrap_or(false).then_some(id)
            });
    let mut granted: BTreeSet<NodeId> = join_all(answers).await.into_iter().flatten().collect();
    granted.insert(node.id());
    is_quorum(membership, &granted)
}

/// Whether the nodes that `granted` are a majority of every configuration.
pub fn is_quorum(membership: &Membership<NodeId, Member>, granted: &BTreeSet<NodeId>) -> bool {
    let majority =
        |voters: &BTreeSet<NodeId>| voters.intersection(granted).count() > voters.len() / 2;
    membership.get_joint_config().iter().all(majority)
}

fn election_min(node: &Node) -> Duration {
    Duration::from_millis(node.settings.raft.election_timeout_min)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// (configurations, nodes that granted, whether they are a quorum)
    type Row = (&'static [&'static [NodeId]], &'static [NodeId], bool);

    #[test]
    fn a_quorum_is_a_majority_of_every_configuration() {
        let membership = |configs: &[&[NodeId]]| {
            let configs: Vec<BTreeSet<NodeId>> = configs
                .iter()
                .map(|config| config.iter().copied().collect())
                .collect();
            let nodes: BTreeMap<NodeId, Member> = configs
                .iter()
                .flatten()
                .map(|&id| (id, Member::default()))
                .collect();
            Membership::new(configs, nodes)
        };
        let table: &[Row] = &[
            (&[&[1]], &[1], true),
            (&[&[1, 2]], &[1], false),
            (&[&[1, 2, 3]], &[1], false),
            (&[&[1, 2, 3]], &[1, 3], true),
            (&[&[1, 2, 3]], &[1, 4, 5], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[1, 2], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4], true),
        ];
        for (configs, granted, expected) in table {
            let granted = granted.iter().copied().collect();
            assert_eq!(
                is_quorum(&membership(configs), &granted),
                *expected,
                "{configs:?} {granted:?}"
            );
        }
    }
}
