//! Listing connections, for a person.

use std::io;
use std::net::SocketAddr;

use lb_common::addr::Ipv4;
use lb_common::flow::{Direction, Flow, Pending};
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use super::table::{FlowTable, Key, now};
use crate::shell::batch::Walk;
use crate::shell::tables::socket;

const SLICE: usize = 4096;

/// Which connections are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only this service's.
    pub service: Option<ServiceId>,
    /// Only this server's.
    pub server: Option<SocketAddr>,
    /// At most so many.
    pub limit: usize,
}

/// A connection's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its handshake is not finished.
    Opening,
    /// Open.
    Established,
    /// One end has sent its FIN.
    Closing,
    /// Finished; it rests until its port may be used again.
    Closed,
    /// Its target was cut off: its segments are answered with a RST.
    Stale,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The service.
    pub service: ServiceId,
    /// The target.
    pub target: TargetId,
    /// The client.
    pub client: SocketAddr,
    /// The VIP and port that the client connected to.
    pub vip: SocketAddr,
    /// What the server sees as its client.
    pub snat: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// How far it has come.
    pub state: State,
    /// Since the client's last segment, in milliseconds.
    pub idle_ms: u64,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The first of the connections that match.
    pub connections: Vec<Connection>,
    /// How many match.
    pub total: u64,
}

pub(super) fn list(table: &FlowTable, filter: &Filter) -> io::Result<Listed> {
    let mut listed = Listed::default();
    let generations = table.generations()?;
    let mut walk = Walk::<_, Key, Flow<Ipv4>>::new(table.flows_walk.fd(), SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            let state = if generations.outdate(flow) {
                State::Stale
            } else if flow.progress.closed() {
                State::Closed
            } else if flow.progress.client_fin != 0 || flow.progress.server_fin != 0 {
                State::Closing
            } else {
                State::Established
            };
            listed.add(filter, key, flow, state);
        }
    }
    let mut walk = Walk::<_, Key, Pending<Ipv4>>::new(table.pending_walk.fd(), SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, pending) in entries {
            listed.add(filter, key, &pending.flow, State::Opening);
        }
    }
    Ok(listed)
}

impl Listed {
    fn add(&mut self, filter: &Filter, key: &Key, flow: &Flow<Ipv4>, state: State) {
        if flow.direction() == Direction::Reply {
            return;
        }
        let server = socket(flow.rewrite.destination, flow.rewrite.destination_port);
        if filter
            .service
            .is_some_and(|service| service != flow.service)
            || filter.server.is_some_and(|wanted| wanted != server)
        {
            return;
        }
        self.total += 1;
        if self.connections.len() >= filter.limit {
            return;
        }
        self.connections.push(Connection {
            service: flow.service,
            target: flow.target,
            client: socket(key.source, key.source_port),
            vip: socket(key.destination, key.destination_port),
            snat: socket(flow.rewrite.source, flow.rewrite.source_port),
            server,
            state,
            idle_ms: flow.last_seen.milliseconds_before(now()),
        });
    }
}
