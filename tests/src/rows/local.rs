//! Rows about servers on the balancer's own host: what comes for them goes to
//! the host's own stack, and what they say is rewritten as it leaves.

use lb_common::flow::Progress;
use lb_common::target::Mode;
use lb_common::verdict::{Fate, Reason};

use super::frame::{ACK, FIN, Leg, PSH, RST, SYN, Tcp, segment};
use super::world::{
    BALANCER_MAC, CLIENT, CLIENT_MAC, FROM_CLIENT, FROM_SERVER, SERVER, TO_CLIENT, World,
};
use super::{Row, row};

/// To the server, as its stack gets it: the frame is for the host.
const HERE: Leg = Leg {
    destination: SERVER,
    ..FROM_CLIENT
};
/// From the server, as its stack sends it.
pub(super) const AWAY: Leg = Leg {
    from: BALANCER_MAC,
    to: CLIENT_MAC,
    source: SERVER,
    destination: CLIENT,
};

fn world() -> World {
    World::new().mode(Mode::Local)
}

/// The same connection after `progress`.
fn progressed(progress: Progress) -> World {
    world().progressed(progress)
}

pub(super) fn rows() -> Vec<Row> {
    [arriving(), leaving()].concat()
}

fn arriving() -> Vec<Row> {
    let open = || world().established();
    let client = |flags| segment(FROM_CLIENT, flags).numbers(1001, 5001);
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let delivered = |sentence: &str, given, packet: Tcp, reason, then| {
        let frame = packet.clone().on(HERE).build();
        row(sentence, given, packet.build()).delivers(reason, frame, then)
    };
    let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
    vec![
        delivered(
            "a SYN is delivered to a server here",
            world(),
            syn.clone(),
            Reason::Opened,
            world().opened(),
        ),
        delivered(
            "a SYN to a server here is delivered again",
            world().opened(),
            syn,
            Reason::SynUnanswered,
            world().opened(),
        ),
        delivered(
            "the ACK that ends a handshake is delivered to a server here",
            world().answered(5000),
            client(ACK),
            Reason::Established,
            open(),
        ),
        delivered(
            "a request is delivered to a server here",
            open(),
            client(ACK | PSH).payload(b"GET"),
            Reason::Forward,
            open(),
        ),
        delivered(
            "the last hop is not needed to stay",
            open(),
            client(ACK).ttl(1),
            Reason::Forward,
            open(),
        ),
        delivered(
            "a client's FIN is delivered to a server here",
            open(),
            client(FIN | ACK),
            Reason::Closing,
            progressed(Progress::CLIENT_FIN),
        ),
        delivered(
            "a client's RST is delivered to a server here",
            open(),
            client(RST),
            Reason::ResetRelayed,
            progressed(Progress::RESET),
        ),
        row(
            "a client of a server here that was cut off gets an exact RST",
            open().cut(),
            client(ACK).build(),
        )
        .resets(Reason::CutOff, reset.build(), open().cut()),
    ]
}

fn leaving() -> Vec<Row> {
    let open = || world().established();
    let server = |flags| segment(AWAY, flags).numbers(5001, 1001);
    let answered = |sentence: &str, given, packet: Tcp, reason, then| {
        let frame = packet.clone().on(TO_CLIENT).build();
        let row = row(sentence, given, packet.build()).delivers(reason, frame, then);
        row.leaving()
    };
    let server_first = Progress::SERVER_FIN.with(Progress::SERVER_FIRST);
    let untouched = |sentence: &str, given: World, packet: Tcp| {
        let row = row(sentence, given, packet.build()).passes(Reason::NotOurs);
        row.leaving()
    };
    vec![
        answered(
            "a SYN+ACK of a server here leaves from the VIP",
            world().opened(),
            segment(AWAY, SYN | ACK).numbers(5000, 1001),
            Reason::Handshake,
            world().answered(5000),
        ),
        answered(
            "a response of a server here leaves from the VIP",
            open(),
            server(ACK | PSH).payload(b"200 OK"),
            Reason::Reply,
            open(),
        ),
        answered(
            "a response of a server here keeps its last hop",
            open(),
            server(ACK).ttl(1),
            Reason::Reply,
            open(),
        ),
        answered(
            "a FIN of a server here leaves from the VIP",
            open(),
            server(FIN | ACK),
            Reason::Closing,
            progressed(server_first),
        ),
        answered(
            "a server here refuses a connection",
            world().opened(),
            segment(AWAY, RST | ACK).numbers(0, 1001),
            Reason::BackendRefused,
            world(),
        ),
        row(
            "a response of a server here that was cut off goes nowhere",
            open().cut(),
            server(ACK | PSH).payload(b"200 OK").build(),
        )
        .finish(Fate::Drop, Reason::CutOff, None, open().cut())
        .leaving(),
        untouched(
            "what a server here sends to others leaves as it is",
            open(),
            segment(
                Leg {
                    destination: (CLIENT.0, CLIENT.1 + 1),
                    ..AWAY
                },
                ACK,
            ),
        ),
        untouched(
            "what a client here sends to a VIP leaves as it is",
            open(),
            segment(FROM_CLIENT, ACK).numbers(1001, 5001),
        ),
        untouched(
            "a response of a server elsewhere leaves as it is",
            World::new().established(),
            segment(FROM_SERVER, ACK).numbers(5001, 1001),
        ),
    ]
}
