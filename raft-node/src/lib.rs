//! A sample Raft cluster: a replicated key-value store for the load balancer to front.
//!
//! A node listens on three ports: the API (clients read and write keys), health (probes ask for the node's role), and Raft (the
//! other nodes). It knows nothing of packets or of the balancer.
//!
//! | word | meaning |
//! |---|---|
//! | command | one change that a client asks for: put or delete |
//! | batch | the commands of several clients in one log entry, made durable by one fsync |
//! | standing | what the node may say of its role now, and why |
//! | contact | when a node last heard from the leader, or a leader from a quorum |
//! | durable | on this node's disk, after an fsync |
//!
//! A write's path: [`api`] → [`write_queue`] → openraft → [`store`] and [`network`] → [`kv`]. A read's: [`api`] → [`read_index`] → [`kv`].
//! A role's: [`contact`] → [`role`] → [`health`].

pub mod api;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod config;
pub mod contact;
pub mod election;
pub mod formation;
pub mod handover;
pub mod health;
pub mod kv;
pub mod membership;
pub mod metrics;
pub mod network;
pub mod node;
pub mod outbound;
pub mod read_index;
pub mod removal;
pub mod role;
pub mod rpc;
pub mod serve;
pub mod store;
pub mod watch;
pub mod write_queue;
