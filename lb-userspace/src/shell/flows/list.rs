//! Listing connections, for a person.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;
use lb_common::flow::{Direction, Flow, FlowKey, Progress};
use lb_common::service::ServiceId;
use lb_common::target::{Target, TargetId};

use super::table::{FamilyFlows, FlowTable, Generations, now};
use crate::shell::tables::{Family, socket};

const SLICE: usize = 4096;

/// Which connections are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only this service's.
    pub service: Option<ServiceId>,
    /// Only those of one server: of its targets.
    pub targets: Option<BTreeSet<TargetId>>,
    /// Only those of clients with such addresses.
    pub source: Option<IpNet>,
    /// Which come first.
    pub order: Order,
    /// At most so many.
    pub limit: usize,
}

/// Which connections come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By the client's address.
    #[default]
    Client,
    /// Those that have been idle longest.
    Idle,
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

/// Looks at all connections, in slices, and keeps no more of them than are
/// wanted.
pub(super) fn list(table: &FlowTable, filter: &Filter) -> io::Result<Listed> {
    let mut generations = Generations::of(&table.generations);
    let mut listed = Listed::default();
    listed.add_all(&table.v4, filter, &mut generations)?;
    listed.add_all(&table.v6, filter, &mut generations)?;
    listed.trim(filter);
    Ok(listed)
}

impl Listed {
    fn add_all<A: Family>(
        &mut self,
        flows: &FamilyFlows<A>,
        filter: &Filter,
        generations: &mut Generations<'_>,
    ) -> io::Result<()> {
        let mut targets = flows.targets();
        let mut walk = flows.walk(SLICE);
        while let Some(entries) = walk.next_slice()? {
            for (key, flow) in entries {
                let progress = flow.progress();
                let state = if generations.outdate(flow)? {
                    State::Stale
                } else if progress.closed() {
                    State::Closed
                } else if progress.contain(Progress::CLIENT_FIN)
                    || progress.contain(Progress::SERVER_FIN)
                {
                    State::Closing
                } else {
                    State::Established
                };
                if flow.direction() == Direction::Forward {
                    self.add(filter, (key, flow), &targets.of(flow)?, state);
                }
            }
        }
        let mut walk = flows.walk_pending(SLICE);
        while let Some(entries) = walk.next_slice()? {
            for (key, pending) in entries {
                let flow = &pending.flow;
                if flow.direction() == Direction::Forward {
                    self.add(filter, (key, flow), &targets.of(flow)?, State::Opening);
                }
            }
        }
        Ok(())
    }

    fn add<A: Family>(
        &mut self,
        filter: &Filter,
        (key, flow): (&FlowKey<A>, &Flow<A>),
        target: &Target<A>,
        state: State,
    ) {
        if filter
            .service
            .is_some_and(|service| service != target.service)
            || filter
                .targets
                .as_ref()
                .is_some_and(|wanted| !wanted.contains(&flow.target()))
            || filter
                .source
                .is_some_and(|source| !source.contains(&key.source.into()))
        {
            return;
        }
        self.total += 1;
        // Where the addresses are not translated, the server is known by its
        // target alone.
        let to = flow.rewrite(key, target);
        self.connections.push(Connection {
            service: target.service,
            target: flow.target(),
            client: socket(key.source, key.source_port),
            vip: socket(key.destination, key.destination_port),
            snat: socket(to.source, to.source_port),
            server: socket(to.destination, to.destination_port),
            state,
            idle_ms: flow.last_seen.milliseconds_before(now()),
        });
        // Twice as many as are wanted, so that sorting is rare.
        if self.connections.len() >= filter.limit.saturating_mul(2).max(SLICE) {
            self.trim(filter);
        }
    }

    /// Keeps the first of those that were found.
    fn trim(&mut self, filter: &Filter) {
        match filter.order {
            Order::Idle => self
                .connections
                .sort_by_key(|connection| Reverse(connection.idle_ms)),
            Order::Client => self.connections.sort_by_key(|connection| connection.client),
        }
        self.connections.truncate(filter.limit);
    }
}

#[cfg(test)]
mod tests {
    use lb_common::addr::{Ipv4, Port};
    use lb_common::flow::Owner;
    use lb_common::target::{Generation, Hop};

    use super::*;

    /// More than are kept at a time.
    const COUNT: u32 = 3 * SLICE as u32 + 1;
    const LIMIT: usize = 3;

    /// The first clients' ports of many connections: the higher its port, the
    /// longer a connection has been idle. They are found in no order.
    fn first(order: Order) -> Vec<u16> {
        let filter = Filter {
            service: None,
            targets: None,
            source: None,
            order,
            limit: LIMIT,
        };
        let now = now();
        let mut listed = Listed::default();
        for number in 0..COUNT {
            // A prime number of steps: each port once.
            let port = number * 7919 % COUNT;
            let key = FlowKey {
                source: Ipv4::default(),
                destination: Ipv4::default(),
                source_port: Port::new(port as u16),
                destination_port: Port::new(80),
            };
            let owner = Owner {
                target: TargetId(1),
                generation: Generation(0),
            };
            // A second each, so that it does not matter how long this takes.
            let last_seen = now.minus(port * 1000);
            let direction = Direction::Forward;
            let flow = Flow::new(&key, &key, direction, owner, Hop::default(), last_seen);
            listed.add(
                &filter,
                (&key, &flow),
                &Target::default(),
                State::Established,
            );
        }
        listed.trim(&filter);
        assert_eq!(listed.total, u64::from(COUNT));
        let connections = listed.connections.iter();
        connections
            .map(|connection| connection.client.port())
            .collect()
    }

    #[test]
    fn the_first_of_many_are_those_that_come_first_among_all() {
        assert_eq!(first(Order::Client), [0, 1, 2]);
        let last = (COUNT - 1) as u16;
        assert_eq!(first(Order::Idle), [last, last - 1, last - 2]);
    }
}
