//! A client, a VIP and a server, and packets between them.

use lb_common::addr::{Address, Ipv4, Ipv6, Mac, Port};
use lb_common::datapath::Departure;
use lb_common::emit;
use lb_common::fake::{FakePacket, FakeTables, process, process_leaving};
use lb_common::flow::{FlowKey, Tick};
use lb_common::layout::{Plain, bytes_of, read_from};
use lb_common::nat::{PartialChecksum, pseudo_sum};
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::{Hop, Mode, Snat, Target, TargetId};
use lb_common::verdict::Verdict;
use lb_common::wire::checksum::sum;
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader;
use lb_common::wire::tcp::Flags;

/// The addresses of a family.
pub trait Family: Address {
    /// The address that ends with `number`.
    fn address(number: u8) -> Self;
}

impl Family for Ipv4 {
    fn address(number: u8) -> Self {
        std::net::Ipv4Addr::new(10, 0, 0, number).into()
    }
}

impl Family for Ipv6 {
    fn address(number: u8) -> Self {
        std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
    }
}

pub const CLIENT: u8 = 1;
pub const VIP: u8 = 2;
pub const SERVER: u8 = 3;
pub const SNAT: u8 = 4;
pub const TUNNEL: u8 = 5;
pub const ROUTER: u8 = 6;
pub const ID: TargetId = TargetId(7);

/// The way to the server.
pub const TO_SERVER: Hop = hop(9, 2);
/// The way to the client, as its SYN came.
pub const TO_CLIENT: Hop = hop(8, 1);

const fn hop(neighbour: u16, ifindex: u32) -> Hop {
    Hop {
        destination: Mac([neighbour; 3]),
        source: Mac([1; 3]),
        ifindex,
    }
}

/// Tables with one service, whose one target is reached by `mode`.
pub fn tables<A: Family>(mode: Mode) -> FakeTables<A> {
    let mut tables = FakeTables::default();
    let listener = Listener::new(A::address(VIP), Port::new(80));
    let service = Service {
        slots: 1,
        members: 1,
        id: ServiceId(3),
        ..Service::default()
    };
    let target = Target {
        server: A::address(SERVER),
        tunnel: A::address(TUNNEL),
        hop: TO_SERVER,
        port: Port::new(8080),
        vip: A::address(VIP),
        vip_port: Port::new(80),
        service: ServiceId(3),
        snats: 1,
        weight: 1,
        mtu: 1500,
        mode: mode as u8,
        accepts: 1,
        ..Target::default()
    };
    let (first, count) = (1024, 60_000);
    tables.snats = vec![Snat {
        address: A::address(SNAT),
        first,
        count,
    }];
    tables.services.insert(listener, service);
    tables.targets.insert(ID, target);
    tables.slots.extend([(0, ID), (1, ID)]);
    tables
}

/// What the client sends.
pub fn key<A: Family>() -> FlowKey<A> {
    FlowKey {
        source: A::address(CLIENT),
        destination: A::address(VIP),
        source_port: Port::new(40_000),
        destination_port: Port::new(80),
    }
}

/// A frame with these headers, and a payload behind them.
pub fn frame<T: Plain>(ether_type: u16, headers: &T, payload: &[u8]) -> Vec<u8> {
    // As the client's frames arrive, so that replies leave by `TO_CLIENT`.
    let eth = EthernetHeader {
        destination: TO_CLIENT.source,
        source: TO_CLIENT.destination,
        ether_type,
    };
    [bytes_of(&eth), bytes_of(headers), payload].concat()
}

/// A segment with `payload` bytes, its checksum complete.
pub fn segment<A: Address>(
    key: &FlowKey<A>,
    flags: Flags,
    numbers: (u32, u32),
    payload: usize,
) -> Vec<u8> {
    let mut headers = emit::provoking_ack(key, 0);
    let payload = vec![0x5a; payload];
    let length = 20 + payload.len() as u16;
    headers.network = A::Header::fresh(key.source, key.destination, 6, length);
    headers.tcp.flags = flags;
    headers.tcp.set_numbers(numbers.0, numbers.1);
    headers.tcp.checksum = 0;
    headers.tcp.checksum = pseudo_sum(key.source, key.destination, length)
        .add(sum(bytes_of(&headers.tcp)))
        .add(sum(&payload))
        .checksum();
    frame(A::Header::ETHER_TYPE, &headers, &payload)
}

/// A frame's way through the tables, arriving by NIC 1.
pub fn pass<A: Address>(tables: &FakeTables<A>, frame: &[u8]) -> (Departure, Vec<u8>) {
    let mut packet = FakePacket::new(frame);
    let departure = process(&mut packet, tables, PartialChecksum::Finish, Tick(5));
    (departure, packet.bytes())
}

/// A frame's way out of this host.
pub fn leave<A: Address>(tables: &FakeTables<A>, frame: &[u8]) -> (Option<Verdict>, Vec<u8>) {
    let mut packet = FakePacket::new(frame);
    let verdict = process_leaving(&mut packet, tables, PartialChecksum::Keep, Tick(5));
    (verdict, packet.bytes())
}

/// The headers of a frame without VLAN tags.
pub fn headers<A: Address>(frame: &[u8]) -> Headers<A::Header> {
    read_from(&frame[14..]).expect("headers")
}

/// What an unfinished connection's segments under `key` leave with.
pub fn rewritten<A: Address>(tables: &FakeTables<A>, key: &FlowKey<A>) -> FlowKey<A> {
    let flow = tables.pending.borrow()[key].flow;
    flow.rewrite(key, &tables.targets[&flow.target()])
}

/// An established connection, and the key of what goes to the server.
pub fn established<A: Family>(mode: Mode) -> (FakeTables<A>, FlowKey<A>) {
    let tables = tables(mode);
    let key = key::<A>();
    let (_, there) = pass(&tables, &segment(&key, Flags::SYN, (100, 0), 0));
    let to_server = rewritten(&tables, &key);
    if mode != Mode::Ipip {
        assert_eq!(headers::<A>(&there).key(), to_server);
    }
    if mode.replies() {
        let answer = segment(
            &to_server.reversed(),
            Flags::SYN | Flags::ACK,
            (500, 101),
            0,
        );
        match mode {
            Mode::Local => assert!(leave(&tables, &answer).0.is_some()),
            _ => assert!(pass(&tables, &answer).0.verdict.reason.goes_on()),
        }
    }
    let _ = pass(&tables, &segment(&key, Flags::ACK, (101, 501), 0));
    assert!(tables.flow_at(&key).is_some());
    (tables, to_server)
}
