//! `raft-node client`: one request to the cluster, wherever its leader is, with a bound on the time spent.
//!
//! A node that is not the leader names it, and the next try goes there. A node that does not answer is passed over for the next endpoint.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::bench;
use crate::cluster::NodeId;
use crate::config::raw::{ClientArgs, ClientRequest, ClientVerb, Endpoint, Peer};
use crate::membership::{ListedMember, Listing};
use crate::outbound::{Answer, Outbound};

/// How long one node may take for a key. More than a node's own --write-timeout, so that its verdict arrives.
const TRY_LIMIT: Duration = Duration::from_millis(2500);
/// Pause after every endpoint was tried once, or a node that knows no leader.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is nothing under that key.
    #[error("no such key")]
    NoSuchKey,
    /// The cluster refuses the request, however often it is sent.
    #[error("{endpoint} refused the request: {status} {body}")]
    Refused {
        /// Who refused.
        endpoint: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it says.
        body: String,
    },
    /// No node did it in time; the last try says why.
    #[error("not done within {limit:?}; the last try: {last}")]
    Timeout {
        /// How long was given.
        limit: Duration,
        /// What the last try met.
        last: String,
    },
    /// A benchmark came to nothing.
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    /// An answer that no node of this version gives.
    #[error("{endpoint} gave an answer that makes no sense: {body}")]
    Senseless {
        /// Who gave it.
        endpoint: String,
        /// What it says.
        body: String,
    },
}

/// What one try met.
enum Met {
    Done(Answer),
    /// The leader is there.
    Hint(Endpoint),
    /// Try elsewhere, or later.
    Later(String),
}

#[derive(Deserialize)]
struct Hinted {
    leader: Option<HintedLeader>,
}

#[derive(Deserialize)]
struct HintedLeader {
    api: std::net::SocketAddr,
}

#[derive(Deserialize)]
struct Value {
    value: String,
}

#[derive(Deserialize)]
struct Transferred {
    leader: NodeId,
    term: u64,
}

/// Does what `args` say; returns the line to print.
///
/// # Errors
/// See [`ClientError`].
pub async fn run(args: &ClientArgs) -> Result<String, ClientError> {
    let asked = match &args.verb {
        ClientVerb::Request(request) => request,
        ClientVerb::Bench(bench) => return Ok(bench::run(&args.endpoints, bench).await?),
    };
    let request = Encoded::new(asked);
    let (endpoint, answer) = send(&args.endpoints, &request, args.timeout).await?;
    let body = || String::from_utf8_lossy(&answer.body).into_owned();
    let line = match asked {
        ClientRequest::Put { .. } | ClientRequest::Delete { .. } => Ok(body()),
        ClientRequest::Get { .. } => {
            serde_json::from_slice(&answer.body).map(|Value { value }| value)
        }
        ClientRequest::Members | ClientRequest::Add { .. } | ClientRequest::Remove { .. } => {
            serde_json::from_slice(&answer.body).map(|listing| list(&listing))
        }
        ClientRequest::Transfer { .. } => serde_json::from_slice(&answer.body)
            .map(|Transferred { leader, term }| format!("node {leader} leads, term {term}")),
    };
    line.map_err(|_not_that| ClientError::Senseless {
        endpoint,
        body: body(),
    })
}

/// A line per member, after one that says how old the list is.
fn list(listing: &Listing) -> String {
    let Listing {
        node,
        term,
        leader: _,
        index,
        commit_index,
        changing,
        members,
    } = listing;
    let index = index.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let changing = if *changing { ", changing" } else { "" };
    let mut lines = format!(
        "node {node}: term {term}, members as of entry {index} of {commit_index}{changing}"
    );
    for ListedMember {
        id,
        member,
        voter,
        leader,
    } in members
    {
        let word = match (leader, voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        lines.push_str(&format!(
            "\n{id:>4}  {word:<7}  api {}  health {}  raft {}",
            member.api, member.health, member.raft
        ));
    }
    lines
}

/// A request as it goes over the wire.
struct Encoded {
    method: Method,
    path: String,
    body: Bytes,
    /// How long one node may take.
    limit: Duration,
}

impl Encoded {
    fn new(request: &ClientRequest) -> Self {
        let of_key = |key: &str| format!("/kv/{}", utf8_percent_encode(key, NON_ALPHANUMERIC));
        let nothing = serde_json::Value::Null;
        let (method, path, body) = match request {
            ClientRequest::Put { key, value } => {
                let body = json!({"key": key, "value": value});
                (Method::POST, "/kv".to_owned(), body)
            }
            ClientRequest::Get { key, consistency } => {
                let path = format!("{}?consistency={}", of_key(key), consistency.name());
                (Method::GET, path, nothing)
            }
            ClientRequest::Delete { key } => (Method::DELETE, of_key(key), nothing),
            ClientRequest::Members => (Method::GET, "/members".to_owned(), nothing),
            ClientRequest::Add { member, learner } => {
                let Peer { id, member } = member;
                let body = json!({"id": id, "raft": member.raft, "api": member.api, "health": member.health, "voter": !learner});
                (Method::POST, "/members".to_owned(), body)
            }
            ClientRequest::Remove { id } => (Method::DELETE, format!("/members/{id}"), nothing),
            ClientRequest::Transfer { to } => {
                (Method::POST, "/transfer".to_owned(), json!({"to": to}))
            }
        };
        let limit = match request {
            ClientRequest::Put { .. }
            | ClientRequest::Get { .. }
            | ClientRequest::Delete { .. }
            | ClientRequest::Members => TRY_LIMIT,
            // A new node may have much to catch up with.
            ClientRequest::Add { .. }
            | ClientRequest::Remove { .. }
            | ClientRequest::Transfer { .. } => Duration::MAX,
        };
        let body = match body {
            serde_json::Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        Self {
            method,
            path,
            body,
            limit,
        }
    }
}

async fn send(
    endpoints: &[Endpoint],
    request: &Encoded,
    limit: Duration,
) -> Result<(String, Answer), ClientError> {
    let outbound = Outbound::new();
    let deadline = Instant::now() + limit;
    let mut turn = endpoints.iter().cycle();
    let mut hint = None;
    let mut last = String::from("no endpoint");
    let mut tries = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let followed = hint.is_some();
        let Some(endpoint) = hint
            .take()
            .or_else(|| turn.next().cloned())
            .filter(|_| !left.is_zero())
        else {
            return Err(ClientError::Timeout { limit, last });
        };
        match attempt(&outbound, &endpoint, request, left.min(request.limit)).await? {
            Met::Done(answer) => return Ok((endpoint.join(""), answer)),
            Met::Hint(leader) => {
                last = format!("{} says that {} leads", endpoint.join(""), leader.join(""));
                // Two nodes that name each other, in the middle of an election, must not be asked in a tight circle.
                if followed {
                    tokio::time::sleep(PAUSE.min(left)).await;
                }
                hint = Some(leader);
            }
            Met::Later(reason) => {
                last = reason;
                tries += 1;
                if tries % endpoints.len() == 0 {
                    tokio::time::sleep(PAUSE.min(left)).await;
                }
            }
        }
    }
}

async fn attempt(
    outbound: &Outbound,
    endpoint: &Endpoint,
    request: &Encoded,
    limit: Duration,
) -> Result<Met, ClientError> {
    let Encoded {
        method,
        path,
        body,
        limit: _,
    } = request;
    let sent = outbound
        .send(method.clone(), &endpoint.join(path), body.clone(), limit)
        .await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => return Ok(Met::Later(error.to_string())),
    };
    let text = || String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        StatusCode::OK => Ok(Met::Done(answer)),
        StatusCode::NOT_FOUND if path.starts_with("/kv/") => Err(ClientError::NoSuchKey),
        status if status.is_server_error() => {
            let hinted = serde_json::from_slice(&answer.body)
                .ok()
                .and_then(|Hinted { leader }| leader);
            Ok(match hinted {
                Some(leader) => Met::Hint(Endpoint::of(leader.api)),
                None => Met::Later(format!(
                    "{} answered {status} {}",
                    endpoint.join(""),
                    text()
                )),
            })
        }
        status => Err(ClientError::Refused {
            endpoint: endpoint.join(""),
            status,
            body: text(),
        }),
    }
}
