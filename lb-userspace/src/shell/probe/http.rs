//! Asks a server for pages over HTTP/1.1, within narrow bounds: whatever comes
//! from the other side is small, or is cut off.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::connect::{Ports, Purpose, connect};

/// The most of a header that is read, in bytes.
const HEADER_MAX: usize = 16 * 1024;
/// The most of a body that is read, in bytes. The status counts all the same.
pub const BODY_MAX: usize = 64 * 1024;

/// Why a page could not be had.
#[derive(Debug, Error)]
pub enum GetError {
    /// The server ended the connection, and did not accept another one.
    #[error("cannot connect again: {0}")]
    Connect(#[source] std::io::Error),
    /// The configuration's path cannot be asked for.
    #[error("invalid request: {0}")]
    Request(#[from] hyper::http::Error),
    /// What came was no HTTP answer, or not a whole one.
    #[error("{}", explain(.0))]
    Answer(#[from] hyper::Error),
}

/// What to ask for.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    /// JSON, or empty.
    pub body: &'a str,
}

impl<'a> Question<'a> {
    /// A GET.
    pub fn get(path: &'a str) -> Self {
        let method = &Method::GET;
        Self {
            method,
            path,
            body: "",
        }
    }
}

/// A page.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The first [`BODY_MAX`] bytes.
    pub body: Bytes,
    /// Whether there was more.
    pub truncated: bool,
}

/// A series of requests to one server.
pub struct Session {
    server: SocketAddr,
    ports: Ports,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection; ends it when the session is dropped.
    driver: JoinSet<()>,
}

impl Session {
    /// A session on a connection that has just been made.
    ///
    /// # Errors
    /// Hyper's, which has nothing to complain about before a request.
    pub async fn new(
        server: SocketAddr,
        ports: Ports,
        stream: TcpStream,
    ) -> Result<Self, GetError> {
        let mut session = Self {
            server,
            ports,
            sender: None,
            driver: JoinSet::new(),
        };
        session.adopt(stream).await?;
        Ok(session)
    }

    async fn adopt(&mut self, stream: TcpStream) -> Result<(), GetError> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEADER_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        self.driver.shutdown().await;
        // Its errors reach us through the request that they spoil.
        self.driver.spawn(async { drop(connection.await) });
        self.sender = Some(sender);
        Ok(())
    }

    /// Asks for a page, on the connection of the page before where the server
    /// left it open.
    ///
    /// # Errors
    /// [`GetError`]; timeouts are up to the caller.
    pub async fn ask(&mut self, question: Question<'_>) -> Result<Answer, GetError> {
        let mut kept = self.sender.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.reconnect().await?,
        };
        let answer = match sender.send_request(self.request(question)?).await {
            // The server closed the connection before it saw the request.
            Err(error) if error.is_canceled() => {
                sender = self.reconnect().await?;
                sender.send_request(self.request(question)?).await?
            }
            answer => answer?,
        };
        let (parts, body) = answer.into_parts();
        let (body, truncated) = read(body).await?;
        if !truncated {
            self.sender = Some(sender);
        }
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
            truncated,
        })
    }

    async fn reconnect(&mut self) -> Result<SendRequest<Full<Bytes>>, GetError> {
        let stream = connect(self.server, self.ports, Purpose::Ask)
            .await
            .map_err(GetError::Connect)?;
        self.adopt(stream).await?;
        self.sender
            .take()
            .ok_or_else(|| GetError::Connect(std::io::ErrorKind::NotConnected.into()))
    }

    fn request(
        &self,
        Question { method, path, body }: Question<'_>,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.server.to_string())
            .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, */*;q=0.5");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(body.to_owned()))
    }
}

/// The body as far as it is read, and whether there is more.
async fn read(mut body: Incoming) -> Result<(Bytes, bool), hyper::Error> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let room = BODY_MAX - whole.len();
        whole.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return Ok((whole.into(), true));
        }
    }
    Ok((whole.into(), false))
}

fn explain(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "the server closed the connection in the middle".to_owned()
    } else if error.is_parse_too_large() {
        format!("the answer's header is longer than {HEADER_MAX} bytes")
    } else if error.is_parse() {
        "the answer is not HTTP".to_owned()
    } else {
        let source = std::error::Error::source(error);
        source.map_or(error.to_string(), |source| format!("{error}: {source}"))
    }
}
