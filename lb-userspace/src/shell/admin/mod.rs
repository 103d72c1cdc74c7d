//! The admin API: HTTP and JSON on a unix socket. GET reads, POST changes.
//!
//! Owns the socket and the protocol. It knows nothing of the agent's state:
//! each request becomes a [`Query`] for the agent's loop, which answers
//! through the channel that the query brings along.

mod routes;
mod socket;

use tokio::sync::{mpsc, oneshot};

pub use socket::{BindError, Socket};

use crate::api;

/// The name of the socket in the run directory.
pub const SOCKET_NAME: &str = "lb.sock";

/// A question to the agent's loop, and where the answer goes. A client that
/// has gone away is no error: the answer is dropped.
#[derive(Debug)]
pub enum Query {
    /// What the agent believes and does now.
    Status(Answer<api::Status>),
    /// The kernel's counters.
    Stats(Answer<api::Stats>),
    /// The connection table.
    Flows {
        /// Which connections, and how many at most.
        filter: api::FlowFilter,
        /// Where the answer goes.
        answer: Answer<api::Flows>,
    },
    /// Read the configuration again, and go on as it says.
    Reload(Answer<api::Reloaded>),
    /// Change something for the time until it is cleared.
    Change {
        /// What.
        change: api::Change,
        /// Where the answer goes.
        answer: Answer<api::Changed>,
    },
}

/// Where the agent's loop sends an answer.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why a query has no answer; the text is shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The query names something that is not there (status 404).
    #[error("{0}")]
    Unknown(String),
    /// What the query asks for breaks rules (status 422); a line for each.
    #[error("{0}")]
    Invalid(String),
    /// The tables could not be read (status 500).
    #[error("{0}")]
    Failed(String),
}

/// How many queries may wait for the agent's loop before clients do.
const QUERIES_MAX: usize = 16;

/// The channel between [`serve`] and the agent's loop.
#[must_use]
pub fn queries() -> (mpsc::Sender<Query>, mpsc::Receiver<Query>) {
    mpsc::channel(QUERIES_MAX)
}

/// Serves the API until the future is dropped, which removes the socket.
pub async fn serve(socket: Socket, queries: mpsc::Sender<Query>) {
    let (listener, _removed_at_the_end) = socket.into_parts();
    // axum's `serve` logs and survives what `accept` can fail with; it never
    // returns.
    if let Err(error) = axum::serve(listener, routes::router(queries)).await {
        tracing::error!(%error, "the admin API stopped");
    }
}
