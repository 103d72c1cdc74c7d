//! Rows about connections whose target was cut off: every segment of them is
//! answered with a RST that its receiver accepts, and no RST is.

use lb_common::flow::Progress;
use lb_common::verdict::Reason;

use super::frame::{ACK, FIN, HEADERS, Leg, PSH, RST, SYN, Tcp, segment};
use super::world::{FROM_CLIENT, FROM_SERVER, TO_CLIENT, TO_HEIR, TO_SERVER, World};
use super::{Row, row};

fn client(flags: u8) -> Tcp {
    segment(FROM_CLIENT, flags).numbers(1001, 5001)
}

fn server(flags: u8) -> Tcp {
    segment(FROM_SERVER, flags).numbers(5001, 1001)
}

/// The RST that the receiver of a segment with ACK must believe: it has the
/// sequence number that the receiver expects next.
fn exact(leg: Leg, sequence: u32) -> Vec<u8> {
    let frame = segment(leg, RST).numbers(sequence, 0).unsolicited().build();
    assert_eq!(frame.len(), HEADERS);
    frame
}

/// The RST that answers a segment without ACK: it acknowledges the segment.
fn acknowledging(leg: Leg, acknowledgment: u32) -> Vec<u8> {
    segment(leg, RST | ACK)
        .numbers(0, acknowledgment)
        .unsolicited()
        .build()
}

pub(super) fn rows() -> Vec<Row> {
    [established(), half_open(), reopened()].concat()
}

fn established() -> Vec<Row> {
    let stale = || World::new().established().cut();
    let answered = |sentence, packet: Tcp, frame| {
        row(sentence, stale(), packet.build()).resets(Reason::CutOff, frame, stale())
    };
    let dropped = |sentence, packet: Tcp| {
        row(sentence, stale(), packet.build()).drops(Reason::StrayReset, stale())
    };
    vec![
        answered(
            "a client of a target that was cut off gets an exact RST",
            client(ACK),
            exact(TO_CLIENT, 5001),
        ),
        answered(
            "a server that was cut off gets an exact RST",
            server(ACK),
            exact(TO_SERVER, 1001),
        ),
        answered(
            "a RST leaves the data, options and padding that it answers behind",
            client(ACK | PSH)
                .options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
                .payload(&[7; 500])
                .padding(2),
            exact(TO_CLIENT, 5001),
        ),
        answered(
            "a FIN of a connection that was cut off is answered",
            client(FIN | ACK),
            exact(TO_CLIENT, 5001),
        ),
        answered(
            "a segment with its last hop is answered, with fresh hops",
            client(ACK).ttl(1),
            exact(TO_CLIENT, 5001),
        ),
        answered(
            "a FIN without ACK is acknowledged by its RST",
            segment(FROM_CLIENT, FIN)
                .numbers(u32::MAX - 2, 0)
                .payload(b"data"),
            acknowledging(TO_CLIENT, 2),
        ),
        answered(
            "a server's SYN+ACK sent again after the cut is answered",
            server(SYN | ACK),
            exact(TO_SERVER, 1001),
        ),
        dropped("a client's RST after the cut is not answered", client(RST)),
        dropped(
            "a server's RST after the cut is not answered",
            server(RST | ACK),
        ),
    ]
}

fn half_open() -> Vec<Row> {
    let stale = || World::new().answered(5000).cut();
    vec![
        row(
            "the ACK of a handshake that was cut off is answered, and nothing remains",
            stale(),
            client(ACK).build(),
        )
        .resets(Reason::CutOff, exact(TO_CLIENT, 5001), World::new()),
        row(
            "the SYN+ACK of a handshake that was cut off is answered, and nothing remains",
            stale(),
            segment(FROM_SERVER, SYN | ACK).numbers(5000, 1001).build(),
        )
        .resets(Reason::CutOff, exact(TO_SERVER, 1001), World::new()),
        row(
            "a RST in a handshake that was cut off is not answered",
            stale(),
            server(RST | ACK).build(),
        )
        .drops(Reason::StrayReset, World::new()),
    ]
}

fn reopened() -> Vec<Row> {
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let to_heir = |sentence, given: World| {
        row(sentence, given.cut().handed_over(), syn.build()).transmits(
            Reason::Opened,
            syn.clone().hop(TO_HEIR).build(),
            World::new().opened_to_heir(),
        )
    };
    let refused = |sentence, given: World| {
        row(sentence, given.cut().leaderless(), syn.build()).resets(
            Reason::NoTarget,
            acknowledging(TO_CLIENT, 1001),
            World::new(),
        )
    };
    vec![
        to_heir(
            "a SYN of a connection that was cut off meets the new target",
            World::new().established(),
        ),
        to_heir(
            "a SYN of a half-closed connection that was cut off meets the new target",
            World::new().progressed(Progress::CLIENT_FIN),
        ),
        to_heir(
            "a SYN sent again after the cut meets the new target",
            World::new().opened(),
        ),
        refused(
            "a SYN of a connection that was cut off is refused while there is no target",
            World::new().established(),
        ),
        refused(
            "a SYN sent again after the cut is refused while there is no target",
            World::new().answered(5000),
        ),
        row(
            "a SYN from a server of a connection that was cut off is the host's affair",
            World::new().established().cut(),
            segment(FROM_SERVER, SYN).numbers(1, 0).build(),
        )
        .passes_and_leaves(Reason::NotOurs, World::new()),
    ]
}
