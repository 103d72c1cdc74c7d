//! Random worlds and packets, all from one seed: what nobody would think of
//! writing down as a row.

use std::net::Ipv4Addr;

use lb_common::flow::{FlowKey, Progress};

use super::connections::{Connections, Key};
use super::frame::{
    ACK, Checksum, ETH, FIN, HEADERS, IP, Leg, PSH, RST, SYN, Tcp, finish_ip, finish_tcp, segment,
};
use super::kernel::FRAME_MAX;
use super::world::{
    CLIENT, CLIENT_MAC, FLOWS_MAX, FROM_CLIENT, FROM_SERVER, HEIR_TARGET, SLOT, STRANGER, TARGET,
    VIP, World,
};

/// A source of numbers that look random: splitmix64, so that a seed means the
/// same everywhere and for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that belong to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    /// Whether a case arises that arises once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`, which are not none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }
}

/// A world in some state.
#[must_use]
pub fn world(random: &mut Random) -> World {
    let world = World::new();
    let world = match random.below(8) {
        0 => world,
        1 => world.opened(),
        2 => world.answered(random.one_of(&[5000, u32::MAX, 0])),
        3 => world.answered(5000).without_reply_half(),
        4 => world.answered(5000).without_forward_half(),
        5 => world.with_port_reserved(),
        6 => world.with_port_taken(),
        _ => world.progressed(Progress {
            client_fin: random.one_of(&[0, 1]),
            server_fin: random.one_of(&[0, 1, Progress::FIRST]),
            reset: random.one_of(&[0, 0, 1]),
            answered: 0,
        }),
    };
    let room = random.below(5);
    if random.once_in(3) && world.connections.flows.len() + room <= FLOWS_MAX {
        return turn(random, world.with_room_for(room));
    }
    turn(random, world)
}

/// The same world after the agent may have done something.
#[must_use]
pub fn turn(random: &mut Random, mut world: World) -> World {
    match random.below(8) {
        0 => world.cut(),
        1 => world.cut().handed_over(),
        2 => world.handed_over(),
        3 if random.once_in(2) => world.leaderless(),
        4 => {
            world.slots.insert(SLOT, TARGET);
            world
        }
        5 if random.once_in(2) => {
            let target = world.targets.get_mut(&TARGET).expect("it is there");
            target.snat_count = random.one_of(&[0, 1, 2, 31_744]);
            world
        }
        _ => world,
    }
}

/// A packet for a world that has `connections`.
#[must_use]
pub fn packet(random: &mut Random, connections: &Connections) -> Vec<u8> {
    let (leg, awaited) = place(random, connections);
    let mut frame = tcp(random, leg, awaited).build();
    if random.once_in(3) {
        for _ in 0..=random.below(3) {
            mutate(random, &mut frame);
        }
        frame.truncate(FRAME_MAX);
    }
    frame
}

/// Where a packet comes from: more often than not, where a connection is.
/// With it, the acknowledgment that would finish a handshake there.
fn place(random: &mut Random, connections: &Connections) -> (Leg, Option<u32>) {
    let Connections { flows, pending } = connections;
    let known = flows.len() + pending.len();
    if known == 0 || random.once_in(4) {
        return (anywhere(random), None);
    }
    let at = random.below(known);
    let mut keys = flows.keys().chain(pending.keys());
    let key = keys.nth(at).expect("it is among them");
    let server = pending
        .get(key)
        .and_then(|client| pending.get(&client.flow.pair_key()));
    let awaited = server.map(|server| server.server_sequence.wrapping_add(1));
    (leg_of(key), awaited)
}

fn anywhere(random: &mut Random) -> Leg {
    let mut leg = random.one_of(&[FROM_CLIENT, FROM_CLIENT, FROM_CLIENT, FROM_SERVER]);
    match random.below(6) {
        0 => leg.source = (STRANGER, CLIENT.1),
        1 => leg.source.1 = random.one_of(&[40_001, 1024, 65_535, 0]),
        2 => leg.destination.1 = random.one_of(&[22, 8081, 1024]),
        3 => leg.destination.0 = random.one_of(&[VIP.0, Ipv4Addr::BROADCAST]),
        _ => {}
    }
    leg
}

fn leg_of(key: &Key) -> Leg {
    let FlowKey {
        source,
        destination,
        source_port,
        destination_port,
    } = *key;
    Leg {
        source: (source.into(), source_port.number()),
        destination: (destination.into(), destination_port.number()),
        from: CLIENT_MAC,
        ..FROM_CLIENT
    }
}

fn tcp(random: &mut Random, leg: Leg, awaited: Option<u32>) -> Tcp {
    let flags = match random.below(10) {
        0..3 => SYN,
        3 => SYN | ACK,
        4..6 => ACK,
        6 => ACK | PSH,
        7 => FIN | ACK,
        8 => random.one_of(&[RST, RST | ACK]),
        _ => random.byte(),
    };
    let any = random.number() as u32;
    let numbers = [0, 1000, 1001, 5000, 5001, u32::MAX, any];
    let acknowledgment = match awaited {
        Some(awaited) if random.once_in(2) => awaited,
        _ => random.one_of(&numbers),
    };
    let payload = match random.below(6) {
        0..3 => 0,
        3 => random.below(16),
        4 => random.below(600),
        _ => random.below(FRAME_MAX - HEADERS - 64),
    };
    let bytes: Vec<u8> = (0..payload).map(|_| random.byte()).collect();
    let options = vec![1; 4 * random.one_of(&[0, 0, 3, 10])];
    segment(leg, flags)
        .numbers(random.one_of(&numbers), acknowledgment)
        .ttl(random.one_of(&[64, 64, 64, 64, 64, 64, 64, 64, 64, 255, 2, 1, 0]))
        .options(&options)
        .payload(&bytes)
        .checksum(random.one_of(&[Checksum::Complete, Checksum::Partial]))
        .padding(random.one_of(&[0, 0, 1, 6, 24]))
}

/// Changes something, and in half of the cases lets the checksums agree.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(8) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => frame.truncate(ETH + random.below(HEADERS - ETH + 2)),
        2 => frame.extend(vec![0; random.below(64)]),
        3 => *frame = (0..random.below(128)).map(|_| random.byte()).collect(),
        4 => set(random, frame, &[ETH, ETH + 2, ETH + 3, ETH + 6, ETH + 9]),
        5 => set(random, frame, &[ETH + IP + 12, ETH + IP + 13, ETH + 8]),
        6 => set(random, frame, &[12, 13, ETH + 12, ETH + 16, ETH + IP + 16]),
        _ => {
            for _ in 0..=random.below(8) {
                if let Some(bit) = frame.len().checked_mul(8).filter(|bits| *bits > 0) {
                    let bit = random.below(bit);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }
    let total = match frame.get(ETH + 2..ETH + 4) {
        Some(bytes) => usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
        None => return,
    };
    if random.once_in(2) && frame.len() >= HEADERS {
        finish_ip(frame);
        if (IP + 20..=frame.len() - ETH).contains(&total) {
            finish_tcp(frame);
        }
    }
}

/// Puts a random byte at one of `places`.
fn set(random: &mut Random, frame: &mut [u8], places: &[usize]) {
    let place = random.one_of(places);
    if let Some(byte) = frame.get_mut(place) {
        *byte = random.byte();
    }
}

/// A world whose connections live on in another state of the agent's tables.
#[must_use]
pub fn next(random: &mut Random, world: &World, connections: Connections) -> World {
    let mut next = world.clone();
    next.connections = connections;
    if random.once_in(4) {
        next.slots
            .insert(SLOT, random.one_of(&[TARGET, HEIR_TARGET]));
    }
    turn(random, next)
}
