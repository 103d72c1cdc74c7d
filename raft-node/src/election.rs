//! Whether and when a node stands for election. ADR 0028.
//!
//! *Whether*: pre-vote, which openraft 0.9 lacks. A node may stand only while a quorum agrees that there is no leader. Without it a node that
//! was cut off, or stopped and continued, comes back with a higher term and deposes a leader that everybody else follows.
//!
//! *When*: openraft waits for the leader's lease, then for a random election timeout, then for its next tick. Here the voters of a leader that
//! fell silent stand as soon as its lease is over, one after the other, so that they do not split the vote. Whoever does not win, and whoever
//! never heard from a leader, waits for a random election timeout.
//!
//! openraft's own elections are switched off: they are begun on a permission given earlier, and a process that was stopped in between would find
//! it still given when it is continued.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::{Membership, ServerState};
use serde::{Deserialize, Serialize};

use crate::cluster::{LogId, Member, NodeId, Vote};
use crate::node::Node;
use crate::role::Phase;

/// Between two questions to the others in one turn.
const RETRY: Duration = Duration::from_millis(10);

/// What a node asks the others before it stands for election.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PreVote {
    /// The end of its log: who lacks an entry that another has must not lead it.
    pub last_log: Option<LogId>,
}

/// Stands when it is this node's turn, for as long as the node runs.
pub async fn stand_in_turn(node: Arc<Node>) {
    let heartbeat = node.settings.heartbeat();
    let mut timer = Timer::new(&node);
    // A leader is followed by one turn of ours.
    let mut tried = None;
    let mut asked = None;
    loop {
        let before = vote(&node);
        let turn = turn(&node).filter(|turn| tried != Some(turn.after));
        let (due, retry) = match turn {
            Some(turn) => (turn.due, RETRY.min(heartbeat)),
            None => (timer.due(&node), heartbeat),
        };
        let next = asked.map_or(due, |asked: Instant| due.max(asked + retry));
        let left = next.saturating_duration_since(Instant::now());
        // What it waits for may change meanwhile.
        tokio::time::sleep(left.min(heartbeat)).await;
        if Instant::now() < next {
            continue;
        }
        let asking = Instant::now();
        asked = Some(asking);
        if !may_stand(&node).await {
            continue;
        }
        // Somebody may have stood since this node's time was worked out, or led; and while this process was stopped, without being heard here.
        if before != vote(&node) || has_leader(&node) || asking.elapsed() > heartbeat {
            continue;
        }
        match turn {
            Some(turn) => tried = Some(turn.after),
            None => timer.restart(&node),
        }
        // Where Raft has ended there is nothing to win.
        let _ = node.raft.trigger().elect().await;
    }
}

/// When a node may stand that has no turn: a random election timeout after it last voted or stood.
#[derive(Debug)]
struct Timer {
    vote: Vote,
    due: Instant,
}

impl Timer {
    fn new(node: &Node) -> Self {
        let vote = vote(node);
        let raft = &node.settings.raft;
        let timeout = raft.new_rand_election_timeout::<openraft::TokioRuntime>();
        // Nobody votes for another while the lease of the leader runs that it confirmed.
        let lease = if vote.is_committed() {
            lease(node)
        } else {
            Duration::ZERO
        };
        Self {
            vote,
            due: Instant::now() + lease + Duration::from_millis(timeout),
        }
    }

    fn restart(&mut self, node: &Node) {
        *self = Self::new(node);
    }

    fn due(&mut self, node: &Node) -> Instant {
        if vote(node) != self.vote {
            self.restart(node);
        }
        self.due
    }
}

fn vote(node: &Node) -> Vote {
    node.raft.metrics().borrow().vote
}

/// When it is a node's turn to stand.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// The leadership that may have ended.
    after: Vote,
    due: Instant,
}

/// The turn of this node, if it follows a leader that it has heard from: when that one's lease is over, and a heartbeat later for each voter
/// with a smaller number.
///
/// The half heartbeat is for the leader: its own claim ends with its lease, and it notices that a moment later.
fn turn(node: &Node) -> Option<Turn> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    if metrics.state != ServerState::Follower {
        return None;
    }
    let heard = node.leader_contact.from(metrics.vote)?;
    let heartbeat = node.settings.heartbeat();
    let membership = metrics.membership_config.membership();
    let place = place(membership, metrics.vote.leader_id.voted_for()?, node.id())?;
    Some(Turn {
        after: heard.vote,
        due: heard.at + lease(node) + heartbeat / 2 + heartbeat * place,
    })
}

/// How many voters come before `me` when `leader` is gone; `None` if `me` is no voter.
fn place(membership: &Membership<NodeId, Member>, leader: NodeId, me: NodeId) -> Option<u32> {
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let before = voters.iter().filter(|id| **id != leader && **id < me);
    let before = u32::try_from(before.count()).ok()?;
    voters.contains(&me).then_some(before)
}

/// Whether this node follows a leader whose lease runs, or is one.
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
    last_proof.is_some_and(|at| now.saturating_duration_since(at) <= lease(node))
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
    if !membership.voter_ids().any(|id| id == node.id()) {
        return false;
    }
    let asked = PreVote { last_log };
    let limit = node.settings.heartbeat();
    let mut answers: FuturesUnordered<_> = membership
        .nodes()
        .filter(|(id, _)| **id != node.id())
        .map(|(&id, member)| async move {
            let peer = node.peers.peer(id, member);
            let granted: Result<bool, _> = peer.call("pre-vote", &asked, limit).await;
            granted.unwrap_or(false).then_some(id)
        })
        .collect();
    let mut granted = BTreeSet::from([node.id()]);
    // The one that is lost may take all of the limit: a quorum is enough.
    while !is_quorum(membership, &granted) {
        match answers.next().await {
            Some(answer) => granted.extend(answer),
            None => return false,
        }
    }
    true
}

/// Whether the nodes that `granted` are a majority of every configuration. A node that knows of no configuration knows of no quorum.
pub fn is_quorum(membership: &Membership<NodeId, Member>, granted: &BTreeSet<NodeId>) -> bool {
    let majority =
        |voters: &BTreeSet<NodeId>| voters.intersection(granted).count() > voters.len() / 2;
    let configs = membership.get_joint_config();
    !configs.is_empty() && configs.iter().all(majority)
}

/// How long a voter refuses all others after it heard from a leader: openraft's own rule.
fn lease(node: &Node) -> Duration {
    Duration::from_millis(node.settings.raft.election_timeout_max)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// (configurations, nodes that granted, whether they are a quorum)
    type Row = (&'static [&'static [NodeId]], &'static [NodeId], bool);

    fn membership(configs: &[&[NodeId]], learners: &[NodeId]) -> Membership<NodeId, Member> {
        let configs: Vec<BTreeSet<NodeId>> = configs
            .iter()
            .map(|config| config.iter().copied().collect())
            .collect();
        let nodes: BTreeMap<NodeId, Member> = configs
            .iter()
            .flatten()
            .chain(learners)
            .map(|&id| (id, Member::default()))
            .collect();
        Membership::new(configs, nodes)
    }

    #[test]
    fn voters_take_turns_without_the_leader_that_is_gone() {
        let members = membership(&[&[1, 2, 4], &[2, 4, 7]], &[3]);
        let places = |leader| [1, 2, 3, 4, 7, 9].map(|me| place(&members, leader, me));
        assert_eq!(places(9), [Some(0), Some(1), None, Some(2), Some(3), None]);
        assert_eq!(places(2), [Some(0), Some(1), None, Some(1), Some(2), None]);
    }

    #[test]
    fn a_quorum_is_a_majority_of_every_configuration() {
        let table: &[Row] = &[
            (&[], &[1], false),
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
                is_quorum(&membership(configs, &[]), &granted),
                *expected,
                "{configs:?} {granted:?}"
            );
        }
    }
}
