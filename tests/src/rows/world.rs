//! The world of the rows: one client, one balancer, a service with one
//! server, and how far their connection has come.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use lb_common::addr::{Address, Ipv4, Mac, Port};
use lb_common::fake::FakeTables;
use lb_common::filter::Filter;
use lb_common::flow::{Direction, Flow, FlowKey, Owner, Progress, Tick};
use lb_common::service::{Listener, Rule, Service, ServiceId};
use lb_common::target::{Generation, Hop, Load, Mode, Snat, Target, TargetId};

use super::connections::{Connections, Entry, unanswered};
use super::family::Family;
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
pub const CLIENT: (IpAddr, u16) = (ipv4([10, 0, 0, 9]), 40_000);
/// What it connects to.
pub const VIP: (IpAddr, u16) = (ipv4([10, 0, 0, 100]), 8080);
/// What the server takes for its client: the client's port, folded into the
/// range of [`PORTS`].
pub const SNAT: (IpAddr, u16) = (ipv4([10, 0, 0, 101]), 8256);
/// The server.
pub const SERVER: (IpAddr, u16) = (ipv4([10, 0, 0, 11]), 9000);
/// The server that takes over.
pub const HEIR: (IpAddr, u16) = (ipv4([10, 0, 0, 12]), 9000);

/// The balancer's end of tunnels.
pub const TUNNEL: IpAddr = ipv4([10, 0, 0, 103]);
/// Another client.
pub const STRANGER: IpAddr = ipv4([10, 0, 0, 99]);

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
/// The service's only slot; its members follow.
pub const SLOT: u32 = 40;
/// The first port of the SNAT address' range, and how many there are.
pub const PORTS: (u16, u16) = (1024, 31_744);

/// How many entries FLOWS takes, in every row.
pub const FLOWS_MAX: usize = 16;
/// How many connections there may be, in every row.
pub const CONNECTIONS_MAX: u32 = 1000;
/// The NIC that packets come by: where BPF_PROG_TEST_RUN lets them arrive.
pub const NIC: u32 = 1;

const fn ipv4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn leg(
    from: MacAddress,
    to: MacAddress,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
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
pub struct World<A: Address = Ipv4> {
    /// SERVICES.
    pub services: BTreeMap<Listener<A>, Service>,
    /// SLOTS.
    pub slots: BTreeMap<u32, TargetId>,
    /// TARGETS.
    pub targets: BTreeMap<TargetId, Target<A>>,
    /// SNATS.
    pub snats: Vec<Snat<A>>,
    /// GENERATIONS.
    pub generations: BTreeMap<TargetId, Generation>,
    /// PREFIXES: exact addresses only.
    pub rules: BTreeMap<(ServiceId, A), Rule>,
    /// TURNS.
    pub turns: BTreeMap<ServiceId, u32>,
    /// FLOWS, PENDING, SOURCES and AFFINITIES. What is counted as open here
    /// is open besides what the flows show.
    pub connections: Connections<A>,
}

impl<A: Address> World<A> {
    /// Nothing at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            targets: BTreeMap::new(),
            snats: Vec::new(),
            generations: BTreeMap::new(),
            rules: BTreeMap::new(),
            turns: BTreeMap::new(),
            connections: Connections::default(),
        }
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

    /// The server's target, changed.
    ///
    /// # Panics
    /// There is no such target.
    #[must_use]
    pub fn target(mut self, change: impl FnOnce(&mut Target<A>)) -> Self {
        change(self.targets.get_mut(&TARGET).expect("it is there"));
        self
    }

    /// The server is reached in this way.
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        self.target(|target| target.mode = mode as u8)
    }

    /// Servers are to see the VIP itself as their client: a SYN of theirs has the
    /// addresses and ports of what answers it.
    #[must_use]
    pub fn meeting_itself(mut self) -> Self {
        let itself = |listener: &Listener<A>| Snat {
            address: listener.address,
            first: listener.port.number(),
            count: 1,
        };
        self.snats = self.services.keys().map(itself).collect();
        self
    }

    /// Every service, changed.
    #[must_use]
    pub fn service(mut self, change: impl Fn(&mut Service)) -> Self {
        self.services.values_mut().for_each(change);
        self
    }

    /// So many connections of the server's target are open besides what FLOWS
    /// shows.
    #[must_use]
    pub fn busy(mut self, open: u32) -> Self {
        self.connections.open = [(TARGET, open), (TargetId::NONE, open)].into();
        self.connections.open_of_services = [(SERVICE, open)].into();
        self
    }

    /// The key of a flow's other half.
    #[must_use]
    pub fn pair_key(&self, key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
        flow.pair_key(key, &self.targets[&flow.target()])
    }

    /// What the tables hold of connections, without moments.
    #[must_use]
    pub fn settled(&self) -> Connections<A> {
        self.connections.clone().counted(&self.targets).timeless()
    }

    /// Adds what ADDRESSES holds: what connections came to, too, and the
    /// addresses of the servers, which may be here.
    pub fn note_ours(&self, filter: &mut Filter) {
        let Connections { flows, pending, .. } = &self.connections;
        for listener in self.services.keys() {
            filter.add_listener(listener);
        }
        for snat in &self.snats {
            filter.add_snat(snat);
        }
        for target in self.targets.values() {
            filter.add_address(target.server);
        }
        for key in flows.keys().chain(pending.keys()) {
            filter.add_listener(&Listener::new(key.destination, key.destination_port));
        }
    }

    /// The same state in tables of ordinary memory.
    #[must_use]
    pub fn tables(&self) -> FakeTables<A> {
        let mut addresses = Filter::EMPTY;
        self.note_ours(&mut addresses);
        let addresses = Some(addresses);
        let Self {
            services,
            slots,
            targets,
            snats,
            generations,
            rules,
            turns,
            connections,
        } = self.clone();
        let Connections {
            flows,
            pending,
            sources,
            affinities,
            open,
            open_of_services,
        } = connections.counted(&targets);
        let tables = FakeTables {
            addresses,
            services,
            slots,
            targets,
            snats,
            generations,
            rules,
            flows_max: FLOWS_MAX,
            connections_max: CONNECTIONS_MAX,
            ..FakeTables::default()
        };
        *tables.turns.borrow_mut() = turns;
        *tables.pending.borrow_mut() = pending;
        *tables.flows.borrow_mut() = cells(flows);
        *tables.sources.borrow_mut() = cells(sources);
        *tables.affinities.borrow_mut() = affinities;
        let load = |open| Load { open, latency: 0 };
        let loads = open.into_iter().map(|(id, open)| (id, load(open)));
        *tables.load.borrow_mut() = loads.collect();
        *tables.service_load.borrow_mut() = open_of_services;
        tables
    }
}

fn cells<K: Ord, V>(values: BTreeMap<K, V>) -> BTreeMap<K, Rc<Cell<V>>> {
    let cells = values.into_iter();
    cells
        .map(|(key, value)| (key, Rc::new(Cell::new(value))))
        .collect()
}

impl World {
    /// One service with one server, and no connection yet.
    #[must_use]
    pub fn new() -> Self {
        let listener = Listener::new(Ipv4::like(VIP.0), Port::new(VIP.1));
        let service = Service {
            id: SERVICE,
            first_slot: SLOT,
            slots: 1,
            members: 2,
            ..Service::default()
        };
        let snat = Snat {
            address: Ipv4::like(SNAT.0),
            first: PORTS.0,
            count: PORTS.1,
        };
        Self {
            services: [(listener, service)].into(),
            slots: [(SLOT, TARGET), (SLOT + 1, TARGET), (SLOT + 2, HEIR_TARGET)].into(),
            targets: [
                (TARGET, target(SERVER, SERVER_MAC)),
                (HEIR_TARGET, target(HEIR, HEIR_MAC)),
            ]
            .into(),
            snats: vec![snat],
            generations: [(TARGET, Generation(7)), (HEIR_TARGET, Generation(1))].into(),
            ..Self::empty()
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
        self.pending(Progress::ANSWERED, sequence)
    }

    fn pending(mut self, answered: Progress, server_sequence: u32) -> Self {
        let (forward, reply) = self.pair();
        let (forward, mut reply) = (unanswered(forward), unanswered(reply));
        reply.1.progress = answered;
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
        forward.1 = forward.1.progressed(progress);
        self.connections.flows.extend([forward, reply]);
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
        let both = [forward, reply].map(unanswered);
        self.connections.pending.extend(both);
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
        let both = [forward, reply].map(unanswered);
        self.connections.pending.extend(both);
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

    /// The two flows of the client's connection to the server. One on this
    /// host sees its client itself.
    #[must_use]
    pub fn pair(&self) -> (Entry, Entry) {
        match self.targets[&TARGET].mode() {
            Mode::Local => self.pair_via(TARGET, CLIENT, CLIENT),
            Mode::Nat | Mode::Dsr | Mode::Ipip => self.pair_of(TARGET, CLIENT, SNAT.1),
        }
    }

    /// The two flows, forward and reply, of `client`'s connection to `target`,
    /// which sees it come from `port` of the SNAT address.
    #[must_use]
    pub fn pair_of(&self, target: TargetId, client: (IpAddr, u16), port: u16) -> (Entry, Entry) {
        self.pair_via(target, client, (SNAT.0, port))
    }

    /// The same where the target sees it come from `snat`.
    #[must_use]
    pub fn pair_via(
        &self,
        id: TargetId,
        client: (IpAddr, u16),
        snat: (IpAddr, u16),
    ) -> (Entry, Entry) {
        let target = self.targets[&id];
        let forward: FlowKey<Ipv4> = key(client, VIP);
        let server = (target.server.into(), target.port.number());
        let reply = key(server, snat);
        let owner = Owner {
            target: id,
            generation: self.generations[&id],
        };
        let flow = |key: &FlowKey<Ipv4>, rewrite: FlowKey<Ipv4>, direction, hop| {
            Flow::new(key, &rewrite, direction, owner, hop, Tick(0))
        };
        let (there, back) = (reply.reversed(), forward.reversed());
        let there = flow(&forward, there, Direction::Forward, Hop::default());
        let back = flow(&reply, back, Direction::Reply, hop(CLIENT_MAC));
        ((forward, there), (reply, back))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The key of what goes from `source` to `destination`.
#[must_use]
pub fn key<A: Family>(source: (IpAddr, u16), destination: (IpAddr, u16)) -> FlowKey<A> {
    FlowKey {
        source: A::like(source.0),
        destination: A::like(destination.0),
        source_port: Port::new(source.1),
        destination_port: Port::new(destination.1),
    }
}

/// The way from the balancer to `neighbour`, back by the NIC that packets
/// come by.
#[must_use]
pub fn hop(neighbour: MacAddress) -> Hop {
    Hop {
        destination: Mac::from(neighbour),
        source: Mac::from(BALANCER_MAC),
        ifindex: NIC,
    }
}

/// A server as the service sees it.
#[must_use]
pub fn target(server: (IpAddr, u16), mac: MacAddress) -> Target<Ipv4> {
    Target {
        server: Ipv4::like(server.0),
        tunnel: Ipv4::like(TUNNEL),
        port: Port::new(server.1),
        vip: Ipv4::like(VIP.0),
        vip_port: Port::new(VIP.1),
        snats: 1,
        service: SERVICE,
        hop: hop(mac),
        weight: 1,
        accepts: 1,
        ..Target::default()
    }
}
