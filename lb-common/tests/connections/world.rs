//! The model's world: few clients, few servers and very few ports, so that
//! they get in each other's way; and everything that may happen in it.

use std::collections::BTreeMap;

use lb_common::addr::Port;
use lb_common::fake::{FakePacket, FakeTables, process};
use lb_common::flow::{Direction, Flow, FlowKey, Progress, Tick};
use lb_common::nat::PartialChecksum;
use lb_common::service::{Algorithm, Listener, Options, Service, ServiceId};
use lb_common::target::{Generation, Hop, Mode, Snat, Target, TargetId};
use lb_common::verdict::{Fate, Verdict};
use lb_common::wire::tcp::Flags;
use proptest::prelude::*;

use crate::frame::{self, Family, Segment, frame, key, segment};

pub const CLIENTS: u8 = 6;
/// Of each of the two services.
const TARGETS: u32 = 3;
/// The first service's targets, and then the second's: the same servers.
pub const ALL_TARGETS: u32 = 2 * TARGETS;
/// How many addresses the clients have: some have two clients.
const SOURCES: u8 = 4;
/// Of each SNAT address: together fewer than there are clients.
const PORTS: u16 = 2;
const SNATS: [[u8; 4]; 2] = [[10, 0, 0, 101], [10, 0, 0, 102]];
const SLOTS: u32 = 4;
const VIP: [u8; 4] = [10, 0, 0, 100];

/// Before the sequence numbers of all servers.
const FIRST_SEQUENCE: u32 = 7 << 20;

/// How a world is set up. By default: Maglev, translation, no limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    pub algorithm: Algorithm,
    pub modes: [Mode; TARGETS as usize],
    /// In ticks.
    pub affinity: u32,
    /// Of each target; no limit is 0, here and below.
    pub target_max: u32,
    pub service_max: u32,
    pub source_max: u32,
    /// In microseconds.
    pub source_interval: u32,
    pub connections_max: u32,
    /// Refuses without an answer.
    pub silent: bool,
}

/// Any setup.
pub fn setup() -> impl Strategy<Value = Setup> {
    let algorithm = (0_u8..6).prop_map(Algorithm::from_number);
    let mode = || prop_oneof![4 => Just(Mode::Nat), 1 => Just(Mode::Dsr)];
    let limit = |max: u32| prop_oneof![3 => Just(0), 1 => 1..=max];
    (
        algorithm,
        [mode(), mode(), mode()],
        limit(20),
        limit(2),
        limit(4),
        limit(2),
        limit(1000),
        limit(5),
        any::<bool>(),
    )
        .prop_map(
            |(
                algorithm,
                modes,
                affinity,
                target_max,
                service_max,
                source_max,
                source_interval,
                connections_max,
                silent,
            )| Setup {
                algorithm,
                modes,
                affinity,
                target_max,
                service_max,
                source_max,
                source_interval,
                connections_max,
                silent,
            },
        )
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A client sends a segment to the VIP.
    Client(u8, Flags, Number),
    /// The server answers the last segment that it saw of a client.
    Server(u8, Flags),
    /// A target is cut off.
    Cut(u32),
    /// A target gets new connections from now on, or no more.
    Accept(u32, bool),
    /// A slot of a service gets another target, or none.
    Slot(ServiceId, u32, u32),
    /// The agent forgets connections that are closed or stale.
    Reap,
    /// The agent forgets the connection of one flow, which was idle.
    Idle(usize),
    /// FLOWS takes so many entries.
    Room(usize),
    /// PENDING is full, and pushes one entry out.
    Evict(usize),
    /// So many microseconds pass.
    Wait(u64),
}

/// What a client acknowledges.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// The server's last sequence number.
    Right,
    /// One that no server ever sent.
    Wrong(u32),
}

/// What may happen. Weighted, so that connections get somewhere.
pub fn happening() -> impl Strategy<Value = Happening> {
    let client = 0..CLIENTS;
    let target = 1..=ALL_TARGETS;
    let by_client = prop_oneof![
        4 => Just(Flags::SYN),
        5 => Just(Flags::ACK),
        2 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST),
        1 => any::<u8>().prop_map(Flags),
    ];
    let by_server = prop_oneof![
        6 => Just(Flags::SYN | Flags::ACK),
        2 => Just(Flags::ACK),
        2 => Just(Flags::FIN | Flags::ACK),
        1 => Just(Flags::RST | Flags::ACK),
        1 => any::<u8>().prop_map(Flags),
    ];
    let number = prop_oneof![
        6 => Just(Number::Right),
        1 => (0..FIRST_SEQUENCE).prop_map(Number::Wrong),
    ];
    prop_oneof![
        12 => (client.clone(), by_client, number).prop_map(|(c, f, n)| Happening::Client(c, f, n)),
        10 => (client, by_server).prop_map(|(c, f)| Happening::Server(c, f)),
        1 => target.clone().prop_map(Happening::Cut),
        1 => (target, any::<bool>()).prop_map(|(t, accept)| Happening::Accept(t, accept)),
        1 => (1_u16..=2, 0..SLOTS, 0..=TARGETS)
            .prop_map(|(service, slot, target)| Happening::Slot(ServiceId(service), slot, target)),
        1 => Just(Happening::Reap),
        1 => any::<usize>().prop_map(Happening::Idle),
        1 => (0_usize..12).prop_map(Happening::Room),
        1 => any::<usize>().prop_map(Happening::Evict),
        1 => (0_u64..3000).prop_map(Happening::Wait),
    ]
}

/// One packet's way.
pub struct Passage<A: Family> {
    /// As it came.
    pub before: Segment<A>,
    /// What became of it.
    pub verdict: Verdict,
    /// As it went, if it went anywhere.
    pub after: Segment<A>,
}

/// The world as it stands.
pub struct World<A: Family> {
    pub tables: FakeTables<A>,
    pub setup: Setup,
    /// What a client's server saw last, as its key.
    seen: BTreeMap<u8, FlowKey<A>>,
    /// The sequence number of a server's next segment to a client.
    sequence: BTreeMap<u8, u32>,
    pub now: Tick,
}

impl<A: Family> World<A> {
    pub fn new(setup: Setup) -> Self {
        let mut tables = FakeTables {
            flows_max: 8,
            connections_max: match setup.connections_max {
                0 => u32::MAX,
                limit => limit,
            },
            ..FakeTables::default()
        };
        for id in [ServiceId(1), ServiceId(2)] {
            let listener = Listener::new(A::ending_in(VIP), port_of(id));
            tables.services.insert(listener, service(id, setup));
            for (number, mode) in (1..).zip(setup.modes) {
                let target = target(number, id, mode, setup);
                tables.targets.insert(target_of(id, number), target);
                let member = first_slot(id) + SLOTS + number - 1;
                tables.slots.insert(member, target_of(id, number));
            }
            let slots = 0..SLOTS;
            tables.slots.extend(
                slots.map(|slot| (first_slot(id) + slot, target_of(id, slot % TARGETS + 1))),
            );
        }
        tables.snats = SNATS
            .map(|snat| Snat {
                address: A::ending_in(snat),
                first: 2000,
                count: PORTS,
            })
            .to_vec();
        Self {
            tables,
            setup,
            seen: BTreeMap::new(),
            sequence: BTreeMap::new(),
            now: Tick(0),
        }
    }

    /// After all of this has happened.
    pub fn after(setup: Setup, history: &[Happening]) -> Self {
        let mut world = Self::new(setup);
        for happening in history {
            world.let_happen(happening);
        }
        world
    }

    /// Lets it happen; gives the packet's passage, if it was a packet.
    pub fn let_happen(&mut self, happening: &Happening) -> Option<Passage<A>> {
        self.now.0 += 1;
        match *happening {
            Happening::Client(client, flags, number) => {
                let acknowledgment = match number {
                    Number::Right => self.sequence.get(&client).copied().unwrap_or(0),
                    Number::Wrong(number) => number,
                };
                let packet = segment::<A>(&client_key(client), flags, 1000, acknowledgment);
                return Some(self.pass(client, packet));
            }
            Happening::Server(client, flags) => {
                let key = self.seen.get(&client)?.reversed();
                let sequence = self.sequence.entry(client).or_insert(FIRST_SEQUENCE);
                // Another number for each SYN+ACK: a client that acknowledges
                // an old one has not seen the new one.
                *sequence = sequence.wrapping_add(1 << 20);
                let packet = segment::<A>(&key, flags, sequence.wrapping_sub(1), 1001);
                return Some(self.pass(client, packet));
            }
            Happening::Cut(target) => self.tables.cut(TargetId(target)),
            Happening::Accept(target, accept) => self.accept(target, accept),
            Happening::Slot(service, slot, target) => {
                let id = target_of(service, target);
                self.tables.slots.insert(first_slot(service) + slot, id);
            }
            Happening::Reap => self.reap(),
            Happening::Idle(at) => self.reap_one(at),
            Happening::Room(room) => self.tables.flows_max = room,
            Happening::Evict(at) => self.evict(at),
            Happening::Wait(time) => {
                let clock = &self.tables.microseconds;
                clock.set(clock.get() + time);
            }
        }
        None
    }

    fn pass(&mut self, client: u8, packet: Segment<A>) -> Passage<A> {
        let mut buffer = FakePacket::new(&frame::<A>(&packet));
        let partial = PartialChecksum::Finish;
        let verdict = process(&mut buffer, &self.tables, partial, self.now).verdict;
        let after = frame::headers::<A>(&buffer.bytes());
        if verdict.fate() == Fate::Transmit && verdict.direction == Direction::Forward {
            self.seen.insert(client, after.key());
        }
        Passage {
            before: packet,
            verdict,
            after,
        }
    }

    /// A client opens a connection and finishes its handshake; gives its
    /// target, none where it was refused.
    pub fn connect(&mut self, client: u8) -> Option<TargetId> {
        let syn = Happening::Client(client, Flags::SYN, Number::Right);
        let opened = self.let_happen(&syn)?.verdict;
        if opened.fate() != Fate::Transmit {
            return None;
        }
        self.let_happen(&Happening::Server(client, Flags::SYN | Flags::ACK));
        self.let_happen(&Happening::Client(client, Flags::ACK, Number::Right));
        Some(opened.target)
    }

    fn accept(&mut self, target: u32, accept: bool) {
        let target = self.tables.targets.get_mut(&TargetId(target));
        target.expect("it is there").accepts = u8::from(accept);
    }

    /// What is closed or stale.
    fn reap(&mut self) {
        let over = |flow: &Flow<A>| {
            let stale = self.generation(flow.target()) != flow.generation;
            flow.direction() == Direction::Forward && (stale || flow.progress().closed())
        };
        for (key, flow) in self.flows() {
            if over(&flow) {
                assert!(self.tables.reap(&key, self.now));
            }
        }
    }

    fn reap_one(&mut self, at: usize) {
        let flows = self.flows();
        if let Some(at) = at.checked_rem(flows.len()) {
            let (key, _) = flows[at];
            assert!(self.tables.reap(&key, self.now));
        }
    }

    /// FLOWS.
    pub fn flows(&self) -> Vec<(FlowKey<A>, Flow<A>)> {
        let flows = self.tables.flows.borrow();
        flows.iter().map(|(key, flow)| (*key, flow.get())).collect()
    }

    fn evict(&mut self, at: usize) {
        let mut pending = self.tables.pending.borrow_mut();
        if let Some(at) = at.checked_rem(pending.len()) {
            let key = *pending.keys().nth(at).expect("it is among them");
            pending.remove(&key);
        }
    }

    pub fn generation(&self, id: TargetId) -> Generation {
        let generations = &self.tables.generations;
        generations.get(&id).copied().unwrap_or_default()
    }

    /// What the segments of a flow leave with.
    pub fn rewrite(&self, key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
        flow.rewrite(key, &self.tables.targets[&flow.target()])
    }

    /// Whether the server's segments come by.
    pub fn replies(&self, flow: &Flow<A>) -> bool {
        self.tables.targets[&flow.target()].mode().replies()
    }

    /// The key of a flow's other half.
    pub fn pair_key(&self, key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
        self.rewrite(key, flow).reversed()
    }

    /// The progress of a client's connection, if it is in FLOWS.
    pub fn progress(&self, client: u8) -> Option<Progress> {
        let flow = self.tables.flow_at(&client_key(client))?;
        Some(flow.progress())
    }
}

fn service(id: ServiceId, setup: Setup) -> Service {
    Service {
        id,
        first_slot: first_slot(id),
        slots: SLOTS,
        members: TARGETS,
        algorithm: setup.algorithm as u8,
        affinity: setup.affinity,
        max_connections: setup.service_max,
        source_connections: setup.source_max,
        source_interval: setup.source_interval,
        source_burst: 2,
        options: Options::default()
            .with(Options::DROP_FULL, setup.silent)
            .with(Options::DROP_NO_TARGET, setup.silent),
    }
}

fn target<A: Family>(id: u32, service: ServiceId, mode: Mode, setup: Setup) -> Target<A> {
    Target {
        server: A::ending_in([10, 0, 1, id as u8]),
        port: Port::new(9000),
        vip: A::ending_in(VIP),
        vip_port: port_of(service),
        snats: SNATS.len() as u16,
        service,
        weight: id as u16,
        max_connections: setup.target_max,
        mode: mode as u8,
        accepts: 1,
        hop: Hop {
            destination: [id as u8; 6].into(),
            ..Hop::default()
        },
        ..Target::default()
    }
}

/// Where a service's slots begin.
fn first_slot(service: ServiceId) -> u32 {
    u32::from(service.0 - 1) * (SLOTS + TARGETS)
}

/// A service's target of this number; 0 is none.
fn target_of(service: ServiceId, number: u32) -> TargetId {
    match number {
        0 => TargetId::NONE,
        _ => TargetId(u32::from(service.0 - 1) * TARGETS + number),
    }
}

/// The port of the VIP that a service listens on.
fn port_of(service: ServiceId) -> Port {
    Port::new(8079 + service.0)
}

/// Which service a client connects to: the last one is alone with the second.
pub fn service_of(client: u8) -> ServiceId {
    ServiceId(1 + u16::from(client + 1 == CLIENTS))
}

/// What a client's segments arrive with. All clients want the same port
/// towards the servers.
pub fn client_key<A: Family>(client: u8) -> FlowKey<A> {
    let port = 40_000 + u16::from(client / SOURCES) * PORTS;
    let vip = (VIP, port_of(service_of(client)).number());
    key(([10, 0, 2, client % SOURCES], port), vip)
}
