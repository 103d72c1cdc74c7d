//! Rows about the ways to a server: by several SNAT addresses, by another NIC,
//! without translation (dsr), and through a tunnel (ipip).

use std::net::IpAddr;

use lb_common::addr::Ipv4;
use lb_common::flow::Progress;
use lb_common::target::{Hop, Mode, Snat};
use lb_common::verdict::Reason;

use super::connections::unanswered;
use super::family::Family as _;
use super::frame::{ACK, FIN, Leg, PSH, RST, SYN, Tcp, encapsulated, segment};
use super::world::{
    BALANCER_MAC, CLIENT, FROM_CLIENT, FROM_SERVER, NIC, SERVER, SERVER_MAC, SNAT, TARGET,
    TO_CLIENT, TO_SERVER, TUNNEL, World, hop,
};
use super::{Row, row};

/// To the server without translation.
pub(super) const TO_SERVER_DIRECTLY: Leg = Leg {
    from: BALANCER_MAC,
    to: SERVER_MAC,
    ..FROM_CLIENT
};

/// The marks that end a connection whose replies do not come by.
const CLOSED: Progress = Progress::CLIENT_FIN.with(Progress::SERVER_FIN);

pub(super) fn rows() -> Vec<Row> {
    [
        snats(),
        nics(),
        unanswering(Mode::Dsr, "a server that answers itself"),
        unanswering(Mode::Ipip, "a server at a tunnel's end"),
    ]
    .concat()
}

fn snats() -> Vec<Row> {
    let second = (IpAddr::from([10, 0, 0, 102]), SNAT.1);
    let one_port = |address| Snat {
        address: Ipv4::like(address),
        first: SNAT.1,
        count: 1,
    };
    let to_server = Leg {
        source: second,
        ..TO_SERVER
    };
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let opened = |mut world: World| {
        let (forward, reply) = world.pair_via(TARGET, CLIENT, second);
        let both = [forward, reply].map(unanswered);
        world.connections.pending.extend(both);
        world
    };
    let mut another = World::new().target(|target| target.first_snat = 1);
    another.snats = [SNAT.0, second.0].map(one_port).to_vec();
    let mut taken = World::new()
        .target(|target| target.snats = 2)
        .with_port_taken();
    taken.snats = [SNAT.0, second.0].map(one_port).to_vec();
    let mut both_taken = taken.clone();
    let (forward, reply) = both_taken.pair_via(TARGET, (super::world::STRANGER, 7), second);
    both_taken.connections.flows.extend([forward, reply]);
    let refusal = segment(TO_CLIENT, RST | ACK).numbers(0, 1001).unsolicited();
    vec![
        row(
            "a SYN leaves with an address of its target's",
            another.clone(),
            syn.build(),
        )
        .transmits(
            Reason::Opened,
            syn.clone().hop(to_server).build(),
            opened(another),
        ),
        row(
            "a SYN leaves with the second address where the first one's ports are taken",
            taken.clone(),
            syn.build(),
        )
        .transmits(
            Reason::Opened,
            syn.clone().hop(to_server).build(),
            opened(taken),
        ),
        row(
            "a SYN is refused where the ports of both addresses are taken",
            both_taken.clone(),
            syn.build(),
        )
        .resets(Reason::PortsExhausted, refusal.build(), both_taken),
    ]
}

/// Two arms: clients on one NIC, servers on another.
fn nics() -> Vec<Row> {
    let across = |hop| Hop { ifindex: 7, ..hop };
    let away = || World::new().target(|target| target.hop = across(target.hop));
    let mut back = World::new().established();
    let (_, (reply, mut flow)) = back.pair();
    flow.hop = across(hop(super::world::CLIENT_MAC));
    back.connections.flows.insert(reply, flow);
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let request = segment(FROM_CLIENT, ACK).numbers(1001, 5001);
    let response = segment(FROM_SERVER, ACK).numbers(5001, 1001);
    let fin = segment(FROM_SERVER, FIN | ACK).numbers(5001, 1001);
    let mut closing = back.clone();
    let (forward, _) = closing.pair();
    let server_first = Progress::SERVER_FIN.with(Progress::SERVER_FIRST);
    let flows = &mut closing.connections.flows;
    let flow = flows.get_mut(&forward.0).expect("there");
    *flow = flow.progressed(server_first);
    let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
    assert_eq!(hop(SERVER_MAC).ifindex, NIC);
    vec![
        row("a SYN leaves by its server's NIC", away(), syn.build()).redirects(
            Reason::Opened,
            syn.hop(TO_SERVER).build(),
            away().opened(),
        ),
        row(
            "a request leaves by its server's NIC",
            away().established(),
            request.build(),
        )
        .redirects(
            Reason::Forward,
            request.clone().hop(TO_SERVER).build(),
            away().established(),
        ),
        row(
            "a response leaves by its client's NIC",
            back.clone(),
            response.build(),
        )
        .redirects(Reason::Reply, response.hop(TO_CLIENT).build(), back.clone()),
        row("a FIN leaves by its client's NIC", back, fin.build()).redirects(
            Reason::Closing,
            fin.hop(TO_CLIENT).build(),
            closing,
        ),
        row(
            "a RST of our own leaves by the NIC of what it answers",
            away().established().cut(),
            request.build(),
        )
        .resets(Reason::CutOff, reset.build(), away().established().cut()),
    ]
}

/// A world whose server answers its clients itself, and is reached like this.
fn direct(mode: Mode) -> World {
    World::new().mode(mode)
}

/// A forward flow alone, which changes nothing, and what has happened since
/// the handshake.
pub(super) fn open(mode: Mode, progress: Progress) -> World {
    let mut world = direct(mode);
    let (key, flow) = half(mode);
    world
        .connections
        .flows
        .insert(key, flow.progressed(progress));
    world
}

fn opened(mode: Mode) -> World {
    let mut world = direct(mode);
    world.connections.pending.extend([unanswered(half(mode))]);
    world
}

fn half(mode: Mode) -> super::connections::Entry {
    use lb_common::flow::{Direction, Flow, Tick};
    let (key, flow) = direct(mode).pair().0;
    let (owner, hop) = (flow.owner(), Hop::default());
    let flow = Flow::new(&key, &key, Direction::Forward, owner, hop, Tick(0));
    (key, flow)
}

/// A segment to the server, as it leaves where its server answers itself.
fn sent(mode: Mode, packet: Tcp) -> Vec<u8> {
    let frame = packet.hop(TO_SERVER_DIRECTLY).build();
    match mode {
        Mode::Ipip => encapsulated(&frame, (TUNNEL, SERVER.0)),
        Mode::Nat | Mode::Local | Mode::Dsr => frame,
    }
}

fn unanswering(mode: Mode, server: &str) -> Vec<Row> {
    let step = |sentence: &str, given: World, packet: Tcp, reason, then| {
        let sentence = sentence.replace("the server", server);
        row(sentence, given, packet.build()).transmits(reason, sent(mode, packet), then)
    };
    let client = |flags| segment(FROM_CLIENT, flags).numbers(1001, 5001);
    let syn = || segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let (direct, opened) = (|| direct(mode), || opened(mode));
    let open = |progress| open(mode, progress);
    let begun = Progress::default();
    let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
    vec![
        step(
            "a SYN to the server keeps its addresses",
            direct(),
            syn(),
            Reason::Opened,
            opened(),
        ),
        step(
            "a SYN that is sent again to the server is nothing unusual",
            opened(),
            syn(),
            Reason::SynRetransmitted,
            opened(),
        ),
        step(
            "the first ACK to the server is taken at its word",
            opened(),
            client(ACK),
            Reason::Established,
            open(begun),
        ),
        step(
            "a first ACK with a FIN to the server ends the connection",
            opened(),
            client(FIN | ACK),
            Reason::Established,
            open(CLOSED),
        ),
        step(
            "a request to the server keeps its addresses",
            open(begun),
            client(ACK | PSH).payload(b"GET"),
            Reason::Forward,
            open(begun),
        ),
        step(
            "VLAN tags of a request to the server stay in front",
            open(begun),
            client(ACK | PSH)
                .payload(b"GET")
                .tags(&[[0x88, 0xa8, 0, 7], [0x81, 0, 0xa0, 42]]),
            Reason::Forward,
            open(begun),
        ),
        step(
            "a client's FIN to the server stands for both",
            open(begun),
            client(FIN | ACK),
            Reason::Closing,
            open(CLOSED),
        ),
        step(
            "a client's RST ends a connection to the server",
            open(begun),
            client(RST),
            Reason::ResetRelayed,
            open(Progress::RESET),
        ),
        step(
            "a SYN in the place of a closed connection to the server opens one",
            open(CLOSED),
            syn(),
            Reason::Opened,
            opened(),
        ),
        step(
            "a client gives up during a handshake with the server",
            opened(),
            client(RST),
            Reason::ResetRelayed,
            direct(),
        ),
        row(
            format!("a client of {server} that was cut off gets an exact RST"),
            open(begun).cut(),
            client(ACK).build(),
        )
        .resets(Reason::CutOff, reset.build(), open(begun)),
    ]
}
