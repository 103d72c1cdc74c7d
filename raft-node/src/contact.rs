//! When this node last heard from the others: a leader from a quorum, a replica from its leader.
//!
//! openraft's metrics hold an age as of their last refresh, which a stopped and continued process would take for fresh. These are
//! moments of the monotonic clock, taken before a message is sent, so that an age is true whenever it is asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use openraft::Membership;
use tokio::sync::watch;

use crate::cluster::{Member, NodeId, Vote};

/// For a leader: when each other node last acknowledged it.
#[derive(Debug, Default)]
pub struct QuorumClock {
    acks: Mutex<Acks>,
}

#[derive(Debug, Default)]
struct Acks {
    /// The leadership that the acknowledgements are for.
    vote: Vote,
    sent_at: BTreeMap<NodeId, Instant>,
}

impl QuorumClock {
    /// Notes that `from` acknowledged the leader of `vote` in answer to a message sent at `sent_at`.
    pub fn record(&self, vote: Vote, from: NodeId, sent_at: Instant) {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if vote > acks.vote {
            *acks = Acks {
                vote,
                sent_at: BTreeMap::new(),
            };
        }
        if vote == acks.vote {
            let newest = acks.sent_at.entry(from).or_insert(sent_at);
            *newest = sent_at.max(*newest);
        }
    }

    /// When `from` last acknowledged the leader of `vote`.
    pub fn acked_at(&self, vote: Vote, from: NodeId) -> Option<Instant> {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.sent_at
            .get(&from)
            .copied()
            .filter(|_| acks.vote == vote)
    }

    /// The latest moment at which a quorum of `membership` still followed the leader `me` of `vote`; `None` if it never did.
    ///
    /// The leader counts as acknowledging itself `now`.
    pub fn quorum_acked_at(
        &self,
        vote: Vote,
        me: NodeId,
        membership: &Membership<NodeId, Member>,
        now: Instant,
    ) -> Option<Instant> {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        let acked_at = |voter: &NodeId| match *voter == me {
            true => Some(now),
            false if acks.vote == vote => acks.sent_at.get(voter).copied(),
            false => None,
        };
        // While the membership changes there are two configurations, and a quorum of each is needed.
        membership
            .get_joint_config()
            .iter()
            .map(|voters| {
                let mut moments: Vec<Option<Instant>> = voters.iter().map(acked_at).collect();
                moments.sort_unstable_by(|a, b| b.cmp(a));
                moments.get(voters.len() / 2).copied().flatten()
            })
            .min()
            .flatten()
    }
}

/// A replica's last message from a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The leadership that sent it.
    pub vote: Vote,
    /// When it was accepted.
    pub at: Instant,
    /// How far the leader's log was committed.
    pub commit_index: u64,
}

/// For a replica: its last accepted AppendEntries or snapshot.
#[derive(Debug)]
pub struct LeaderContact {
    last: watch::Sender<Option<Heard>>,
}

impl LeaderContact {
    /// Notes an accepted message.
    pub fn record(&self, heard: Heard) {
        self.last.send_if_modified(|last| {
            let newer = last.is_none_or(|last| heard.vote >= last.vote);
            if newer {
                *last = Some(heard);
            }
            newer
        });
    }

    /// The last message from the leader of `vote`, if it sent one.
    pub fn from(&self, vote: Vote) -> Option<Heard> {
        self.latest().filter(|last| last.vote == vote)
    }

    /// The last message from whichever leader.
    pub fn latest(&self) -> Option<Heard> {
        *self.last.borrow()
    }

    /// Follows the messages.
    pub fn follow(&self) -> watch::Receiver<Option<Heard>> {
        self.last.subscribe()
    }
}

impl Default for LeaderContact {
    fn default() -> Self {
        Self {
            last: watch::Sender::new(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    const ME: NodeId = 1;

    fn membership(configs: &[&[NodeId]]) -> Membership<NodeId, Member> {
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
    }

    fn vote(term: u64) -> Vote {
        Vote::new_committed(term, ME)
    }

    /// (configurations, milliseconds since each other node's last acknowledgement, expected age of the quorum's)
    type Row = (
        &'static [&'static [NodeId]],
        &'static [(NodeId, u64)],
        Option<u64>,
    );

    #[test]
    fn the_age_is_that_of_the_oldest_acknowledgement_that_a_quorum_needs() {
        let table: &[Row] = &[
            (&[&[1]], &[], Some(0)),
            (&[&[1, 2, 3]], &[], None),
            (&[&[1, 2, 3]], &[(2, 40)], Some(40)),
            (&[&[1, 2, 3]], &[(2, 400), (3, 30)], Some(30)),
            (&[&[1, 2]], &[(2, 70)], Some(70)),
            (&[&[1, 2, 3, 4, 5]], &[(2, 10), (3, 20), (4, 30)], Some(20)),
            (&[&[1, 2, 3, 4, 5]], &[(2, 10)], None),
            // A leader that is not a voter itself needs the quorum of the others.
            (&[&[2, 3]], &[(2, 10), (3, 90)], Some(90)),
            // Both configurations of a change must agree.
            (&[&[1, 2, 3], &[1, 4, 5]], &[(2, 10), (4, 50)], Some(50)),
            (&[&[1, 2, 3], &[1, 4, 5]], &[(2, 10), (3, 10)], None),
        ];
        for (configs, acks, expected) in table {
            let clock = QuorumClock::default();
            let now = Instant::now() + Duration::from_secs(1);
            for &(from, age) in *acks {
                clock.record(vote(3), from, now - Duration::from_millis(age));
            }
            let acked_at = clock.quorum_acked_at(vote(3), ME, &membership(configs), now);
            let age = acked_at.map(|at| u64::try_from((now - at).as_millis()).unwrap());
            assert_eq!(age, *expected, "{configs:?} {acks:?}");
        }
    }

    #[test]
    fn acknowledgements_of_an_older_term_do_not_count() {
        let clock = QuorumClock::default();
        let now = Instant::now();
        let three = membership(&[&[1, 2, 3]]);
        clock.record(vote(3), 2, now);
        assert_eq!(clock.quorum_acked_at(vote(4), ME, &three, now), None);
        clock.record(vote(4), 3, now);
        clock.record(vote(3), 2, now);
        assert_eq!(clock.quorum_acked_at(vote(4), ME, &three, now), Some(now));
        assert_eq!(clock.quorum_acked_at(vote(3), ME, &three, now), None);
    }

    #[test]
    fn a_late_answer_does_not_turn_the_clock_back() {
        let clock = QuorumClock::default();
        let now = Instant::now() + Duration::from_secs(1);
        clock.record(vote(3), 2, now);
        clock.record(vote(3), 2, now - Duration::from_millis(500));
        assert_eq!(
            clock.quorum_acked_at(vote(3), ME, &membership(&[&[1, 2, 3]]), now),
            Some(now)
        );
    }

    #[test]
    fn a_message_of_a_deposed_leader_does_not_hide_the_new_one() {
        let contact = LeaderContact::default();
        let now = Instant::now();
        let heard = |term| Heard {
            vote: vote(term),
            at: now,
            commit_index: term,
        };
        contact.record(heard(5));
        contact.record(heard(4));
        assert_eq!(contact.from(vote(4)), None);
        assert_eq!(contact.from(vote(5)), Some(heard(5)));
    }
}
