//! What the kernel counts and tells of a connection.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::addr::{Address as _, Ipv4};
use lb_common::counters::TargetCounters;
use lb_common::flow::{Direction, Tick};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason};
use lb_tests::privileged;
use lb_tests::rows::family::Family as _;
use lb_tests::rows::frame::{ACK, ETH, FIN, PSH, RST, SYN, Tcp, segment};
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::world::{CLIENT, FROM_CLIENT, FROM_SERVER, SERVER, SERVICE, TARGET, World};

/// A whole connection, and why each of its segments goes its way.
fn conversation() -> Vec<(Tcp, Reason)> {
    let client = |flags| segment(FROM_CLIENT, flags).numbers(1001, 5001);
    let server = |flags| segment(FROM_SERVER, flags).numbers(5001, 1004);
    vec![
        (segment(FROM_CLIENT, SYN).numbers(1000, 0), Reason::Opened),
        (
            segment(FROM_CLIENT, SYN).numbers(1000, 0),
            Reason::SynUnanswered,
        ),
        (
            segment(FROM_SERVER, SYN | ACK).numbers(5000, 1001),
            Reason::Handshake,
        ),
        (client(ACK), Reason::Established),
        (client(ACK | PSH).payload(b"GET"), Reason::Forward),
        (server(ACK | PSH).payload(b"200"), Reason::Reply),
        (client(FIN | ACK), Reason::Closing),
        (server(FIN | ACK), Reason::Closing),
        (client(ACK), Reason::Forward),
    ]
}

fn loaded() -> Result<Kernel> {
    let mut kernel = Kernel::load(PartialChecksum::Finish)?;
    kernel.install(&World::new())?;
    Ok(kernel)
}

/// The counters of all CPUs together.
fn counters(kernel: &Kernel) -> TargetCounters {
    let all = kernel.target_counters(TARGET).expect("it is readable");
    all.iter()
        .fold(TargetCounters::default(), |sum, cpu| TargetCounters {
            opened: sum.opened + cpu.opened,
            established: sum.established + cpu.established,
            refused: sum.refused + cpu.refused,
            cut_off: sum.cut_off + cpu.cut_off,
        })
}

#[test]
fn a_connection_is_counted_by_reason_service_and_target() {
    privileged!();
    let mut kernel = loaded().expect("the program loads");
    let (mut there, mut back) = ([0, 0], [0, 0]);
    for (packet, reason) in conversation() {
        let packet = packet.build();
        let passage = kernel.pass(&packet).expect("the program runs");
        assert_eq!((passage.fate, passage.reason), (Fate::Transmit, reason));
        let IpAddr::V4(client) = CLIENT.0 else {
            panic!("rows are about IPv4");
        };
        let from_client = packet[ETH + 12..ETH + 16] == client.octets();
        let way = if from_client { &mut there } else { &mut back };
        way[0] += 1;
        way[1] += (packet.len() - ETH) as u64;
    }
    for (direction, expected) in [(Direction::Forward, there), (Direction::Reply, back)] {
        let traffic = kernel
            .target_traffic(TARGET, direction)
            .expect("it is readable");
        assert_eq!([traffic.packets, traffic.bytes], expected, "{direction:?}");
    }
    let expected = TargetCounters {
        opened: 1,
        established: 1,
        ..TargetCounters::default()
    };
    assert_eq!(counters(&kernel), expected);
    let rare = |reason| {
        kernel
            .service_packets(SERVICE, reason)
            .expect("it is readable")
    };
    assert_eq!(rare(Reason::SynUnanswered), 1);
    assert_eq!(rare(Reason::Established), 1);
    assert_eq!(rare(Reason::Closing), 2);
    assert_eq!(rare(Reason::Forward), 0, "target traffic tells of these");
}

#[test]
fn a_refusal_and_a_cut_are_counted_for_their_target() {
    privileged!();
    let mut kernel = loaded().expect("the program loads");
    let refusal = segment(FROM_SERVER, RST | ACK).numbers(0, 1001).build();
    kernel.install(&World::new().opened()).expect("it fits");
    kernel.pass(&refusal).expect("the program runs");
    let request = segment(FROM_CLIENT, ACK).numbers(1001, 5001).build();
    let stale = World::new().established().cut();
    kernel.install(&stale).expect("it fits");
    kernel.pass(&request).expect("the program runs");
    let expected = TargetCounters {
        refused: 1,
        cut_off: 1,
        ..TargetCounters::default()
    };
    assert_eq!(counters(&kernel), expected);
    let no_traffic = kernel
        .target_traffic(TARGET, Direction::Forward)
        .expect("it is readable");
    assert_eq!(no_traffic.packets, 0, "a RST of ours is no traffic");
}

#[test]
fn the_agent_hears_of_a_connection_once_it_is_established_and_when_it_ends() {
    privileged!();
    let mut kernel = loaded().expect("the program loads");
    for (packet, _) in conversation() {
        kernel.pass(&packet.build()).expect("the program runs");
    }
    let events = kernel.events();
    let told: Vec<_> = events
        .iter()
        .map(|event| (Reason::from_number(event.reason), event.direction))
        .collect();
    let [forward, reply] = [Direction::Forward as u8, Direction::Reply as u8];
    assert_eq!(
        told,
        [
            (Some(Reason::SynUnanswered), forward),
            (Some(Reason::Established), forward),
            (Some(Reason::Closing), forward),
            (Some(Reason::Closing), reply),
        ]
    );
    for event in &events {
        assert_eq!((event.service, event.target), (SERVICE, TARGET));
    }
    // What an event names is the packet as it left: translated.
    let established = events[1].key;
    let server = Ipv4::like(SERVER.0).mapped();
    assert_eq!(established.destination, server);
    assert_eq!(established.destination_port.number(), SERVER.1);
}

#[test]
fn every_segment_stamps_its_own_direction_with_the_time() {
    privileged!();
    let mut kernel = loaded().expect("the program loads");
    let open = World::new().established();
    let ((forward, _), (reply, _)) = open.pair();
    kernel.install(&open).expect("it fits");
    let stamps = |kernel: &mut Kernel| {
        [forward, reply].map(|key| kernel.last_seen(&key).expect("it is there") != Tick(0))
    };
    assert_eq!(stamps(&mut kernel), [false, false]);
    let request = segment(FROM_CLIENT, ACK).numbers(1001, 5001).build();
    kernel.pass(&request).expect("the program runs");
    assert_eq!(stamps(&mut kernel), [true, false]);
    let response = segment(FROM_SERVER, ACK).numbers(5001, 1001).build();
    kernel.pass(&response).expect("the program runs");
    assert_eq!(stamps(&mut kernel), [true, true]);
}

#[test]
fn the_agent_hears_of_trouble() {
    privileged!();
    let mut kernel = loaded().expect("the program loads");
    let full = World::new().answered(5000).with_room_for(0);
    kernel.install(&full).expect("it fits");
    let ack = segment(FROM_CLIENT, ACK).numbers(1001, 5001).build();
    kernel.pass(&ack).expect("the program runs");
    let events = kernel.events();
    let reasons: Vec<_> = events
        .iter()
        .map(|event| Reason::from_number(event.reason))
        .collect();
    assert_eq!(reasons, [Some(Reason::TableFull)]);
}
