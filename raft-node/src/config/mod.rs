//! The configuration: what the operator types ([`raw`]), and the checked settings that the program runs on.

pub mod raw;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::cluster::{Member, NodeId};
use crate::role::Freshness;
use raw::{Peer, ServeArgs};

/// The checked settings of one node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's number.
    pub id: NodeId,
    /// Where its data is.
    pub data: PathBuf,
    /// Where to bind; the cluster knows this node by `cluster[&id]`.
    pub bind: Member,
    /// The initial cluster.
    pub cluster: BTreeMap<NodeId, Member>,
    /// Whether to wait for an existing cluster instead of forming one.
    pub join: bool,
    /// openraft's own settings.
    pub raft: openraft::Config,
    /// How long a client waits for a quorum.
    pub write_timeout: Duration,
    /// How long to go on serving after SIGTERM.
    pub drain: Duration,
}

/// Which settings contradict each other.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The node is not among its own peers.
    #[error(
        "--id {0} is not among the --peer entries; list the whole initial cluster, this node included"
    )]
    NotAPeer(NodeId),
    /// Two peers with one number.
    #[error("--peer {0} is given twice")]
    PeerTwice(NodeId),
    /// Two listeners on one address.
    #[error("address {0} is used twice in the --peer entries")]
    AddressTwice(SocketAddr),
    /// Port 0 cannot be dialled.
    #[error("address {0} has port 0; the other nodes must know the port")]
    PortZero(SocketAddr),
    /// The timers do not fit each other.
    #[error(
        "--heartbeat {heartbeat:?} must be at least 1ms and less than half of --election-min {election_min:?}"
    )]
    Heartbeat {
        /// As given.
        heartbeat: Duration,
        /// As given.
        election_min: Duration,
    },
    /// The timers do not fit each other.
    #[error("--election-min {min:?} must be less than --election-max {max:?}")]
    Election {
        /// As given.
        min: Duration,
        /// As given.
        max: Duration,
    },
    /// No write could ever be acknowledged.
    #[error("--write-timeout must not be zero")]
    WriteTimeoutZero,
    /// openraft refuses the rest.
    #[error("the settings do not make a Raft node")]
    Raft(#[source] Box<openraft::ConfigError>),
}

impl Settings {
    /// Checks what the operator typed.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn check(args: &ServeArgs) -> Result<Self, SettingsError> {
        let cluster = check_cluster(&args.peers)?;
        let own = cluster
            .get(&args.id)
            .ok_or(SettingsError::NotAPeer(args.id))?;
        if args.write_timeout.is_zero() {
            return Err(SettingsError::WriteTimeoutZero);
        }
        Ok(Self {
            id: args.id,
            data: args.data.clone(),
            bind: bind_addresses(own, args.listen),
            cluster,
            join: args.join,
            raft: check_raft(args)?,
            write_timeout: args.write_timeout,
            drain: args.drain,
        })
    }

    /// How old a proof of a role may be.
    ///
    /// A follower stays loyal to a silent leader for `election_max`, from when it heard from it, and stands half a heartbeat later at the
    /// earliest; a leader's claim counts from when it spoke, and so ends before another can begin. A replica's may span an ordinary election, so that reads which do not need a leader go on.
    pub fn freshness(&self) -> Freshness {
        let election_max = Duration::from_millis(self.raft.election_timeout_max);
        Freshness {
            quorum_age_max: election_max,
            contact_age_max: election_max * 3,
        }
    }

    /// How often a leader speaks to its followers.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.raft.heartbeat_interval)
    }
}

fn check_cluster(peers: &[Peer]) -> Result<BTreeMap<NodeId, Member>, SettingsError> {
    let mut cluster = BTreeMap::new();
    let mut addresses = Vec::new();
    for Peer { id, member } in peers {
        for address in [member.raft, member.api, member.health] {
            if address.port() == 0 {
                return Err(SettingsError::PortZero(address));
            }
            if addresses.contains(&address) {
                return Err(SettingsError::AddressTwice(address));
            }
            addresses.push(address);
        }
        if cluster.insert(*id, member.clone()).is_some() {
            return Err(SettingsError::PeerTwice(*id));
        }
    }
    Ok(cluster)
}

fn bind_addresses(own: &Member, listen: Option<IpAddr>) -> Member {
    let bind =
        |address: SocketAddr| SocketAddr::new(listen.unwrap_or(address.ip()), address.port());
    Member {
        raft: bind(own.raft),
        api: bind(own.api),
        health: bind(own.health),
    }
}

fn check_raft(args: &ServeArgs) -> Result<openraft::Config, SettingsError> {
    let (heartbeat, election_min, election_max) =
        (args.heartbeat, args.election_min, args.election_max);
    if heartbeat < Duration::from_millis(1) || heartbeat * 2 >= election_min {
        return Err(SettingsError::Heartbeat {
            heartbeat,
            election_min,
        });
    }
    if election_min >= election_max {
        return Err(SettingsError::Election {
            min: election_min,
            max: election_max,
        });
    }
    let config = openraft::Config {
        cluster_name: "raft-node".into(),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: millis(election_min),
        election_timeout_max: millis(election_max),
        // `election.rs` does it.
        enable_elect: false,
        // The default, 200 ms, fails as soon as a snapshot has a few megabytes; a follower that installs one still hears heartbeats.
        install_snapshot_timeout: 30_000,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(args.snapshot_every),
        // A follower that is behind by less is sent entries: those after the snapshot, and as many before it.
        max_in_snapshot_log_to_keep: args.snapshot_every,
        replication_lag_threshold: args.snapshot_every.saturating_mul(2),
        ..openraft::Config::default()
    };
    config
        .validate()
        .map_err(|error| SettingsError::Raft(Box::new(error)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
