//! One request to the agent's admin API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api;

/// Longer than the agent gives itself, so that its own reason arrives first.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A million connections, each with a long name.
const BODY_MAX: usize = 256 << 20;

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket.
    #[error("no agent answers on {}: {}", socket.display(), unreachable(cause))]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said; the message says it in our words.
        cause: io::Error,
    },
    /// Somebody listens, and says nothing.
    #[error(
        "the agent on {} gave no answer within {} s; look at its log",
        socket.display(), TIMEOUT.as_secs()
    )]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection broke.
    #[error("the exchange with the agent on {} broke off", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent says why it does not answer.
    #[error("the agent refused: {reason}")]
    Refused {
        /// The agent's reason.
        reason: String,
    },
    /// The agent says what is wrong with what it was asked for, a line each.
    #[error("{problems}")]
    Invalid {
        /// The lines.
        problems: String,
    },
    /// The answer is of another shape.
    #[error("the agent's answer is not understood; is it of another version than this lb?")]
    NotUnderstood(#[source] serde_json::Error),
}

fn unreachable(cause: &io::Error) -> String {
    let start = "start one with `lb run`, or name its socket with --socket";
    match cause.kind() {
        io::ErrorKind::NotFound => format!("there is no such socket; {start}"),
        io::ErrorKind::ConnectionRefused => format!("the agent that made it is gone; {start}"),
        io::ErrorKind::PermissionDenied => {
            "permission denied; become root, or a member of the socket's group".to_owned()
        }
        _ => format!("{cause}; {start}"),
    }
}

/// Gets `path`, which has to be well-formed for a URL, from the agent.
///
/// # Errors
/// No agent, no answer in time, or an answer that is not 200.
pub(super) fn get(socket: &Path, path: &str) -> Result<Vec<u8>, AskError> {
    send(socket, Request::get(path), Vec::new())
}

/// Has the agent change something: what, `path` and `body` say.
///
/// # Errors
/// As for [`get`].
pub(super) fn post(socket: &Path, path: &str, body: Vec<u8>) -> Result<Vec<u8>, AskError> {
    let json = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    send(socket, json, body)
}

fn send(socket: &Path, request: Builder, body: Vec<u8>) -> Result<Vec<u8>, AskError> {
    let broken = |source| AskError::Broken {
        socket: socket.to_owned(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(error.into()))?;
    let silent = |_| AskError::Silent {
        socket: socket.to_owned(),
    };
    let exchange = async {
        timeout(TIMEOUT, ask(socket, request, body))
            .await
            .map_err(silent)?
    };
    let (status, body) = runtime.block_on(exchange)?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let reason = match serde_json::from_slice(&body) {
        Ok(api::Failure { error }) => error,
        Err(_) => format!("status {status}"),
    };
    if status == StatusCode::UNPROCESSABLE_ENTITY {
        return Err(AskError::Invalid { problems: reason });
    }
    Err(AskError::Refused { reason })
}

async fn ask(
    socket: &Path,
    request: Builder,
    body: Vec<u8>,
) -> Result<(StatusCode, Vec<u8>), AskError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|cause| AskError::Unreachable {
        socket: socket.to_owned(),
        cause,
    })?;
    exchange(stream, request, body)
        .await
        .map_err(|source| AskError::Broken {
            socket: socket.to_owned(),
            source,
        })
}

async fn exchange(
    stream: UnixStream,
    request: Builder,
    body: Vec<u8>,
) -> Result<(StatusCode, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its error is the request's too.
    let connection = tokio::spawn(connection);
    let request = request
        .header(header::HOST, "lb")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX);
    let body = body.collect().await?.to_bytes().to_vec();
    connection.abort();
    Ok((status, body))
}
