//! A million connections through the kernel program, on several CPUs at once,
//! while servers come and go: what is counted as open is what is open.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use lb_common::addr::{Ipv4, Port};
use lb_common::flow::{Direction, Tick};
use lb_common::nat::PartialChecksum;
use lb_common::reaping::{self, Candidate};
use lb_common::service::{Algorithm, Listener, Service, ServiceId};
use lb_common::target::{Generation, TargetId};
use lb_common::verdict::Reason;
use lb_tests::privileged;
use lb_tests::rows::connections::Connections;
use lb_tests::rows::family::Family as _;
use lb_tests::rows::frame::{ACK, ETH, FIN, Leg, RST, SYN, segment};
use lb_tests::rows::kernel::{Kernel, Programs, Room};
use lb_tests::rows::maps::Maps;
use lb_tests::rows::random::Random;
use lb_tests::rows::world::{BALANCER_MAC, CLIENT_MAC, SERVER_MAC, VIP, World, target};

/// Connections in all. After each part, everything is counted.
const CONNECTIONS: usize = 1_000_000;
const PARTS: usize = 4;
/// Threads that drive them.
const DRIVERS: usize = 2;
/// Ends of others that a driver leaves alone until it has so many.
const CONTESTED: usize = 32;
/// Little enough that the tables are full now and then.
const ROOM: Room = Room {
    flows: 1 << 17,
    lru: 1 << 15,
    connections: 1 << 16,
};

const SERVICES: [(ServiceId, u16, Algorithm); 2] = [
    (ServiceId(3), 8080, Algorithm::LeastConnections),
    (ServiceId(4), 8081, Algorithm::RoundRobin),
];
/// Targets of each service, one a slot.
const TARGETS: u32 = 4;
/// The first target of each service takes no more.
const TARGET_FULL: u32 = 3000;

fn first_slot(service: usize) -> u32 {
    100 * (1 + service as u32)
}

fn target_of(service: usize, index: u32) -> TargetId {
    TargetId(10 * (1 + service as u32) + index)
}

/// Two services with four targets each.
fn world() -> World {
    let mut world = World {
        snats: World::new().snats,
        ..World::empty()
    };
    for (number, (id, port, algorithm)) in SERVICES.into_iter().enumerate() {
        let listener = Listener::new(Ipv4::like(VIP.0), Port::new(port));
        let service = Service {
            id,
            first_slot: first_slot(number),
            slots: TARGETS,
            members: TARGETS,
            algorithm: algorithm as u8,
            ..Service::default()
        };
        world.services.insert(listener, service);
        for index in 0..TARGETS {
            let of_service = target_of(number, index);
            let server = Ipv4Addr::new(10, 0, 1 + number as u8, 1 + index as u8);
            let mut entry = target((server.into(), 9000), SERVER_MAC);
            (entry.service, entry.vip_port) = (id, Port::new(port));
            if index == 0 {
                entry.max_connections = TARGET_FULL;
            }
            world.targets.insert(of_service, entry);
            world.generations.insert(of_service, Generation(1));
            // Behind the slots stand the members, each once.
            let slot = first_slot(number) + index;
            world
                .slots
                .extend([(slot, of_service), (slot + TARGETS, of_service)]);
        }
    }
    world
}

/// The two ends of a connection, as the balancer sees them.
#[derive(Clone, Copy)]
struct Ends {
    client: Leg,
    server: Leg,
}

/// The drivers' common ground.
struct Drivers<'a> {
    programs: Programs<'a>,
    /// For each driver: the connections that both of them end, each at an end
    /// of its own.
    contested: [Mutex<Vec<Ends>>; DRIVERS],
}

impl Drivers<'_> {
    /// The frame that goes on to the other end; none if there is none, or if
    /// it is a refusal.
    fn pass(&self, leg: Leg, flags: u8) -> Option<Vec<u8>> {
        // The client begins at 1000, the server at 5000.
        let (sequence, acknowledgment) = match (leg.from == CLIENT_MAC, flags & SYN != 0) {
            (true, true) => (1000, 0),
            (true, false) => (1001, 5001),
            (false, true) => (5000, 1001),
            (false, false) => (5001, 1001),
        };
        let packet = segment(leg, flags)
            .numbers(sequence, acknowledgment)
            .build();
        let frame = self.programs.send(&packet).expect("the program runs")?;
        // What comes back to its sender was refused.
        (address(&frame, 16) != leg.source.0).then_some(frame)
    }

    fn send(&self, leg: Leg, flags: u8) {
        let _ = self.pass(leg, flags);
    }

    fn send_both(&self, legs: [Leg; 2], flags: u8) {
        for leg in legs {
            self.send(leg, flags);
        }
    }

    /// A whole handshake, or as much of one as is let through.
    fn connect(&self, client: Leg, random: &mut Random) -> Option<Ends> {
        let syn = self.pass(client, SYN)?;
        if random.once_in(50) {
            return None;
        }
        if random.once_in(20) {
            self.send(client, SYN);
        }
        let port = |offset| u16::from_be_bytes([syn[offset], syn[offset + 1]]);
        let server = Leg {
            from: SERVER_MAC,
            to: BALANCER_MAC,
            source: (address(&syn, 16), port(ETH + 22)),
            destination: (address(&syn, 12), port(ETH + 20)),
        };
        self.pass(server, SYN | ACK)?;
        self.pass(client, ACK)?;
        Some(Ends { client, server })
    }

    /// Drives connections until `wanted` were established.
    fn drive(&self, driver: usize, part: usize, wanted: usize) {
        let mut random = Random::new((part * DRIVERS + driver) as u64);
        let (mut established, mut number) = (0, 0);
        while established < wanted {
            let client = client(driver, part, number);
            number += 1;
            if let Some(ends) = self.connect(client, &mut random) {
                established += 1;
                established += usize::from(self.end(ends, &mut random));
            }
            if self.contested(driver).len() >= CONTESTED {
                self.end_contested(driver, &mut random);
            }
        }
        self.end_contested(driver, &mut random);
    }

    /// One of the ways in which a connection goes on, or ends. Whether the
    /// client came again from the same port.
    fn end(&self, ends: Ends, random: &mut Random) -> bool {
        let Ends { client, server } = ends;
        match random.below(8) {
            0 | 1 => self.send_both([client, server], FIN | ACK),
            2 => self.send_both([server, client], FIN | ACK),
            3 => self.send_both([client, server], RST | ACK),
            4 => self.send_both([server, client], RST | ACK),
            5 | 6 => {
                for driver in 0..DRIVERS {
                    self.contested(driver).push(ends);
                }
                return false;
            }
            // Until it is reaped.
            _ => return false,
        }
        if random.once_in(4) {
            // All of it again, as if nobody had received it.
            self.send_both([client, server], FIN | ACK);
        }
        random.once_in(8) && self.connect(client, random).is_some()
    }

    /// This driver's ends of the connections that others end too.
    fn end_contested(&self, driver: usize, random: &mut Random) {
        let all = std::mem::take(&mut *self.contested(driver));
        for Ends { client, server } in all {
            let leg = if driver == 0 { client } else { server };
            let flags = random.one_of(&[FIN | ACK, FIN | ACK, RST | ACK]);
            self.send(leg, flags);
        }
    }

    fn contested(&self, driver: usize) -> MutexGuard<'_, Vec<Ends>> {
        let contested = self.contested[driver].lock();
        contested.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address at `offset` of a frame's IPv4 header.
fn address(frame: &[u8], offset: usize) -> IpAddr {
    let at = ETH + offset;
    IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// A client of a driver's own, and where it connects to.
fn client(driver: usize, part: usize, number: usize) -> Leg {
    let [_, high, low] = [0, number >> 21, number >> 13].map(|part| part as u8);
    let address = Ipv4Addr::new(10, 64 + (driver * PARTS + part) as u8, high, low);
    let port = 1024 + (number & 0x1fff) as u16 * 3;
    let (_, listener, _) = SERVICES[number % SERVICES.len()];
    Leg {
        from: CLIENT_MAC,
        to: BALANCER_MAC,
        source: (address.into(), port),
        destination: (VIP.0, listener),
    }
}

/// One server goes or comes; one that goes is cut off, or is not.
fn churn(maps: &mut Maps, random: &mut Random) {
    let service = random.below(SERVICES.len());
    let index = random.below(TARGETS as usize) as u32;
    let gone = target_of(service, index);
    // The slot is its own again, or one of the others has it.
    let heir = target_of(service, random.below(TARGETS as usize) as u32);
    maps.set_slot(first_slot(service) + index, heir)
        .expect("it is there");
    if heir != gone && random.once_in(2) {
        maps.cut(gone).expect("it is there");
    }
}

/// Has what is closed reaped, and `others` of what is not.
fn reap(programs: Programs<'_>, maps: &mut Maps, mut others: impl FnMut() -> bool) -> u32 {
    let flows = maps.flows::<Ipv4>().expect("FLOWS is readable");
    let candidates = flows.into_iter().filter_map(|(key, flow)| {
        let due = flow.direction() == Direction::Forward && (flow.progress().closed() || others());
        due.then_some(Candidate {
            key,
            // Also if a segment passes meanwhile: to win races is not the point.
            idle_since: Tick(flow.last_seen.0.wrapping_add(1 << 20)),
        })
    });
    let candidates: Vec<_> = candidates.collect();
    let reaped = candidates.chunks(reaping::MAX);
    reaped
        .map(|list| programs.reap(list).expect("the reaper runs"))
        .sum()
}

/// That LOAD and SERVICE_LOAD are what FLOWS holds; how much that is.
fn exact(kernel: &mut Kernel) -> u32 {
    let found = kernel.connections::<Ipv4>().expect("the maps are readable");
    let Connections {
        flows,
        open,
        open_of_services,
        ..
    } = found;
    let held = Connections {
        flows,
        ..Connections::default()
    }
    .counted(&world().targets);
    assert_eq!(open, held.open);
    assert_eq!(open_of_services, held.open_of_services);
    held.open.get(&TargetId::NONE).copied().unwrap_or(0)
}

#[test]
fn what_is_counted_as_open_is_open_after_a_million_connections() {
    privileged!();
    let mut kernel = Kernel::with_room(PartialChecksum::Finish, ROOM).expect("the program loads");
    kernel.install(&world()).expect("it fits");
    let mut random = Random::new(1);
    let mut reaped = 0;
    for part in 0..PARTS {
        let (programs, maps) = kernel.split().expect("the programs are there");
        let drivers = Drivers {
            programs,
            contested: Default::default(),
        };
        thread::scope(|scope| {
            let share = CONNECTIONS / PARTS / DRIVERS;
            let drivers = &drivers;
            let start = |driver| scope.spawn(move || drivers.drive(driver, part, share));
            let threads: Vec<_> = (0..DRIVERS).map(start).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                churn(maps, &mut random);
                reaped += reap(programs, maps, || random.once_in(10));
            }
        });
        let open = exact(&mut kernel);
        println!("part {part}: {open} are open, and counted so");
        assert!(open > 0, "nothing to compare");
    }
    let packets = |kernel: &Kernel, reason| kernel.packets(reason).expect("it is readable");
    let established = packets(&kernel, Reason::Established);
    println!("{established} connections, {reaped} reaped");
    for reason in [
        Reason::Closing,
        Reason::ResetRelayed,
        Reason::CutOff,
        Reason::ServersFull,
    ] {
        let count = packets(&kernel, reason);
        println!("  {count} x {}", reason.name());
        assert!(count > 0, "{reason:?} was not met");
    }
    assert!(established >= CONNECTIONS as u64);

    let (programs, maps) = kernel.split().expect("the programs are there");
    reap(programs, maps, || true);
    assert_eq!(exact(&mut kernel), 0);
    let left = kernel.connections::<Ipv4>().expect("the maps are readable");
    assert!(left.flows.is_empty(), "{} flows are left", left.flows.len());
}
