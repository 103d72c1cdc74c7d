//! Random worlds and packets, all from one seed: what nobody would think of
//! writing down as a row.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::flow::{Direction, FlowKey, Progress};
use lb_common::service::{Algorithm, Options, Rule};
use lb_common::target::{Mode, TargetId};

use super::connections::Connections;
use super::family::Family;
use super::frame::{
    ACK, Checksum, ETH, FIN, HEADERS6, IP, IP6, Leg, PSH, RST, SYN, TCP, Tcp, finish_ip,
    finish_tcp, segment,
};
use super::kernel::FRAME_MAX;
use super::message::{
    ECHO, ICMP_HEADER, Icmp, PARAMETER_PROBLEM, PORT_UNREACHABLE, TIME_EXCEEDED, TOO_BIG,
    UNREACHABLE, finish_icmp, message, quote,
};
use super::world::{
    CLIENT, CLIENT_MAC, FLOWS_MAX, FROM_CLIENT, FROM_SERVER, HEIR_TARGET, NIC, SERVER, SERVICE,
    SLOT, STRANGER, TARGET, VIP, World,
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
    let mode = random.one_of(&[Mode::Nat, Mode::Nat, Mode::Nat, Mode::Local]);
    let world = World::new().mode(mode).target(|target| {
        target.hop.ifindex = random.one_of(&[NIC, NIC, 7]);
    });
    let world = match random.below(10) {
        0 => world,
        8 | 9 => remade(random, world),
        1 => world.opened(),
        2 => world.answered(random.one_of(&[5000, u32::MAX, 0])),
        3 => world.answered(5000).without_reply_half(),
        4 => world.answered(5000).without_forward_half(),
        5 => world.with_port_reserved(),
        6 => world.with_port_taken(),
        _ => world.progressed(random.one_of(&[
            Progress(0),
            Progress::CLIENT_FIN,
            Progress::SERVER_FIN.with(Progress::SERVER_FIRST),
            Progress::CLIENT_FIN.with(Progress::SERVER_FIN),
            Progress::RESET,
        ])),
    };
    let room = random.below(5);
    if random.once_in(3) && world.connections.flows.len() + room <= FLOWS_MAX {
        return turn(random, world.with_room_for(room));
    }
    turn(random, world)
}

/// The same world after the agent may have done something.
#[must_use]
pub fn turn<A: Family>(random: &mut Random, mut world: World<A>) -> World<A> {
    match random.below(12) {
        0 => world.cut(),
        1 => world.cut().handed_over(),
        2 => world.handed_over(),
        3 if random.once_in(2) => world.leaderless(),
        4 => {
            world.slots.insert(SLOT, TARGET);
            world
        }
        5 if random.once_in(2) => {
            world.snats[0].count = random.one_of(&[0, 1, 2, 31_744]);
            world
        }
        6 => reconfigured(random, world),
        7 => world.target(|target| {
            target.accepts = random.one_of(&[0, 1]);
            target.max_connections = random.one_of(&[0, 0, 1, 2]);
        }),
        8 if random.once_in(2) => remade(random, world),
        9 if random.once_in(4) => {
            let open = random.one_of(&[0, 1, super::world::CONNECTIONS_MAX]);
            world.connections.open.insert(TargetId::NONE, open);
            world
        }
        10 if random.once_in(4) => world.meeting_itself(),
        _ => world,
    }
}

/// With a target of another mode and width. Its connections stay what they
/// are: where there are any, the mode does.
fn remade<A: Family>(random: &mut Random, world: World<A>) -> World<A> {
    let mode = random.one_of(&[Mode::Nat, Mode::Local, Mode::Dsr, Mode::Ipip, Mode::Ipip]);
    let mtu = random.one_of(&[0, 1500, 120, 60, 1]);
    let Connections { flows, pending, .. } = &world.connections;
    let world = if flows.is_empty() && pending.is_empty() {
        world.mode(mode)
    } else {
        world
    };
    world.target(|target| target.mtu = mtu)
}

/// Another configuration of the service. Nothing that chance or time decide.
fn reconfigured<A: Family>(random: &mut Random, mut world: World<A>) -> World<A> {
    for service in world.services.values_mut() {
        let algorithms = [
            Algorithm::Maglev,
            Algorithm::SourceHash,
            Algorithm::RoundRobin,
        ];
        service.algorithm = random.one_of(&algorithms) as u8;
        service.slots = random.one_of(&[0, 1, 1, 2]);
        service.max_connections = random.one_of(&[0, 0, 1]);
        service.source_connections = random.one_of(&[0, 0, 1]);
        service.source_interval = random.one_of(&[0, 0, u32::MAX]);
        service.source_burst = 1;
        service.affinity = random.one_of(&[0, 0, u32::MAX]);
        service.options = Options(random.one_of(&[0, 0, 1, 2, 4, 12]));
    }
    let source = A::like(random.one_of(&[CLIENT.0, STRANGER]));
    let rule = random.one_of(&[Rule::ALLOW, Rule::DENY]);
    world.rules.insert((SERVICE, source), rule);
    world
}

/// A packet for a world that has `connections`.
#[must_use]
pub fn packet<A: Family>(random: &mut Random, connections: &Connections<A>) -> Vec<u8> {
    let (leg, awaited) = place(random, connections);
    let header = if leg.source.0.is_ipv4() { IP } else { IP6 };
    let mut frame = if random.once_in(5) {
        let mut frame = icmp(random, leg, header).build();
        if random.once_in(3) {
            mutate_icmp(random, &mut frame, header);
        }
        frame
    } else {
        tcp(random, leg, awaited).build()
    };
    if random.once_in(3) {
        for _ in 0..=random.below(3) {
            mutate(random, &mut frame, header);
        }
    }
    if random.once_in(6) && frame.len() >= ETH {
        for _ in 0..random.one_of(&[1, 1, 2, 3]) {
            let tag = [0x81, 0x00, random.byte(), random.byte()];
            frame.splice(12..12, random.one_of(&[tag, tag, [0x88, 0xa8, 0, 7]]));
        }
    }
    frame.truncate(FRAME_MAX);
    frame
}

/// A message, as a rule an error, about what answers a segment on `leg`.
fn icmp(random: &mut Random, leg: Leg, header: usize) -> Icmp {
    let any = (random.byte(), random.byte());
    let kind = random.one_of(&[
        TOO_BIG,
        TOO_BIG,
        UNREACHABLE,
        PORT_UNREACHABLE,
        TIME_EXCEEDED,
        PARAMETER_PROBLEM,
        ECHO,
        [any; 2],
    ]);
    let answer = Leg {
        source: leg.destination,
        destination: leg.source,
        ..leg
    };
    let quoted = tcp(random, answer, None);
    let least = header + random.one_of(&[0, 7, 8, 9, 20]);
    let whole = quoted.build().len() - ETH;
    let length = random.one_of(&[least, least, whole, header + 8]);
    let router = random.one_of(&[leg.source, leg.source, leg.destination]);
    let stray = random.once_in(16);
    let way = Leg {
        source: router,
        destination: if stray { leg.source } else { leg.destination },
        ..leg
    };
    message(way, kind, &quote(&quoted, length))
        .mtu(random.one_of(&[0, 68, 1280, 1400, u16::MAX]))
        .ttl(random.one_of(&[64, 64, 64, 64, 255, 2, 1, 0]))
}

/// Where a packet comes from: more often than not, where a connection is.
/// With it, the acknowledgment that would finish a handshake there.
fn place<A: Family>(random: &mut Random, connections: &Connections<A>) -> (Leg, Option<u32>) {
    let Connections { flows, pending, .. } = connections;
    let known = flows.len() + pending.len();
    if known == 0 || random.once_in(4) {
        return (anywhere::<A>(random), None);
    }
    let at = random.below(known);
    let mut keys = flows.keys().chain(pending.keys());
    let key = keys.nth(at).expect("it is among them");
    let server = pending
        .iter()
        .find(|(at, other)| {
            other.flow.direction() == Direction::Reply && other.flow.client(at) == key.source
        })
        .map(|(_, other)| other);
    let awaited = server.map(|server| server.server_sequence.wrapping_add(1));
    (leg_of(key), awaited)
}

fn anywhere<A: Family>(random: &mut Random) -> Leg {
    // A server that is a client as well: see `World::meeting_itself`.
    let server = Leg {
        source: SERVER,
        ..FROM_CLIENT
    };
    let client = FROM_CLIENT;
    let mut leg = random.one_of(&[client, client, client, FROM_SERVER, server]);
    match random.below(6) {
        0 => leg.source = (STRANGER, CLIENT.1),
        1 => leg.source.1 = random.one_of(&[40_001, 1024, 65_535, 0]),
        2 => leg.destination.1 = random.one_of(&[22, 8081, 1024]),
        3 => leg.destination.0 = random.one_of(&[VIP.0, IpAddr::V4(Ipv4Addr::BROADCAST)]),
        _ => {}
    }
    leg.source.0 = A::like(leg.source.0).into();
    leg.destination.0 = A::like(leg.destination.0).into();
    leg
}

fn leg_of<A: Family>(key: &FlowKey<A>) -> Leg {
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
        // At and around the ends of what proves that a client is no forger.
        Some(awaited) if random.once_in(4) => {
            awaited.wrapping_add(random.one_of(&[u32::MAX, 1, 0xffff, 0x1_0000]))
        }
        Some(awaited) if random.once_in(2) => awaited,
        _ => random.one_of(&numbers),
    };
    let payload = match random.below(6) {
        0..3 => 0,
        3 => random.below(16),
        4 => random.below(600),
        _ => random.below(FRAME_MAX - HEADERS6 - 80),
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

/// Changes something in a frame whose network header has `header` bytes, and
/// in half of the cases lets the checksums agree.
fn mutate(random: &mut Random, frame: &mut Vec<u8>, header: usize) {
    let transport = ETH + header;
    match random.below(8) {
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => frame.truncate(ETH + random.below(header + TCP + 2)),
        2 => frame.extend(vec![0; random.below(64)]),
        3 => *frame = (0..random.below(128)).map(|_| random.byte()).collect(),
        4 if header == IP => set(random, frame, &[ETH, ETH + 2, ETH + 3, ETH + 6, ETH + 9]),
        4 => {
            set(random, frame, &[ETH, ETH + 4, ETH + 5, ETH + 6]);
            if let Some(next) = frame.get_mut(ETH + 6).filter(|_| random.once_in(2)) {
                *next = random.one_of(&[0, 6, 17, 43, 44, 51, 60]);
            }
        }
        5 => set(random, frame, &[transport + 12, transport + 13, ETH + 8]),
        6 => set(
            random,
            frame,
            &[12, 13, transport - 8, transport - 4, transport + 16],
        ),
        _ => {
            for _ in 0..=random.below(8) {
                if let Some(bit) = frame.len().checked_mul(8).filter(|bits| *bits > 0) {
                    let bit = random.below(bit);
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }
    if random.once_in(2) {
        finish_ip(frame);
        finish_tcp(frame);
    }
}

/// Changes something in what makes a frame an error about a segment, and in
/// half of the cases lets the checksums agree.
fn mutate_icmp(random: &mut Random, frame: &mut [u8], header: usize) {
    let icmp = ETH + header;
    let quoted = icmp + ICMP_HEADER;
    let ports = quoted + header;
    let places: &[usize] = match random.below(5) {
        0 => &[icmp, icmp + 1, icmp + 2, icmp + 3],
        1 => &[quoted, quoted + 6, quoted + 7, quoted + 9, quoted + 10],
        2 => &[ports, ports + 1, ports + 2, ports + 3],
        3 => &[ports - 1, ports - 5, ETH + header - 1],
        _ => &[ETH + 2, ETH + 3, ETH + 4, ETH + 5],
    };
    set(random, frame, places);
    if random.once_in(2) {
        finish_ip(frame);
        finish_icmp(frame);
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
pub fn next<A: Family>(
    random: &mut Random,
    world: &World<A>,
    connections: Connections<A>,
) -> World<A> {
    let mut next = world.clone();
    next.connections = connections;
    // What the flows show is counted from them.
    next.connections.open.clear();
    next.connections.open_of_services.clear();
    if random.once_in(4) {
        next.slots
            .insert(SLOT, random.one_of(&[TARGET, HEIR_TARGET]));
    }
    turn(random, next)
}
