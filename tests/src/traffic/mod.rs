//! Clients, and their account of what happened to them.
//!
//! - [`writes`]: streams of writes, with a record of each acknowledgement.
//! - [`connections`]: many short connections, and who answered them.
//! - [`bulk`]: bytes there and back, compared one by one.
//! - [`witness`]: who answers at a write service over time.
//! - [`steady`]: short connections, for as long as something happens.
//! - [`flood`]: SYNs from addresses that do not exist.
//! - [`frames`]: frames as they are, past the kernel's stack.
//! - [`congestion`]: a link on which everything takes longer.
//! - [`ping`]: ICMP echo.
//! - [`sampling`]: looking again and again, in the background.

pub mod bulk;
pub mod congestion;
pub mod connections;
pub mod flood;
pub mod frames;
pub mod ping;
pub mod sampling;
pub mod steady;
pub mod witness;
pub mod writes;

use std::fmt;
use std::io;

/// How a request failed, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The SYN was answered with a RST.
    Refused,
    /// The connection was reset under the request.
    Reset,
    /// No answer in time: the request may or may not have been carried out.
    TimedOut,
    /// The server closed the connection instead of answering.
    Closed,
    /// The server answered, but not with 200.
    Status(u16),
    /// Anything else, in the operating system's words.
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset => Self::Reset,
            // A read that hits its time limit says "would block".
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Closed => f.write_str("closed"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
