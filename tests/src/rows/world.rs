//! The world of the rows: one client, one balancer, a service with one
//! server, and how far their connection has come.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lb_common::addr::{Ipv4, Mac, Port};
use lb_common::fake::FakeTables;
use lb_common::flow::{Direction, Flow, FlowKey, Owner, Pending, Progress, Tick};
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::{Generation, Hop, Target, TargetId};

use super::connections::{Connections, Entry, Key};
use super::frame::{Leg, MacAddress};

/// The client's NIC.
pub const CLIENT_MAC: MacAddress = [2, 0, 0, 0, 0, 9];
/// The balancer's NIC.
pub const BALANCER_MAC: MacAddress = [2, 0, 0, 0, 0, 0x64];
/// The server's NIC.
pub const SERVER_MAC: MacAddress = [2, 0, 0, 0, 0, 11];
/// The NIC of the server that takes over.
pub const HEIR_MAC: MacAddress = [2, 0, 0, 0, 0, 12];

/// The client.
pub const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 9), 40_000);
/// What it connects to.
pub const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 100), 8080);
/// What the server takes for its client: the client's port, folded into the
/// target's range.
pub const SNAT: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 101), 8256);
/// The server.
pub const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 11), 9000);
/// The server that takes over.
pub const HEIR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 12), 9000);

/// Another client.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

/// From the client, as it arrives.
pub const FROM_CLIENT: Leg = leg(CLIENT_MAC, BALANCER_MAC, CLIENT, VIP);
/// To the server, as it leaves.
pub const TO_SERVER: Leg = leg(BALANCER_MAC, SERVER_MAC, SNAT, SERVER);
/// To the server that takes over, as it leaves.
pub const TO_HEIR: Leg = leg(BALANCER_MAC, HEIR_MAC, SNAT, HEIR);
/// From the server, as it arrives.
pub const FROM_SERVER: Leg = leg(SERVER_MAC, BALANCER_MAC, SERVER, SNAT);
/// To the client, as it leaves.
pub const TO_CLIENT: Leg = leg(BALANCER_MAC, CLIENT_MAC, VIP, CLIENT);

/// The service.
pub const SERVICE: ServiceId = ServiceId(3);
/// The server, as the service sees it.
pub const TARGET: TargetId = TargetId(5);
/// The server that takes over.
pub const HEIR_TARGET: TargetId = TargetId(6);
/// The service's only slot.
pub const SLOT: u32 = 40;
/// The first port of [`TARGET`]'s range, and how many there are.
pub const PORTS: (u16, u16) = (1024, 31_744);

/// How many entries FLOWS takes, in every row.
pub const FLOWS_MAX: usize = 16;

const fn leg(
    from: MacAddress,
    to: MacAddress,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
) -> Leg {
    Leg {
        from,
        to,
        source,
        destination,
    }
}

/// The state of all tables.
#[derive(Clone, Debug)]
pub struct World {
    /// SERVICES.
    pub services: BTreeMap<Listener<Ipv4>, Service>,
    /// SLOTS.
    pub slots: BTreeMap<u32, TargetId>,
    /// TARGETS.
    pub targets: BTreeMap<TargetId, Target<Ipv4>>,
    /// GENERATIONS.
    pub generations: BTreeMap<TargetId, Generation>,
    /// FLOWS and PENDING.
    pub connections: Connections,
}

impl World {
    /// Nothing at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            targets: BTreeMap::new(),
            generations: BTreeMap::new(),
            connections: Connections::default(),
        }
    }

    /// One service with one server, and no connection yet.
    #[must_use]
    pub fn new() -> Self {
        let listener = Listener::new(VIP.0.into(), Port::new(VIP.1));
        Self {
            services: [(listener, Service::new(SERVICE, SLOT, 1))].into(),
            slots: [(SLOT, TARGET)].into(),
            targets: [
                (TARGET, target(SERVER, SERVER_MAC)),
                (HEIR_TARGET, target(HEIR, HEIR_MAC)),
            ]
            .into(),
            generations: [(TARGET, Generation(7)), (HEIR_TARGET, Generation(1))].into(),
            connections: Connections::default(),
        }
    }

    /// The client's SYN was forwarded.
    #[must_use]
    pub fn opened(self) -> Self {
        self.pending(Progress::default(), 0)
    }

    /// The server's SYN+ACK was forwarded; it bore `sequence`.
    #[must_use]
    pub fn answered(self, sequence: u32) -> Self {
        let answered = Progress {
            answered: 1,
            ..Progress::default()
        };
        self.pending(answered, sequence)
    }

    fn pending(mut self, answered: Progress, server_sequence: u32) -> Self {
        let (forward, mut reply) = self.pair();
        reply.1.progress = answered;
        let (forward, mut reply) = (unanswered(forward), unanswered(reply));
        reply.1.server_sequence = server_sequence;
        self.connections.pending.extend([forward, reply]);
        self
    }

    /// The handshake is done.
    #[must_use]
    pub fn established(self) -> Self {
        self.progressed(Progress::default())
    }

    /// The handshake is done, and this has happened since.
    #[must_use]
    pub fn progressed(mut self, progress: Progress) -> Self {
        let (mut forward, reply) = self.pair();
        forward.1.progress = progress;
        self.connections.flows.extend([forward, reply]);
        self
    }

    /// The server's target was cut off.
    #[must_use]
    pub fn cut(mut self) -> Self {
        let generation = self.generations.entry(TARGET).or_default();
        generation.0 += 1;
        self
    }

    /// The slot points to the server that takes over.
    #[must_use]
    pub fn handed_over(mut self) -> Self {
        self.slots.insert(SLOT, HEIR_TARGET);
        self
    }

    /// The slot points nowhere.
    #[must_use]
    pub fn leaderless(mut self) -> Self {
        self.slots.insert(SLOT, TargetId::NONE);
        self
    }

    /// FLOWS has room for `room` more entries: connections of others fill it.
    #[must_use]
    pub fn with_room_for(mut self, room: usize) -> Self {
        let missing = FLOWS_MAX - room - self.connections.flows.len();
        for port in 1..=missing as u16 {
            let (forward, _) = self.pair_of(TARGET, (STRANGER, port), port);
            self.connections.flows.extend([forward]);
        }
        self
    }

    /// Without the forward half of what PENDING holds of the client.
    #[must_use]
    pub fn without_forward_half(mut self) -> Self {
        let (forward, _) = self.pair();
        self.connections.pending.remove(&forward.0);
        self
    }

    /// Without the reply half of what PENDING holds of the client.
    #[must_use]
    pub fn without_reply_half(mut self) -> Self {
        let (_, reply) = self.pair();
        self.connections.pending.remove(&reply.0);
        self
    }

    /// Another client's handshake holds the port that is ours by custom.
    #[must_use]
    pub fn with_port_reserved(mut self) -> Self {
        let (forward, reply) = self.pair_of(TARGET, (STRANGER, CLIENT.1), SNAT.1);
        self.connections
            .pending
            .extend([forward, reply].map(unanswered));
        self
    }

    /// Another client's connection holds the port that is ours by custom.
    #[must_use]
    pub fn with_port_taken(mut self) -> Self {
        let (forward, reply) = self.pair_of(TARGET, (STRANGER, CLIENT.1), SNAT.1);
        self.connections.flows.extend([forward, reply]);
        self
    }

    /// The client's SYN was forwarded, from `port`.
    #[must_use]
    pub fn opened_from(mut self, port: u16) -> Self {
        let (forward, reply) = self.pair_of(TARGET, CLIENT, port);
        self.connections
            .pending
            .extend([forward, reply].map(unanswered));
        self
    }

    /// The client's connection, as [`Self::opened`] does, to the server that
    /// takes over.
    #[must_use]
    pub fn opened_to_heir(mut self) -> Self {
        let (forward, reply) = self.pair_of(HEIR_TARGET, CLIENT, SNAT.1);
        self.connections.pending = [forward, reply].map(unanswered).into();
        self
    }

    /// The two flows of the client's connection to the server.
    #[must_use]
    pub fn pair(&self) -> (Entry, Entry) {
        self.pair_of(TARGET, CLIENT, SNAT.1)
    }

    /// The two flows, forward and reply, of `client`'s connection to `target`,
    /// which sees it come from `port`.
    #[must_use]
    pub fn pair_of(&self, target: TargetId, client: (Ipv4Addr, u16), port: u16) -> (Entry, Entry) {
        let Target {
            server,
            snat,
            port: server_port,
            ..
        } = self.targets[&target];
        let forward = key(client, VIP);
        let reply = Key {
            source: server,
            destination: snat,
            source_port: server_port,
            destination_port: Port::new(port),
        };
        let owner = Owner {
            service: SERVICE,
            target,
            generation: self.generations[&target],
        };
        let flow = |key: &Key, rewrite: Key, direction, hop| {
            Flow::new(key, rewrite, direction, owner, hop, Tick(0))
        };
        let there = flow(
            &forward,
            reply.reversed(),
            Direction::Forward,
            Hop::default(),
        );
        let back = flow(
            &reply,
            forward.reversed(),
            Direction::Reply,
            hop(CLIENT_MAC),
        );
        ((forward, there), (reply, back))
    }

    /// The same state in tables of ordinary memory.
    #[must_use]
    pub fn tables(&self) -> FakeTables {
        let Self {
            services,
            slots,
            targets,
            generations,
            connections,
        } = self.clone();
        let tables = FakeTables {
            services,
            slots,
            targets,
            generations,
            flows_max: FLOWS_MAX,
            ..FakeTables::default()
        };
        *tables.pending.borrow_mut() = connections.pending;
        let cell = |flow| std::rc::Rc::new(std::cell::Cell::new(flow));
        *tables.flows.borrow_mut() = connections
            .flows
            .into_iter()
            .map(|(key, flow)| (key, cell(flow)))
            .collect();
        tables
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// An entry of PENDING whose server has said nothing yet.
fn unanswered((key, flow): Entry) -> (Key, Pending<Ipv4>) {
    let pending = Pending {
        flow,
        server_sequence: 0,
    };
    (key, pending)
}

/// The key of what goes from `source` to `destination`.
#[must_use]
pub fn key(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Key {
    FlowKey {
        source: source.0.into(),
        destination: destination.0.into(),
        source_port: Port::new(source.1),
        destination_port: Port::new(destination.1),
    }
}

/// The way from the balancer to `neighbour`.
#[must_use]
pub fn hop(neighbour: MacAddress) -> Hop {
    Hop {
        destination: Mac::from(neighbour),
        source: Mac::from(BALANCER_MAC),
    }
}

/// A server as the service sees it.
#[must_use]
pub fn target(server: (Ipv4Addr, u16), mac: MacAddress) -> Target<Ipv4> {
    Target {
        server: server.0.into(),
        snat: SNAT.0.into(),
        port: Port::new(server.1),
        snat_first: PORTS.0,
        snat_count: PORTS.1,
        service: SERVICE,
        hop: hop(mac),
    }
}
