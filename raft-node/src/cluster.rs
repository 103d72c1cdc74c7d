//! The types that openraft is instantiated with: node ids, members, what a log entry and a snapshot hold.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::kv::{Batch, Outcomes};

/// A node's number in the cluster, chosen by the operator; never reused for a node with other data.
pub type NodeId = u64;

/// Where the other nodes, the clients and the probes reach one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// For Raft's own messages between nodes.
    pub raft: SocketAddr,
    /// For clients, who read and write keys.
    pub api: SocketAddr,
    /// For probes, who ask for the role.
    pub health: SocketAddr,
}

impl Default for Member {
    /// openraft wants a default; no node ever listens on it.
    fn default() -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            raft: nowhere,
            api: nowhere,
            health: nowhere,
        }
    }
}

openraft::declare_raft_types!(
    /// openraft's configuration of types for this store.
    pub KvCluster:
        D = Batch,
        R = Outcomes,
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<KvCluster>,
        SnapshotData = Bytes,
        AsyncRuntime = openraft::TokioRuntime,
);

/// A running Raft node of this cluster.
pub type Raft = openraft::Raft<KvCluster>;
/// A log entry's id: the leader that proposed it, and its index.
pub type LogId = openraft::LogId<NodeId>;
/// A vote: term, candidate, and whether a quorum granted it.
pub type Vote = openraft::Vote<NodeId>;
/// A log entry.
pub type Entry = openraft::Entry<KvCluster>;
/// A storage failure, which openraft treats as the end of the node.
pub type StorageError = openraft::StorageError<NodeId>;
/// The membership of the cluster, and the entry that it came with.
pub type StoredMembership = openraft::StoredMembership<NodeId, Member>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
/// A snapshot with its data.
pub type Snapshot = openraft::Snapshot<KvCluster>;
/// openraft's own view of the node.
pub type RaftMetrics = openraft::RaftMetrics<NodeId, Member>;
