//! Linearizable reads on any node: learn how far the log is committed from a leader that a quorum confirms, then wait until this node has
//! applied as much.
//!
//! Reads that arrive while a round is under way share the next one, so the cost of a round does not depend on how many clients read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::{NodeId, Raft};
use crate::network::Peers;
use crate::store::{AppliedMark, Machine};

/// Reads that may wait for a round; beyond it they wait for a place.
const WAITING_MAX: usize = 4096;
/// Pause between two tries while there is no leader.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Why a read cannot be answered linearizably.
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    /// There is no leader that this node knows of.
    #[error("no leader is known")]
    NoLeader,
    /// The leader could not be reached, or no quorum confirmed it.
    #[error("the leader was not confirmed: {0}")]
    NotConfirmed(Arc<str>),
    /// Too slow: the leader, its quorum, or this node, which must catch up first.
    #[error("not confirmed within {0:?}")]
    Timeout(Duration),
}

/// Who may be asked for the committed index.
#[derive(Clone)]
pub struct Source {
    /// This node's number.
    pub me: NodeId,
    /// This node's Raft.
    pub raft: Raft,
    /// The way to the leader, when that is another node.
    pub peers: Peers,
    /// How long one read may take.
    pub limit: Duration,
    /// For how long a read waits for an election to end before it is refused.
    pub patience: Duration,
}

type Reply = oneshot::Sender<Result<u64, ReadError>>;

/// The place where reads wait for their round; clones share it.
#[derive(Clone)]
pub struct ReadIndex {
    waiting: mpsc::Sender<Reply>,
    machine: Machine,
    limit: Duration,
    patience: Duration,
}

impl ReadIndex {
    /// Starts the task that runs the rounds. It ends when the last clone is dropped.
    pub fn start(source: Source, machine: Machine) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let (limit, patience) = (source.limit, source.patience);
        tokio::spawn(run_rounds(source, queue));
        Self {
            waiting,
            machine,
            limit,
            patience,
        }
    }

    /// An index that covers every write acknowledged before this call.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn committed_index(&self) -> Result<u64, ReadError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || ReadError::NotConfirmed("this node is stopping".into());
        self.waiting
            .send(reply)
            .await
            .map_err(|_closed| stopped())?;
        answer.await.unwrap_or_else(|_closed| Err(stopped()))
    }

    /// Returns when the state machine includes every write acknowledged before this call.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn catch_up(&self) -> Result<(), ReadError> {
        let mut mark = self.machine.mark();
        let started = Instant::now();
        let catch_up = async {
            let index = loop {
                match self.committed_index().await {
                    Ok(index) => break index,
                    Err(_) if started.elapsed() < self.patience => {
                        tokio::time::sleep(RETRY_AFTER).await
                    }
                    Err(error) => return Err(error),
                }
            };
            // The sender lives in the machine that this node holds.
            let _ = mark
                .wait_for(|applied: &AppliedMark| applied.index >= index)
                .await;
            Ok(())
        };
        tokio::time::timeout(self.limit, catch_up)
            .await
            .unwrap_or(Err(ReadError::Timeout(self.limit)))
    }
}

async fn run_rounds(source: Source, mut queue: mpsc::Receiver<Reply>) {
    while let Some(first) = queue.recv().await {
        // Only reads that were there before the round starts may share its answer.
        let mut replies = vec![first];
        while let Ok(reply) = queue.try_recv() {
            replies.push(reply);
        }
        let confirmed = source.confirm().await;
        for reply in replies {
            let _ = reply.send(confirmed.clone());
        }
    }
}

impl Source {
    async fn confirm(&self) -> Result<u64, ReadError> {
        let (leader, term, member) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let leader = metrics.current_leader.ok_or(ReadError::NoLeader)?;
            let member = metrics
                .membership_config
                .membership()
                .get_node(&leader)
                .cloned();
            (leader, metrics.current_term, member)
        };
        let asked = async {
            if leader == self.me {
                return self.confirm_self().await;
            }
            let member = member.ok_or(ReadError::NoLeader)?;
            let peer = self.peers.peer(leader, &member);
            let answer: Result<u64, _> = peer.call("read-index", &(), self.limit).await;
            answer.map_err(|error| ReadError::NotConfirmed(error.to_string().into()))
        };
        // A leader that hangs is worth waiting for only until there is another.
        let mut metrics = self.raft.metrics();
        let deposed =
            metrics.wait_for(|now| now.current_leader != Some(leader) || now.current_term != term);
        tokio::select! {
            confirmed = tokio::time::timeout(self.limit, asked) => {
                confirmed.unwrap_or(Err(ReadError::Timeout(self.limit)))
            }
            _ = deposed => Err(ReadError::NotConfirmed("the leader changed".into())),
        }
    }

    async fn confirm_self(&self) -> Result<u64, ReadError> {
        let confirmed = self.raft.get_read_log_id().await;
        let (read, _applied) =
            confirmed.map_err(|error| ReadError::NotConfirmed(error.to_string().into()))?;
        Ok(read.map_or(0, |id| id.index))
    }
}
