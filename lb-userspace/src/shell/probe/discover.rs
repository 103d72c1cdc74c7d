//! Asks a pool's leader for the cluster's own list of members.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::timeout;

use super::connect::{Ports, Purpose, connect};
use super::http::{Question, Session};
use crate::config::{Check, Discover, Member, Pool, Server};

/// One question to one server.
pub struct Inquiry {
    discover: Discover,
    check: Check,
    server: SocketAddr,
    check_address: SocketAddr,
    ports: Ports,
}

impl Inquiry {
    /// The question to `server`, which is one of `pool`; `None` where the pool
    /// does not follow any list.
    pub fn new(pool: &Pool, server: &Server, ports: Ports) -> Option<Self> {
        Some(Self {
            discover: pool.discover.clone()?,
            check: pool.check.clone(),
            server: server.address,
            check_address: server.check_address,
            ports,
        })
    }

    /// Asks. Takes as long as a check at most.
    ///
    /// # Errors
    /// Why there is no list, for the operator.
    pub async fn run(&self) -> Result<Vec<Member>, String> {
        let limit: Duration = self.check.timeout;
        match timeout(limit, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no whole answer within {limit:?}")),
        }
    }

    async fn ask(&self) -> Result<Vec<Member>, String> {
        let stream = connect(self.check_address, self.ports, Purpose::Ask).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let mut session = Session::new(self.check_address, self.ports, stream);
        let answer = session.ask(Question::get(&self.discover.path)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("status {}", answer.status.as_u16()));
        }
        let json = serde_json::from_slice(&answer.body);
        let json = json.map_err(|error| format!("the answer is no JSON: {error}"))?;
        self.discover.members(&self.check, self.server, &json)
    }
}
