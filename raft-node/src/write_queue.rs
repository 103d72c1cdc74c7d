//! Gathers the writes of many clients into one log entry, and so into one fsync per node.
//!
//! openraft 0.9 makes one fsync per entry and waits for it, so the number of entries per second is bounded by the disk. While as many
//! entries are under way as `IN_FLIGHT` allows, further writes wait and go together in the next.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::cluster::{Member, NodeId, Raft};
use crate::kv::{Batch, Command, Outcome};

/// Entries that may wait for their quorum at a time: while one is being replicated, the next is written to the leader's disk.
const IN_FLIGHT: usize = 2;
/// Limits of one entry. It must reach a follower and its disk within a heartbeat, openraft's limit for a message.
const COMMANDS_MAX: usize = 512;
const BYTES_MAX: usize = 128 << 10;
/// Writes that may wait for an entry; beyond it they wait for a place.
const WAITING_MAX: usize = 4096;

/// A write that a quorum has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The log entry that holds it. Writes of several clients may share one.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// What the command found.
    pub outcome: Outcome,
}

/// Why a write is not acknowledged.
#[derive(Debug, Clone, Error)]
pub enum WriteError {
    /// Nothing was written.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, if this node knows.
        leader: Option<NodeId>,
    },
    /// The write may or may not take effect, now or later.
    #[error("no quorum confirmed the write within {0:?}")]
    Unknown(Duration),
    /// The node ends.
    #[error("this node is stopping")]
    Stopped,
}

struct Waiting {
    command: Command,
    reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// The place where writes wait; clones share it.
#[derive(Clone)]
pub struct WriteQueue {
    waiting: mpsc::Sender<Waiting>,
    limit: Duration,
}

impl WriteQueue {
    /// Starts the task that proposes what is queued. It ends when the last clone is dropped.
    pub fn start(raft: Raft, limit: Duration) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(propose_all(raft, queue, limit));
        Self { waiting, limit }
    }

    /// Writes `command`; returns when a quorum has it on disk and this node has applied it.
    ///
    /// # Errors
    /// See [`WriteError`]; only [`WriteError::NotLeader`] promises that nothing happened.
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let write = async {
            self.waiting
                .send(Waiting { command, reply })
                .await
                .map_err(|_closed| WriteError::Stopped)?;
            answer.await.unwrap_or(Err(WriteError::Unknown(self.limit)))
        };
        tokio::time::timeout(self.limit, write)
            .await
            .unwrap_or(Err(WriteError::Unknown(self.limit)))
    }
}

async fn propose_all(raft: Raft, mut queue: mpsc::Receiver<Waiting>, limit: Duration) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut metrics = raft.metrics();
    let mut next = None;
    loop {
        let Some(first) = (match next.take() {
            Some(left_over) => Some(left_over),
            None => queue.recv().await,
        }) else {
            return;
        };
        // Those under way may wait for a quorum that never comes. That another leads is then news for those behind it.
        let deposed = metrics.wait_for(|now| now.current_leader.is_some_and(|id| id != now.id));
        let permit = tokio::select! {
            biased;
            deposed = deposed => match deposed {
                Ok(now) => {
                    let leader = now.current_leader;
                    // The one who asked may have gone away.
                    let _ = first.reply.send(Err(WriteError::NotLeader { leader }));
                    continue;
                }
                Err(_closed) => return,
            },
            permit = Arc::clone(&in_flight).acquire_owned() => permit,
        };
        let Ok(permit) = permit else {
            return;
        };
        let batch;
        (batch, next) = gather(first, &mut queue);
        let raft = raft.clone();
        tokio::spawn(async move {
            propose(&raft, batch, limit).await;
            drop(permit);
        });
    }
}

/// Takes what is queued, up to the limits of one entry; what was taken but does not fit comes back.
fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>) -> (Vec<Waiting>, Option<Waiting>) {
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut candidate = Some(first);
    while let Some(waiting) = candidate {
        // Whoever gave up waiting was told that the outcome is unknown: better that nothing comes of it.
        if !waiting.reply.is_closed() {
            bytes += waiting.command.len_bytes();
            if !batch.is_empty() && (bytes > BYTES_MAX || batch.len() == COMMANDS_MAX) {
                return (batch, Some(waiting));
            }
            batch.push(waiting);
        }
        candidate = queue.try_recv().ok();
    }
    (batch, None)
}

async fn propose(raft: &Raft, batch: Vec<Waiting>, limit: Duration) {
    if batch.is_empty() {
        return;
    }
    let (commands, replies): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|Waiting { command, reply }| (command, reply))
        .unzip();
    let proposed = tokio::time::timeout(limit, raft.client_write(Batch::from(commands))).await;
    let error = match proposed {
        Ok(Ok(written)) => {
            let (index, term) = (written.log_id.index, written.log_id.leader_id.term);
            for (reply, outcome) in replies.into_iter().zip(written.data.0) {
                // A client that went away needs no answer.
                let _ = reply.send(Ok(Written {
                    index,
                    term,
                    outcome,
                }));
            }
            return;
        }
        Ok(Err(error)) => write_error(&error, limit),
        Err(_elapsed) => WriteError::Unknown(limit),
    };
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

fn write_error(
    error: &RaftError<NodeId, ClientWriteError<NodeId, Member>>,
    limit: Duration,
) -> WriteError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => WriteError::NotLeader {
            leader: forward.leader_id,
        },
        // Answers to a change of the membership, which no command is.
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
            WriteError::Unknown(limit)
        }
        // The core ended with the entry possibly in its log.
        RaftError::Fatal(_) => WriteError::Unknown(limit),
    }
}
