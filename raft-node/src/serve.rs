//! The life of a node's process: bind, start, serve, and on SIGTERM: hand over, not ready, drain, stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::config::Settings;
use crate::formation::FormError;
use crate::handover::HandoverError;
use crate::node::{Node, StartError};
use crate::role::Phase;
use crate::{api, election, formation, handover, health, membership, removal, rpc};

/// How long connections have to end once the node stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why a node ends with an error.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A port is taken, or the address is not this host's.
    #[error("cannot listen on {address} ({purpose})")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// For what.
        purpose: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The cluster cannot be formed.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The signals cannot be caught.
    #[error("cannot watch for signals")]
    Signal(#[source] io::Error),
    /// The node found that it must not go on: most often its disk failed.
    #[error("raft ended: {0}")]
    Raft(String),
}

/// Runs one node until it is told to stop.
///
/// # Errors
/// See [`ServeError`]; a stop by signal is none.
pub async fn run(settings: Settings) -> Result<(), ServeError> {
    // Before the data is opened: a second start of the same node must not disturb the first.
    let bind = settings.bind.clone();
    let raft_port = listen(bind.raft, "raft").await?;
    let api_port = listen(bind.api, "api").await?;
    let health_port = listen(bind.health, "health").await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;

    let node = Node::start(settings).await?;
    let mut servers = JoinSet::new();
    serve(
        &mut servers,
        raft_port,
        rpc::router(Arc::clone(&node)),
        &node,
    );
    serve(
        &mut servers,
        api_port,
        api::router(Arc::clone(&node)),
        &node,
    );
    serve(
        &mut servers,
        health_port,
        health::router(Arc::clone(&node)),
        &node,
    );
    tracing::info!(id = node.id(), raft = %bind.raft, api = %bind.api, health = %bind.health, "serving");
    tokio::spawn(log_changes(Arc::clone(&node)));
    tokio::spawn(election::stand_in_turn(Arc::clone(&node)));
    tokio::spawn(membership::finish_changes(Arc::clone(&node)));
    tokio::spawn(removal::look(Arc::clone(&node)));
    let formed = formation::form(Arc::clone(&node));

    let until_failure = async {
        formed.await?;
        let reason = tokio::select! {
            reason = failure(&node) => reason,
            broken = node.log.broken() => broken.to_string(),
        };
        Err::<(), _>(ServeError::Raft(reason))
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        failed = until_failure => return failed,
    }
    stop(&node, servers).await;
    Ok(())
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind {
            address,
            purpose,
            source,
        })
}

fn serve(servers: &mut JoinSet<()>, listener: TcpListener, router: Router, node: &Node) {
    let mut phase = node.phase();
    let listener = listener.tap_io(|connection| {
        // Without it a small answer may wait for the other side's delayed acknowledgement. It fails only on a connection that is gone.
        let _ = connection.set_nodelay(true);
    });
    let stopping = async move {
        let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    };
    // axum's accept loop never ends with an error: what one connection meets concerns that connection.
    servers.spawn(async move {
        let _ = axum::serve(listener, router)
            .with_graceful_shutdown(stopping)
            .await;
    });
}

async fn stop(node: &Node, mut servers: JoinSet<()>) {
    // First, and at once: until another leads, this node is the only one that writers can go to.
    match handover::run(node, None).await {
        Ok(leader) => tracing::info!(leader, "handed over"),
        Err(HandoverError::NotLeader) => {}
        Err(error) => tracing::warn!(%error, "not handed over"),
    }
    let drain = node.settings.drain;
    tracing::info!(?drain, "draining");
    node.enter(Phase::Draining);
    tokio::time::sleep(drain).await;
    node.enter(Phase::Stopping);
    let closed = tokio::time::timeout(CLOSE_LIMIT, async {
        while servers.join_next().await.is_some() {}
    })
    .await;
    if closed.is_err() {
        tracing::warn!(limit = ?CLOSE_LIMIT, "connections did not end in time");
    }
    if let Err(error) = node.raft.shutdown().await {
        tracing::warn!(%error, "raft did not end cleanly");
    }
    if let Err(error) = node.log.flush().await {
        tracing::warn!(%error, "cannot write the committed index; more of the log will be replayed");
    }
    tracing::info!("stopped");
}

/// Returns when Raft has ended by itself, with the reason.
async fn failure(node: &Node) -> String {
    let mut metrics = node.raft.metrics();
    loop {
        if let Some(reason) = node.failure() {
            return reason;
        }
        if metrics.changed().await.is_err() {
            return node.failure().unwrap_or_else(|| "its task is gone".into());
        }
    }
}

/// One line per change of role, term or leader.
async fn log_changes(node: Arc<Node>) {
    let mut metrics = node.raft.metrics();
    let mut last = None;
    loop {
        metrics.mark_unchanged();
        let report = node.report();
        let now = (report.role, report.term, report.leader);
        if last != Some(now) {
            tracing::info!(
                role = report.role.name(),
                term = report.term,
                leader = report.leader,
                reason = report.reason,
                "role"
            );
            last = Some(now);
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(node.settings.heartbeat()) => {}
        }
    }
}
