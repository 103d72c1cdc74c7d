//! Rows about established connections, and how they end.

use lb_common::flow::Progress;
use lb_common::target::Hop;
use lb_common::verdict::Reason;

use super::frame::{ACK, FIN, Leg, PSH, RST, SYN, Tcp, segment};
use super::world::{FROM_CLIENT, FROM_SERVER, HEIR_MAC, TO_CLIENT, TO_HEIR, TO_SERVER, World, hop};
use super::{Row, row};

/// Nothing has happened since the handshake.
const OPEN: Progress = Progress(0);
/// The client closed its half.
const CLIENT_FIN: Progress = Progress::CLIENT_FIN;
/// The server closed its half, before the client.
const SERVER_FIN_FIRST: Progress = Progress::SERVER_FIN.with(Progress::SERVER_FIRST);
/// Both closed their halves, the client first.
const CLOSED: Progress = CLIENT_FIN.with(Progress::SERVER_FIN);
/// Both closed their halves, the server first.
const CLOSED_BY_SERVER: Progress = CLIENT_FIN.with(SERVER_FIN_FIRST);
/// One of them sent a RST.
const RESET: Progress = Progress::RESET;

/// No-operation twice, then a timestamp: what nearly every segment bears.
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7];

fn client(flags: u8) -> Tcp {
    segment(FROM_CLIENT, flags).numbers(1001, 5001)
}

fn server(flags: u8) -> Tcp {
    segment(FROM_SERVER, flags).numbers(5001, 1001)
}

pub(super) fn rows() -> Vec<Row> {
    [talking(), hops(), closing(), reopening()].concat()
}

/// `packet` goes on to `leg`, and the connection comes from `before` to `after`.
fn step(
    sentence: &str,
    reason: Reason,
    [before, after]: [Progress; 2],
    packet: Tcp,
    leg: Leg,
) -> Row {
    row(sentence, World::new().progressed(before), packet.build()).transmits(
        reason,
        packet.hop(leg).build(),
        World::new().progressed(after),
    )
}

fn talking() -> Vec<Row> {
    let there = |sentence, packet| step(sentence, Reason::Forward, [OPEN, OPEN], packet, TO_SERVER);
    let back = |sentence, packet| step(sentence, Reason::Reply, [OPEN, OPEN], packet, TO_CLIENT);
    vec![
        there("an ACK reaches the server", client(ACK)),
        back("an ACK reaches the client", server(ACK)),
        there(
            "a request reaches the server",
            client(ACK | PSH)
                .options(&TIMESTAMP)
                .payload(b"PUT /kv\r\n"),
        ),
        back(
            "a response reaches the client",
            server(ACK | PSH).options(&TIMESTAMP).payload(b"200 OK\r\n"),
        ),
        there(
            "a short segment keeps its Ethernet padding",
            client(ACK).padding(6),
        ),
        there(
            "an odd payload keeps its padding out of the checksum",
            client(ACK | PSH).payload(b"odd").padding(3),
        ),
        there(
            "a full-sized segment reaches the server",
            client(ACK).payload(&[0xa5; 1460]),
        ),
        there(
            "a segment whose flags make no sense is the endpoints' affair",
            client(0),
        ),
        there(
            "a SYN in an open connection is the server's affair",
            segment(FROM_CLIENT, SYN).numbers(77, 0),
        ),
        back(
            "a SYN+ACK sent again after the handshake reaches the client",
            server(SYN | ACK),
        ),
        row(
            "a segment of an open connection needs neither a service nor a slot",
            unlisted(World::new().established().leaderless()),
            client(ACK).build(),
        )
        .transmits(
            Reason::Forward,
            client(ACK).hop(TO_SERVER).build(),
            World::new().established(),
        ),
    ]
}

/// Without any service.
fn unlisted(mut world: World) -> World {
    world.services.clear();
    world
}

fn hops() -> Vec<Row> {
    let expired = |sentence, packet: Tcp| {
        row(sentence, World::new().established(), packet.build())
            .drops(Reason::TtlExpired, World::new().established())
    };
    let by = |hop| World::new().established().target(|target| target.hop = hop);
    let moved = by(hop(HEIR_MAC));
    let elsewhere = Leg {
        to: HEIR_MAC,
        ..TO_SERVER
    };
    let unresolved = by(Hop::default());
    let nowhere = Leg {
        from: [0; 6],
        to: [0; 6],
        ..TO_SERVER
    };
    vec![
        step(
            "a segment may have a single hop left when it leaves",
            Reason::Forward,
            [OPEN, OPEN],
            client(ACK).ttl(2),
            TO_SERVER,
        ),
        expired("a segment with one hop left is dropped", client(ACK).ttl(1)),
        expired("a segment without a hop is dropped", server(ACK).ttl(0)),
        row(
            "a connection follows its target's next hop",
            moved,
            client(ACK).build(),
        )
        .transmits(
            Reason::Forward,
            client(ACK).hop(elsewhere).build(),
            World::new().established(),
        ),
        row(
            "a next hop that is not known yet loses the segment to nobody",
            unresolved,
            client(ACK).build(),
        )
        .redirects(
            Reason::Forward,
            client(ACK).hop(nowhere).build(),
            World::new().established(),
        ),
    ]
}

fn closing() -> Vec<Row> {
    let fin =
        |sentence, progress, packet, leg| step(sentence, Reason::Closing, progress, packet, leg);
    let reset =
        |sentence, packet, leg| step(sentence, Reason::ResetRelayed, [OPEN, RESET], packet, leg);
    vec![
        fin(
            "a client's FIN is noted",
            [OPEN, CLIENT_FIN],
            client(FIN | ACK),
            TO_SERVER,
        ),
        fin(
            "a server's FIN before the client's is noted as the first",
            [OPEN, SERVER_FIN_FIRST],
            server(FIN | ACK),
            TO_CLIENT,
        ),
        fin(
            "a server's FIN after the client's closes the connection",
            [CLIENT_FIN, CLOSED],
            server(FIN | ACK),
            TO_CLIENT,
        ),
        fin(
            "a client's FIN after the server's closes the connection",
            [SERVER_FIN_FIRST, CLOSED_BY_SERVER],
            client(FIN | ACK),
            TO_SERVER,
        ),
        fin(
            "a server's first FIN remains the first when it is sent again",
            [CLOSED_BY_SERVER, CLOSED_BY_SERVER],
            server(FIN | ACK),
            TO_CLIENT,
        ),
        fin(
            "a FIN takes its last data along",
            [OPEN, CLIENT_FIN],
            client(FIN | ACK | PSH).payload(b"bye"),
            TO_SERVER,
        ),
        reset("a client's RST is relayed", client(RST), TO_SERVER),
        reset("a server's RST is relayed", server(RST | ACK), TO_CLIENT),
        reset("a RST with a FIN is a RST", client(RST | FIN), TO_SERVER),
        step(
            "the last ACK of a closed connection still reaches the server",
            Reason::Forward,
            [CLOSED, CLOSED],
            client(ACK),
            TO_SERVER,
        ),
        step(
            "a straggler of a connection that was reset still reaches the client",
            Reason::Reply,
            [RESET, RESET],
            server(ACK),
            TO_CLIENT,
        ),
        orphaned_reply(),
    ]
}

/// An agent that was killed between two removals leaves half a pair.
fn orphaned_reply() -> Row {
    let mut half = World::new().established();
    let (forward, _) = half.pair();
    half.connections.flows.remove(&forward.0);
    let packet = server(FIN | ACK);
    row(
        "a FIN is relayed also where the forward flow is gone",
        half.clone(),
        packet.build(),
    )
    .transmits(Reason::Closing, packet.hop(TO_CLIENT).build(), half)
}

fn reopening() -> Vec<Row> {
    let syn = segment(FROM_CLIENT, SYN).numbers(90_000, 0);
    let again = |sentence, progress| {
        row(
            sentence,
            World::new().progressed(progress).handed_over(),
            syn.build(),
        )
        .transmits(
            Reason::Opened,
            syn.clone().hop(TO_HEIR).build(),
            World::new().opened_to_heir(),
        )
    };
    vec![
        again(
            "a SYN in the place of a closed connection opens a new one",
            CLOSED,
        ),
        again(
            "a SYN in the place of a connection that was reset opens a new one",
            RESET,
        ),
        step(
            "a SYN in a half-closed connection is the server's affair",
            Reason::Forward,
            [CLIENT_FIN, CLIENT_FIN],
            syn.clone(),
            TO_SERVER,
        ),
        row(
            "a SYN in the place of a closed connection spares another's reply flow",
            crossed(World::new().progressed(CLOSED)),
            syn.build(),
        )
        .transmits(
            Reason::Opened,
            syn.hop(Leg {
                source: (TO_SERVER.source.0, super::handshake::SECOND_PORT),
                ..TO_SERVER
            })
            .build(),
            {
                let mut then = crossed(World::new().progressed(CLOSED));
                let (forward, _) = then.pair();
                then.connections.flows.remove(&forward.0);
                then.opened_from(super::handshake::SECOND_PORT)
            },
        ),
    ]
}

/// The client's reply flow is gone, and its key serves another client.
fn crossed(world: World) -> World {
    world.with_port_taken()
}
