//! Rows about segments that no connection will come of.

use std::net::IpAddr;

use lb_common::addr::Port;
use lb_common::target::TargetId;
use lb_common::verdict::Reason;

use super::frame::{ACK, FIN, Leg, PSH, RST, SYN, Tcp, segment};
use super::world::{FROM_CLIENT, FROM_SERVER, SLOT, SNAT, TARGET, TO_CLIENT, VIP, World};
use super::{Row, row};

const URG: u8 = 0x20;

fn refusal(acknowledgment: u32) -> Vec<u8> {
    segment(TO_CLIENT, RST | ACK)
        .numbers(0, acknowledgment)
        .unsolicited()
        .build()
}

pub(super) fn rows() -> Vec<Row> {
    [no_target(), no_port(), unknown(), not_ours()].concat()
}

fn no_target() -> Vec<Row> {
    let refused = |sentence, given: World, syn: Tcp, acknowledgment| {
        row(sentence, given.clone(), syn.build()).resets(
            Reason::NoTarget,
            refusal(acknowledgment),
            given,
        )
    };
    let syn = |sequence| segment(FROM_CLIENT, SYN).numbers(sequence, 0);
    let mut slot_missing = World::new();
    slot_missing.slots.clear();
    let mut target_missing = World::new();
    target_missing.slots.insert(SLOT, TargetId(9));
    let mut out_of_range = World::new();
    out_of_range.slots.insert(SLOT, TargetId(u32::MAX));
    let mut uninstalled = World::new();
    let target = uninstalled.targets.get_mut(&TARGET).expect("it is there");
    target.port = Port(0);
    let mut zeroth = World::new().leaderless();
    let target = zeroth.targets[&TARGET];
    zeroth.targets.insert(TargetId::NONE, target);
    vec![
        refused(
            "a SYN is refused where the slot is empty, whatever stands under number 0",
            zeroth,
            syn(1000),
            1001,
        ),
        refused(
            "a SYN is refused where the slot is empty",
            World::new().leaderless(),
            syn(1000),
            1001,
        ),
        refused(
            "a refusal acknowledges the data that came with the SYN",
            World::new().leaderless(),
            syn(1000).payload(b"early"),
            1006,
        ),
        refused(
            "a refusal acknowledges a SYN at the end of the sequence space",
            World::new().leaderless(),
            syn(u32::MAX),
            0,
        ),
        refused(
            "a refusal does not acknowledge padding",
            World::new().leaderless(),
            syn(1000).padding(6),
            1001,
        ),
        refused(
            "a SYN is refused where nobody has filled the slot",
            slot_missing,
            syn(1000),
            1001,
        ),
        refused(
            "a SYN is refused where the slot's target is not installed",
            target_missing,
            syn(1000),
            1001,
        ),
        refused(
            "a SYN is refused where the slot's target has no port",
            uninstalled,
            syn(1000),
            1001,
        ),
        refused(
            "a SYN is refused where the slot holds no number of a target",
            out_of_range,
            syn(1000),
            1001,
        ),
    ]
}

fn no_port() -> Vec<Row> {
    let exhausted = |sentence, given: World| {
        let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0).build();
        row(sentence, given.clone(), syn).resets(Reason::PortsExhausted, refusal(1001), given)
    };
    let ports = |count, mut world: World| {
        let snat = &mut world.snats[0];
        (snat.first, snat.count) = (SNAT.1, count);
        world
    };
    vec![
        exhausted(
            "a SYN is refused where a handshake holds the only port",
            ports(1, World::new().with_port_reserved()),
        ),
        exhausted(
            "a SYN is refused where a connection has the only port, and reserves nothing",
            ports(1, World::new().with_port_taken()),
        ),
        exhausted(
            "a SYN is refused where the target has no ports at all",
            ports(0, World::new()),
        ),
        exhausted(
            "a SYN is refused where the target has no address to come from",
            World::new().target(|target| target.first_snat = 9),
        ),
    ]
}

fn unknown() -> Vec<Row> {
    let answered = |sentence, packet: Tcp, frame| {
        row(sentence, World::new(), packet.build()).resets(Reason::UnknownFlow, frame, World::new())
    };
    let exact = || {
        segment(TO_CLIENT, RST)
            .numbers(5001, 0)
            .unsolicited()
            .build()
    };
    let client = |flags| segment(FROM_CLIENT, flags).numbers(1001, 5001);
    let stray = |sentence, packet: Tcp| {
        row(sentence, World::new(), packet.build()).drops(Reason::StrayReset, World::new())
    };
    vec![
        answered(
            "an ACK out of nowhere gets an exact RST",
            client(ACK),
            exact(),
        ),
        answered(
            "data out of nowhere gets an exact RST",
            client(ACK | PSH).payload(b"PUT"),
            exact(),
        ),
        answered(
            "a FIN out of nowhere gets an exact RST",
            client(FIN | ACK),
            exact(),
        ),
        answered(
            "a SYN+ACK out of nowhere gets an exact RST",
            client(SYN | ACK),
            exact(),
        ),
        answered(
            "a FIN without ACK out of nowhere is acknowledged by its RST",
            client(FIN),
            refusal(1002),
        ),
        answered(
            "a SYN with a FIN opens nothing, and both are acknowledged",
            client(SYN | FIN),
            refusal(1003),
        ),
        answered(
            "a segment without any flag is acknowledged by its RST",
            client(0).payload(b"null"),
            refusal(1005),
        ),
        answered(
            "an urgent segment without ACK is acknowledged by its RST",
            client(URG | PSH | FIN),
            refusal(1002),
        ),
        answered(
            "a segment that was not to travel further is answered with fresh hops",
            client(ACK).ttl(1),
            exact(),
        ),
        stray("a RST out of nowhere is not answered", client(RST)),
        stray(
            "a RST with ACK out of nowhere is not answered",
            client(RST | ACK),
        ),
        stray(
            "a RST with SYN out of nowhere is not answered",
            client(RST | SYN),
        ),
    ]
}

fn not_ours() -> Vec<Row> {
    let passes = |sentence, leg, flags| {
        let packet = segment(leg, flags).numbers(1, 2).payload(b"x").build();
        row(sentence, World::new(), packet).passes(Reason::NotOurs)
    };
    let other_port = Leg {
        destination: (VIP.0, 22),
        ..FROM_CLIENT
    };
    let other_address = Leg {
        destination: (IpAddr::from([10, 0, 0, 1]), VIP.1),
        ..FROM_CLIENT
    };
    vec![
        passes(
            "a SYN to another port of the VIP is the host's",
            other_port,
            SYN,
        ),
        passes(
            "a RST to another port of the VIP is the host's",
            other_port,
            RST,
        ),
        passes(
            "a SYN to the service's port at another address is the host's",
            other_address,
            SYN,
        ),
        passes(
            "a server's segment of no connection is the host's",
            FROM_SERVER,
            ACK,
        ),
        passes(
            "a server's SYN+ACK of no connection is the host's",
            FROM_SERVER,
            SYN | ACK,
        ),
        row(
            "a segment with its last hop is the host's where it is for the host",
            World::new(),
            segment(other_port, ACK).ttl(1).build(),
        )
        .passes(Reason::NotOurs),
        {
            let mut unlisted = World::new();
            unlisted.services.clear();
            row(
                "a SYN to a service that was taken away is the host's",
                unlisted,
                segment(FROM_CLIENT, SYN).build(),
            )
            .passes(Reason::NotOurs)
        },
    ]
}
