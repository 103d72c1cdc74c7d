//! One running node: its Raft, its store, its queues, and what it may say of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openraft::ServerState;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{Mutex, RwLock, RwLockWriteGuard, watch};

use crate::cluster::{NodeId, Raft, RaftMetrics};
use crate::config::Settings;
use crate::config::raw::Consistency;
use crate::contact::{LeaderContact, QuorumClock};
use crate::kv::Command;
use crate::metrics::Metrics;
use crate::network::Peers;
use crate::outbound::Outbound;
use crate::read_index::{ReadError, ReadIndex, Source};
use crate::role::{self, Observation, Phase, Role, Standing};
use crate::store::{self, LogStore, Machine, OpenError};
use crate::write_queue::{WriteError, WriteQueue, Written};

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its data directory cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The directory opens, but what is in it does not make a node.
    #[error("data directory {path} is damaged: {reason}")]
    Damaged {
        /// The directory.
        path: String,
        /// What does not fit.
        reason: String,
    },
}

/// One running node.
pub struct Node {
    /// What it was started with.
    pub settings: Settings,
    /// Its Raft.
    pub raft: Raft,
    /// Its state machine.
    pub machine: Machine,
    /// Its log.
    pub log: LogStore,
    /// When it last heard from the leader.
    pub leader_contact: LeaderContact,
    /// What it counts.
    pub metrics: Metrics,
    /// The way to the others.
    pub peers: Peers,
    /// Held by the one change of the membership that is under way.
    pub membership_changes: Mutex<()>,
    writes: WriteQueue,
    /// Read by each write while it is under way.
    writes_held: RwLock<()>,
    reads: ReadIndex,
    phase: watch::Sender<Phase>,
    removed: AtomicBool,
}

/// What a node says of itself, as a JSON body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its number.
    pub id: NodeId,
    /// Its role, as far as it can be proved.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader, as far as this node knows one; a leader without proof does not name itself.
    pub leader: Option<NodeId>,
    /// Where clients reach that leader.
    pub leader_api: Option<String>,
    /// Index of the last applied log entry.
    pub last_applied: u64,
    /// How many committed entries it still has to apply, as of the leader's last message.
    pub lag: u64,
    /// For a leader: milliseconds since a quorum last confirmed it.
    pub quorum_age_ms: Option<u64>,
    /// The log entry that holds the newest membership that it has applied.
    pub members_index: Option<u64>,
    /// Why the role is what it is, for people.
    pub reason: &'static str,
}

/// The address of the leader, for clients that came to the wrong node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaderHint {
    /// Its number.
    pub id: NodeId,
    /// Where clients reach it.
    pub api: String,
}

/// Why a read gets no answer.
#[derive(Debug, Clone, Error)]
pub enum GetError {
    /// A lease read came to a node that does not hold the lease.
    #[error("this node does not hold the leader's lease")]
    NoLease,
    /// What this node has will never be renewed.
    #[error("this node was removed from the cluster")]
    Removed,
    /// A linearizable read could not be confirmed.
    #[error(transparent)]
    ReadIndex(#[from] ReadError),
}

impl Node {
    /// Opens the data directory and starts Raft on it.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let store::Store { log, machine } = store::open(&settings.data, settings.id)?;
        let damaged = |reason: String| StartError::Damaged {
            path: settings.data.display().to_string(),
            reason,
        };
        let quorum = Arc::new(QuorumClock::default());
        let peers = Peers {
            outbound: Outbound::new(),
            quorum,
            log: log.clone(),
            retry_after: settings.heartbeat(),
        };
        let config = Arc::new(settings.raft.clone());
        let raft = Raft::new(
            settings.id,
            config,
            peers.clone(),
            log.clone(),
            machine.clone(),
        )
        .await;
        let raft = raft.map_err(|error| damaged(error.to_string()))?;
        let writes = WriteQueue::start(raft.clone(), settings.write_timeout);
        let source = Source {
            me: settings.id,
            raft: raft.clone(),
            peers: peers.clone(),
            limit: settings.write_timeout,
            patience: settings.freshness().contact_age_max,
        };
        let reads = ReadIndex::start(source, machine.clone());
        let node = Arc::new(Self {
            raft,
            machine,
            log,
            leader_contact: LeaderContact::default(),
            metrics: Metrics::new(),
            peers,
            membership_changes: Mutex::default(),
            writes,
            writes_held: RwLock::default(),
            reads,
            phase: watch::Sender::new(Phase::Serving),
            removed: AtomicBool::new(false),
            settings,
        });
        Ok(node)
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    /// Enters the next phase of the process's life.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Follows the phase.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether the others have a newer membership without this node.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Notes whether they have.
    pub fn note_removal(&self, removed: bool) {
        if self.removed.swap(removed, Ordering::Relaxed) != removed {
            tracing::warn!(removed, "membership");
        }
    }

    /// Writes one command through the log.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let _under_way = self.writes_held.read().await;
        self.writes.write(command).await
    }

    /// Returns when no write is under way; until the guard is dropped, those that arrive wait.
    pub async fn hold_writes(&self) -> RwLockWriteGuard<'_, ()> {
        self.writes_held.write().await
    }

    /// Reads one key as current as asked for; `None` where it holds no value.
    ///
    /// # Errors
    /// See [`GetError`]; an eventual read fails on a node that was removed, and nowhere else.
    pub async fn get(
        &self,
        key: &str,
        consistency: Consistency,
    ) -> Result<Option<Arc<str>>, GetError> {
        if self.is_removed() {
            return Err(GetError::Removed);
        }
        match consistency {
            Consistency::Linearizable => self.reads.catch_up().await?,
            Consistency::Lease | Consistency::Eventual => {}
        }
        let value = self.machine.look(|applied| applied.kv.get(key));
        // The lease is looked at after the value: if it holds now, it held when the value was read.
        if consistency == Consistency::Lease && self.standing().role != Role::Leader {
            return Err(GetError::NoLease);
        }
        Ok(value)
    }

    /// How far the log is committed, confirmed by a quorum: what a replica asks its leader.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn committed_index(&self) -> Result<u64, ReadError> {
        self.reads.committed_index().await
    }

    /// What this node may say of its role now.
    pub fn standing(&self) -> Standing {
        self.observe(&self.raft.metrics().borrow()).1
    }

    /// What this node says of itself now.
    pub fn report(&self) -> Report {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let (now, standing) = self.observe(&metrics);
        let leader = match standing.role {
            Role::Leader | Role::Replica => now.leader,
            Role::Unknown => None,
        };
        let api = leader.and_then(|id| api_address(&metrics, id));
        let commit_index = self
            .leader_contact
            .latest()
            .map_or(0, |heard| heard.commit_index);
        let lag = match now.state {
            ServerState::Leader => 0,
            _ => commit_index.saturating_sub(now.applied.index),
        };
        Report {
            id: self.id(),
            role: standing.role,
            term: now.term,
            leader,
            leader_api: api,
            last_applied: now.applied.index,
            lag,
            quorum_age_ms: now
                .quorum_age
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            members_index: self
                .machine
                .look(|applied| applied.membership.log_id().map(|id| id.index)),
            reason: standing.reason,
        }
    }

    /// Where a client that wants to write should go, if this node knows a leader other than itself, or is it.
    pub fn leader_hint(&self) -> Option<LeaderHint> {
        let Report {
            leader, leader_api, ..
        } = self.report();
        Some(LeaderHint {
            id: leader?,
            api: leader_api?,
        })
    }

    /// Whether Raft still runs; where it does not, why.
    pub fn failure(&self) -> Option<String> {
        self.raft
            .metrics()
            .borrow()
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string)
    }

    fn observe(&self, metrics: &RaftMetrics) -> (Observation, Standing) {
        let now = Instant::now();
        let membership = metrics.membership_config.membership();
        let age = |at: Instant| -> Duration { now.saturating_duration_since(at) };
        let quorum_age = match metrics.state {
            ServerState::Leader => self
                .peers
                .quorum
                .quorum_acked_at(metrics.vote, self.id(), membership, now)
                .map(age),
            _ => None,
        };
        let state = match &metrics.running_state {
            Ok(()) => metrics.state,
            Err(_fatal) => ServerState::Shutdown,
        };
        let observation = Observation {
            phase: *self.phase.borrow(),
            removed: self.is_removed(),
            state,
            term: metrics.current_term,
            leader: metrics.current_leader,
            applied: *self.machine.mark().borrow(),
            quorum_age,
            contact_age: self
                .leader_contact
                .from(metrics.vote)
                .map(|heard| age(heard.at)),
        };
        (
            observation,
            role::decide(&observation, &self.settings.freshness()),
        )
    }
}

fn api_address(metrics: &RaftMetrics, id: NodeId) -> Option<String> {
    metrics
        .membership_config
        .membership()
        .get_node(&id)
        .map(|member| member.api.to_string())
}
