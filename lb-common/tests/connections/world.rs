//! The model's world: few clients, few servers and very few ports, so that
//! they get in each other's way; and everything that may happen in it.

use std::collections::BTreeMap;

use lb_common::addr::{Ipv4, Port};
use lb_common::datapath::process;
use lb_common::fake::{FakePacket, FakeTables};
use lb_common::flow::{Direction, Tick};
use lb_common::layout::bytes_of;
use lb_common::nat::PartialChecksum;
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::{Target, TargetId};
use lb_common::verdict::Verdict;
use lb_common::wire::frame::Headers;
use lb_common::wire::tcp::Flags;
use proptest::prelude::*;

use crate::frame::{self, Key, key, segment};

pub const CLIENTS: u8 = 5;
pub const TARGETS: u32 = 3;
/// Fewer than there are clients.
const PORTS: u16 = 4;
const SLOTS: u32 = 4;
const VIP: ([u8; 4], u16) = ([10, 0, 0, 100], 8080);
const SNAT: [u8; 4] = [10, 0, 0, 101];

/// Before the sequence numbers of all servers.
const FIRST_SEQUENCE: u32 = 7 << 20;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A client sends a segment to the VIP.
    Client(u8, Flags, Number),
    /// The server answers the last segment that it saw of a client.
    Server(u8, Flags),
    /// A target is cut off.
    Cut(u32),
    /// A slot gets another target, or none.
    Slot(u32, u32),
    /// The agent forgets connections that are closed or stale.
    Reap,
    /// FLOWS takes so many entries.
    Room(usize),
    /// PENDING is full, and pushes one entry out.
    Evict(usize),
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
        1 => (1..=TARGETS).prop_map(Happening::Cut),
        1 => (0..SLOTS, 0..=TARGETS).prop_map(|(slot, target)| Happening::Slot(slot, target)),
        1 => Just(Happening::Reap),
        1 => (0_usize..12).prop_map(Happening::Room),
        1 => any::<usize>().prop_map(Happening::Evict),
    ]
}

/// One packet's way.
#[derive(Debug)]
pub struct Passage {
    /// As it came.
    pub before: Headers,
    /// What became of it.
    pub verdict: Verdict<Ipv4>,
    /// As it went, if it went anywhere.
    pub after: Headers,
}

/// The world as it stands.
pub struct World {
    pub tables: FakeTables,
    /// What a client's server saw last, as its key.
    seen: BTreeMap<u8, Key>,
    /// The sequence number of a server's next segment to a client.
    sequence: BTreeMap<u8, u32>,
    pub now: Tick,
}

impl World {
    pub fn new() -> Self {
        let mut tables = FakeTables {
            flows_max: 8,
            ..FakeTables::default()
        };
        let (vip, port) = VIP;
        let listener = Listener::new(Ipv4(u32::from_ne_bytes(vip)), Port::new(port));
        let service = Service::new(ServiceId(1), 0, SLOTS);
        tables.services.insert(listener, service);
        for id in 1..=TARGETS {
            let target = Target {
                server: Ipv4(u32::from_ne_bytes([10, 0, 1, id as u8])),
                snat: Ipv4(u32::from_ne_bytes(SNAT)),
                port: Port::new(9000),
                snat_first: 2000,
                snat_count: PORTS,
                service: ServiceId(1),
                ..Target::default()
            };
            tables.targets.insert(TargetId(id), target);
        }
        tables.slots = (0..SLOTS).map(|slot| (slot, TargetId(1))).collect();
        Self {
            tables,
            seen: BTreeMap::new(),
            sequence: BTreeMap::new(),
            now: Tick(0),
        }
    }

    /// Lets it happen; gives the packet's passage, if it was a packet.
    pub fn let_happen(&mut self, happening: &Happening) -> Option<Passage> {
        self.now.0 += 1;
        match *happening {
            Happening::Client(client, flags, number) => {
                let acknowledgment = match number {
                    Number::Right => self.sequence.get(&client).copied().unwrap_or(0),
                    Number::Wrong(number) => number,
                };
                let packet = segment(&client_key(client), flags, 1000, acknowledgment);
                Some(self.pass(client, packet))
            }
            Happening::Server(client, flags) => {
                let key = self.seen.get(&client)?.reversed();
                let sequence = self.sequence.entry(client).or_insert(FIRST_SEQUENCE);
                // Another number for each SYN+ACK: a client that acknowledges
                // an old one has not seen the new one.
                *sequence = sequence.wrapping_add(1 << 20);
                let packet = segment(&key, flags, sequence.wrapping_sub(1), 1001);
                Some(self.pass(client, packet))
            }
            Happening::Cut(target) => {
                self.tables.cut(TargetId(target));
                None
            }
            Happening::Slot(slot, target) => {
                self.tables.slots.insert(slot, TargetId(target));
                None
            }
            Happening::Reap => {
                self.reap();
                None
            }
            Happening::Room(room) => {
                self.tables.flows_max = room;
                None
            }
            Happening::Evict(at) => {
                self.evict(at);
                None
            }
        }
    }

    fn pass(&mut self, client: u8, packet: Headers) -> Passage {
        let mut buffer = FakePacket::new(bytes_of(&packet));
        let now = self.now;
        let verdict = process(&mut buffer, &self.tables, PartialChecksum::Finish, || now);
        let after = frame::headers(&buffer.bytes());
        let transmitted = verdict.fate() == lb_common::verdict::Fate::Transmit;
        if transmitted && verdict.direction == Direction::Forward {
            self.seen.insert(client, after.key());
        }
        Passage {
            before: packet,
            verdict,
            after,
        }
    }

    /// As the agent does: both halves of what is closed or stale.
    fn reap(&mut self) {
        let over: Vec<Key> = self
            .tables
            .flows
            .borrow()
            .iter()
            .filter(|(_, flow)| {
                let flow = flow.get();
                let stale = self.generation(flow.target) != flow.generation;
                flow.direction() == Direction::Forward && (stale || flow.progress.closed())
            })
            .map(|(key, _)| *key)
            .collect();
        let mut flows = self.tables.flows.borrow_mut();
        for key in over {
            let flow = flows.remove(&key).expect("it was there").get();
            flows.remove(&flow.pair_key());
        }
    }

    fn evict(&mut self, at: usize) {
        let mut pending = self.tables.pending.borrow_mut();
        if let Some(at) = at.checked_rem(pending.len()) {
            let key = *pending.keys().nth(at).expect("it is among them");
            pending.remove(&key);
        }
    }

    pub fn generation(&self, id: TargetId) -> lb_common::target::Generation {
        self.tables
            .generations
            .get(&id)
            .copied()
            .unwrap_or_default()
    }
}

/// What a client's segments arrive with. All clients use the same port, so
/// that all want the same port towards the servers.
pub fn client_key(client: u8) -> Key {
    key(([10, 0, 2, client], 40_000), VIP)
}
