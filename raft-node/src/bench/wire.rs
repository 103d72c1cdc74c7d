//! One client's connection: HTTP/1.1 for this program's API, HTTP/2 for etcd's. Each is kept for the whole run.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::config::raw::{Api, Endpoint};

/// How many clients share a connection of HTTP/2, which is made for that.
const SHARED_BY: usize = 8;

/// Why a request was not answered as it should be.
#[derive(Debug, Error)]
pub enum WireError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// The server refused.
    #[error("answered {status} {body}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it says.
        body: String,
    },
    /// The server refused in gRPC's way.
    #[error("answered gRPC status {0}")]
    Grpc(String),
}

/// Makes the connections to one endpoint.
pub struct Connector {
    authority: String,
    api: Api,
    shared: Option<(http2::SendRequest<Full<Bytes>>, usize)>,
}

/// One client's end of a connection.
pub enum Connection {
    /// Its own.
    Http1(http1::SendRequest<Full<Bytes>>, HeaderValue),
    /// Shared.
    Http2(http2::SendRequest<Full<Bytes>>, String),
}

impl Connector {
    /// Connects when it is asked to.
    pub fn new(endpoint: &Endpoint, api: Api) -> Self {
        Self {
            authority: endpoint.authority().to_owned(),
            api,
            shared: None,
        }
    }

    /// One more client's connection.
    pub async fn connect(&mut self) -> Result<Connection, WireError> {
        match self.api {
            Api::Kv => {
                let (sender, connection) = http1::handshake(self.dial().await?).await?;
                tokio::spawn(connection);
                let host = HeaderValue::from_str(&self.authority);
                // An authority that was parsed from a URI is a valid header.
                Ok(Connection::Http1(
                    sender,
                    host.unwrap_or(HeaderValue::from_static("")),
                ))
            }
            Api::Etcd => {
                let sender = match &mut self.shared {
                    Some((sender, left)) if *left > 0 => {
                        *left -= 1;
                        sender.clone()
                    }
                    _ => {
                        let handshake =
                            http2::handshake(TokioExecutor::new(), self.dial().await?).await?;
                        let (sender, connection) = handshake;
                        tokio::spawn(connection);
                        self.shared = Some((sender.clone(), SHARED_BY - 1));
                        sender
                    }
                };
                Ok(Connection::Http2(sender, self.authority.clone()))
            }
        }
    }

    async fn dial(&self) -> Result<TokioIo<TcpStream>, WireError> {
        let stream = TcpStream::connect(&self.authority).await;
        let stream = stream.map_err(WireError::Connect)?;
        stream.set_nodelay(true).map_err(WireError::Connect)?;
        Ok(TokioIo::new(stream))
    }
}

impl Connection {
    /// Sends one request and reads the whole answer.
    pub async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<(), WireError> {
        let response = match self {
            Self::Http1(sender, host) => {
                request.headers_mut().insert(HOST, host.clone());
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender, authority) => {
                let path = request.uri().path().to_owned();
                let uri = Uri::builder().scheme("http").authority(authority.as_str());
                // Of two parts that were parsed before.
                *request.uri_mut() = uri.path_and_query(path).build().unwrap_or_default();
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status();
        let grpc = matches!(self, Self::Http2(..));
        let body = response.into_body().collect().await?;
        let ended = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned());
        if status != StatusCode::OK {
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            return Err(WireError::Refused { status, body });
        }
        match ended {
            Some(ended) if ended != "0" => Err(WireError::Grpc(ended)),
            None if grpc => Err(WireError::Grpc("missing".into())),
            Some(_) | None => Ok(()),
        }
    }
}
