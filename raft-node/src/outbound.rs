//! Outgoing HTTP/1.1: connections are kept and reused, every request has a time limit, and a request that runs out of time takes its
//! connection with it, so that a hung peer costs its caller that limit and nothing else.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The HTTP headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum SendError {
    /// The address does not make a request.
    #[error("bad request address {uri}")]
    Address {
        /// The address as given.
        uri: String,
        /// What does not fit.
        #[source]
        source: hyper::http::Error,
    },
    /// No connection: the server has seen nothing of the request.
    #[error("cannot connect to {uri}")]
    Connect {
        /// The address as given.
        uri: String,
        /// What the system says.
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    /// The connection broke: the server may or may not have acted on the request.
    #[error("connection to {uri} broke")]
    Broken {
        /// The address as given.
        uri: String,
        /// What the connection says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time: the server may or may not have acted on the request.
    #[error("no answer from {uri} within {limit:?}")]
    Timeout {
        /// The address as given.
        uri: String,
        /// How long it was given.
        limit: Duration,
    },
}

impl Outbound {
    /// A pool without connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client }
    }

    /// Sends one request and reads the whole answer, all within `limit`.
    ///
    /// # Errors
    /// See [`SendError`]; an answer with an error status is an answer.
    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, SendError> {
        let uri = || uri.to_owned();
        let request = Request::builder()
            .method(method)
            .uri(uri())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|source| SendError::Address { uri: uri(), source })?;
        let exchange = async {
            let response =
                self.client
                    .request(request)
                    .await
                    .map_err(|source| match source.is_connect() {
                        true => SendError::Connect { uri: uri(), source },
                        false => SendError::Broken {
                            uri: uri(),
                            source: source.into(),
                        },
                    })?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|source| SendError::Broken {
                uri: uri(),
                source: source.into(),
            })?;
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(SendError::Timeout { uri: uri(), limit }),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}
