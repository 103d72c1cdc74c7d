//! Asks a server for pages over HTTP/1.1, within narrow bounds: whatever comes
//! from the other side is small, or is cut off.
//!
//! A check sends a request or two and reads what comes. Hyper, whose work is to serve
//! many requests at a time, takes a task, channels and buffers for each connection, which
//! is most of what a check costs; `httparse`, which it reads answers by, is used here too.

mod answer;

use std::io;
use std::net::SocketAddr;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::connect::{Ports, Purpose, connect};
use answer::Reader;

/// The most of a header that is read, in bytes.
const HEADER_MAX: usize = 16 * 1024;
/// The most of a body that is read, in bytes. The status counts all the same.
pub const BODY_MAX: usize = 64 * 1024;

/// Why a page could not be had.
#[derive(Debug, Error)]
pub enum GetError {
    /// The server ended the connection, and did not accept another one.
    #[error("cannot connect again: {0}")]
    Connect(#[source] io::Error),
    /// The connection ended before anything came.
    #[error("no answer: {0}")]
    Unanswered(#[source] io::Error),
    /// The connection broke in the middle.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server ended the connection, and did not say all that it had to.
    #[error("the server closed the connection in the middle")]
    Closed,
    /// The header has more than [`HEADER_MAX`] bytes, or too many lines.
    #[error("the answer's header is longer than {HEADER_MAX} bytes")]
    TooLong,
    /// What came was no HTTP answer.
    #[error("the answer is not HTTP")]
    NotHttp,
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
    pub body: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
}

/// A series of requests to one server.
pub struct Session {
    server: SocketAddr,
    ports: Ports,
    connection: Option<Connection>,
}

/// A connection, on which nothing is under way.
struct Connection {
    stream: TcpStream,
    /// Whether there was an answer on it already.
    used: bool,
}

impl Connection {
    /// Whether the server neither ended it nor said anything unasked.
    fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Session {
    /// A session on a connection that has just been made.
    pub fn new(server: SocketAddr, ports: Ports, stream: TcpStream) -> Self {
        let used = false;
        Self {
            server,
            ports,
            connection: Some(Connection { stream, used }),
        }
    }

    /// Asks for a page, on the connection of the page before where the server
    /// left it open.
    ///
    /// # Errors
    /// [`GetError`]; timeouts are up to the caller.
    pub async fn ask(&mut self, question: Question<'_>) -> Result<Answer, GetError> {
        let kept = self.connection.take();
        if let Some(kept) = kept.filter(|kept| !kept.used || kept.is_quiet()) {
            // RFC 9112, 9.3.1: a server may close a kept connection at any time, and who
            // changes nothing by asking may ask again.
            let again = kept.used && question.body.is_empty();
            match self.ask_on(kept.stream, question).await {
                Err(GetError::Unanswered(_)) if again => {}
                answer => return answer,
            }
        }
        let stream = connect(self.server, self.ports, Purpose::Ask).await;
        self.ask_on(stream.map_err(GetError::Connect)?, question)
            .await
    }

    async fn ask_on(
        &mut self,
        mut stream: TcpStream,
        question: Question<'_>,
    ) -> Result<Answer, GetError> {
        let request = self.request(question);
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(GetError::Unanswered)?;
        let mut reader = Reader::begin(&mut stream).await?;
        let (head, framing) = reader.head(question.method).await?;
        let (body, truncated) = reader.body(framing).await?;
        if head.kept && !truncated && reader.is_done() {
            let used = true;
            self.connection = Some(Connection { stream, used });
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            truncated,
        })
    }

    /// The configuration lets no path through that could end the line.
    fn request(&self, Question { method, path, body }: Question<'_>) -> String {
        let content = match body.len() {
            0 => String::new(),
            length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
        };
        format!(
            "{method} {path} HTTP/1.1\r\n\
             Host: {}\r\n\
             User-Agent: {}\r\n\
             Accept: application/json, */*;q=0.5\r\n\
             {content}\r\n{body}",
            self.server,
            concat!("lb/", env!("CARGO_PKG_VERSION")),
        )
    }
}

/// What stands before the body.
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    /// Whether the connection can be asked again.
    kept: bool,
}

/// The fields of a header, where all of them are as they have to be.
fn fields(headers: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        map.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(map)
}
