//! How the clients of a kind of servers talk, as far as the story needs it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use lb_tests::http::Connection;

/// Who sits through a session in silence, until it ends.
pub type Silence = Box<dyn FnOnce() -> Ending + Send>;

/// How a silent session ended, as its client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By a RST.
    Reset,
    /// By the server's FIN.
    Closed,
    /// In another way.
    Other(String),
}

/// How clients talk. Everything here is done from the calling thread's
/// namespace, on a connection of its own.
pub trait Dialect: Send + Sync {
    /// The name of the example's directory.
    const EXAMPLE: &'static str;
    /// The programs that have to be there.
    const PROGRAMS: &'static [&'static str];
    /// The port that the servers' clients connect to.
    const PORT: u16;
    /// The ports of the write and of the read service.
    const SERVICES: [u16; 2];
    /// How long a cluster may take to set itself up, or to replace a primary.
    const PATIENCE: Duration;

    /// Whether the servers would replace a primary that dies now. Some that
    /// already serve have not found each other yet.
    fn is_ready(&self) -> Result<bool> {
        Ok(true)
    }

    /// Writes; the node that took it.
    ///
    /// # Errors
    /// Also if that node is not the primary.
    fn write(&self, target: SocketAddr, key: &str, value: &str) -> Result<usize>;

    /// Reads what the node that is asked has itself; the node, and the value.
    fn read(&self, target: SocketAddr, key: &str) -> Result<(usize, Option<String>)>;

    /// Opens a session, makes sure that the server serves it, and leaves it to
    /// whoever will sit through it for up to `limit`.
    fn session(&self, target: SocketAddr, limit: Duration) -> Result<Silence>;
}

/// A session by HTTP, after a request has been answered on it.
pub fn http_silence(mut connection: Connection) -> Silence {
    Box::new(move || match connection.receive() {
        Ok(answer) => Ending::Other(format!("an answer to nothing: {}", answer.status)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset => Ending::Reset,
            ErrorKind::UnexpectedEof => Ending::Closed,
            _ => Ending::Other(error.to_string()),
        },
    })
}
