//! Rows about connections that begin.

use lb_common::flow::Progress;
use lb_common::verdict::Reason;

use super::frame::{ACK, FIN, Leg, PSH, RST, SYN, Tcp, segment};
use super::world::{FROM_CLIENT, FROM_SERVER, SERVER, SNAT, TO_CLIENT, TO_SERVER, World};
use super::{Row, row};

/// The sequence number of the server's SYN+ACK.
const ISN: u32 = 5000;

/// The port that comes second for this client: the hash is the same on every
/// balancer and in every version, so that peers choose alike.
pub(super) const SECOND_PORT: u16 = 7758;
/// The same over IPv6.
pub(super) const SECOND_PORT_IPV6: u16 = 9398;

const ECE_CWR: u8 = 0xc0;

/// Maximum segment size 1460, selective acknowledgments, window scale 7.
pub(super) const SYN_OPTIONS: [u8; 12] = [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7];

fn syn() -> Tcp {
    segment(FROM_CLIENT, SYN)
        .numbers(1000, 0)
        .options(&SYN_OPTIONS)
}

fn syn_ack(sequence: u32) -> Tcp {
    segment(FROM_SERVER, SYN | ACK)
        .numbers(sequence, 1001)
        .options(&SYN_OPTIONS)
}

fn ack(acknowledgment: u32) -> Tcp {
    segment(FROM_CLIENT, ACK).numbers(1001, acknowledgment)
}

pub(super) fn rows() -> Vec<Row> {
    [opening(), finishing(), giving_up(), one_half_lost()].concat()
}

fn opening() -> Vec<Row> {
    let second = Leg {
        source: (SNAT.0, SECOND_PORT),
        ..TO_SERVER
    };
    let itself = segment(
        Leg {
            source: SERVER,
            ..FROM_CLIENT
        },
        SYN,
    );
    let ecn = segment(FROM_CLIENT, SYN | ECE_CWR).numbers(1000, 0);
    let fast_open = syn().payload(b"early data");
    vec![
        row(
            "a SYN opens a connection to the slot's target",
            World::new(),
            syn().build(),
        )
        .transmits(
            Reason::Opened,
            syn().hop(TO_SERVER).build(),
            World::new().opened(),
        ),
        row(
            "a SYN with ECN bits opens a connection",
            World::new(),
            ecn.build(),
        )
        .transmits(
            Reason::Opened,
            ecn.hop(TO_SERVER).build(),
            World::new().opened(),
        ),
        row(
            "a SYN keeps the data that it brings",
            World::new(),
            fast_open.build(),
        )
        .transmits(
            Reason::Opened,
            fast_open.hop(TO_SERVER).build(),
            World::new().opened(),
        ),
        row(
            "a SYN sent again meets the same target and port, whatever the slot says by now",
            World::new().opened().handed_over(),
            syn().build(),
        )
        .transmits(
            Reason::SynUnanswered,
            syn().hop(TO_SERVER).build(),
            World::new().opened(),
        ),
        row(
            "a SYN sent again though it was answered meets the same target and port as well",
            World::new().answered(ISN).handed_over(),
            syn().build(),
        )
        .transmits(
            Reason::SynRetransmitted,
            syn().hop(TO_SERVER).build(),
            World::new().answered(ISN),
        ),
        row(
            "a SYN gets another port where a handshake of another client has reserved its own",
            World::new().with_port_reserved(),
            syn().build(),
        )
        .transmits(
            Reason::Opened,
            syn().hop(second).build(),
            World::new().with_port_reserved().opened_from(SECOND_PORT),
        ),
        row(
            "a SYN gets another port where a connection of another client has its own",
            World::new().with_port_taken(),
            syn().build(),
        )
        .transmits(
            Reason::Opened,
            syn().hop(second).build(),
            World::new().with_port_taken().opened_from(SECOND_PORT),
        ),
        row(
            "a SYN whose reply would look like itself goes nowhere",
            World::new().meeting_itself(),
            itself.numbers(1000, 0).build(),
        )
        .drops(Reason::SynLost, World::new()),
    ]
}

fn finishing() -> Vec<Row> {
    let finished = |sentence: &str, packet: Tcp| {
        row(sentence, World::new().answered(ISN), packet.build()).transmits(
            Reason::Established,
            packet.hop(TO_SERVER).build(),
            World::new().established(),
        )
    };
    let unfinished = |sentence: &str, given: World, packet: Tcp| {
        row(sentence, given.clone(), packet.build()).transmits(
            Reason::Handshake,
            packet.hop(TO_SERVER).build(),
            given,
        )
    };
    let answer = |sentence: &str, given: World, sequence: u32| {
        row(sentence, given, syn_ack(sequence).build()).transmits(
            Reason::Handshake,
            syn_ack(sequence).hop(TO_CLIENT).build(),
            World::new().answered(sequence),
        )
    };
    let challenge = segment(FROM_SERVER, ACK).numbers(5000, 1001);
    let fin = segment(FROM_CLIENT, FIN | ACK).numbers(1001, ISN + 1);
    let data = segment(FROM_CLIENT, ACK | PSH)
        .numbers(1001, ISN + 1)
        .payload(b"GET");
    vec![
        answer(
            "a SYN+ACK goes back to the client and is noted",
            World::new().opened(),
            ISN,
        ),
        answer(
            "a SYN+ACK sent again changes nothing",
            World::new().answered(ISN),
            ISN,
        ),
        answer(
            "of two SYN+ACKs the last one counts",
            World::new().answered(ISN),
            ISN + 77,
        ),
        row(
            "a server's segment that is no SYN+ACK answers no SYN",
            World::new().opened(),
            challenge.build(),
        )
        .transmits(
            Reason::Handshake,
            challenge.hop(TO_CLIENT).build(),
            World::new().opened(),
        ),
        finished("the right ACK finishes the handshake", ack(ISN + 1)),
        finished("the first data finishes the handshake as well", data),
        finished(
            "an ACK that covers a server's early data finishes the handshake",
            ack(ISN + 1 + 0xffff),
        ),
        row(
            "an ACK with a FIN finishes the handshake and begins the end",
            World::new().answered(ISN),
            fin.build(),
        )
        .transmits(
            Reason::Established,
            fin.hop(TO_SERVER).build(),
            World::new().progressed(Progress::CLIENT_FIN),
        ),
        row(
            "the right ACK finishes the handshake also where sequence numbers wrap",
            World::new().answered(u32::MAX),
            ack(0).build(),
        )
        .transmits(
            Reason::Established,
            ack(0).hop(TO_SERVER).build(),
            World::new().established(),
        ),
        unfinished(
            "an ACK one too low does not finish the handshake",
            World::new().answered(ISN),
            ack(ISN),
        ),
        unfinished(
            "an ACK far too high does not finish the handshake",
            World::new().answered(ISN),
            ack(ISN + 1 + 0x1_0000),
        ),
        unfinished(
            "a forged SYN and ACK alone finish no handshake",
            World::new().opened(),
            ack(1),
        ),
        unfinished(
            "a client's segment without ACK does not finish the handshake",
            World::new().answered(ISN),
            segment(FROM_CLIENT, PSH).numbers(1001, 0).payload(b"x"),
        ),
    ]
}

fn giving_up() -> Vec<Row> {
    let client_reset = segment(FROM_CLIENT, RST).numbers(1001, 0);
    let server_reset = segment(FROM_SERVER, RST | ACK).numbers(0, 1001);
    let full = |room: usize| World::new().answered(ISN).with_room_for(room);
    let rest = |room: usize| World::new().with_room_for(room);
    let refusal = segment(TO_CLIENT, RST).numbers(ISN + 1, 0).unsolicited();
    vec![
        row(
            "a client may give up during the handshake",
            World::new().answered(ISN),
            client_reset.build(),
        )
        .transmits(
            Reason::ResetRelayed,
            client_reset.hop(TO_SERVER).build(),
            World::new(),
        ),
        row(
            "a server's refusal reaches the client and frees the port",
            World::new().opened(),
            server_reset.build(),
        )
        .transmits(
            Reason::BackendRefused,
            server_reset.hop(TO_CLIENT).build(),
            World::new(),
        ),
        row(
            "a handshake that finds FLOWS full is reset",
            full(0),
            ack(ISN + 1).build(),
        )
        .resets(Reason::TableFull, refusal.build(), rest(0)),
        row(
            "a handshake that finds room for one of its flows leaves none",
            full(1),
            ack(ISN + 1).build(),
        )
        .resets(Reason::TableFull, refusal.build(), rest(1)),
        row(
            "a handshake that finds room for just its two flows is finished",
            full(2),
            ack(ISN + 1).build(),
        )
        .transmits(
            Reason::Established,
            ack(ISN + 1).hop(TO_SERVER).build(),
            rest(2).established(),
        ),
    ]
}

/// PENDING is an LRU map: a flood may push out one half of a handshake.
fn one_half_lost() -> Vec<Row> {
    let refusal = segment(TO_CLIENT, RST).numbers(ISN + 1, 0).unsolicited();
    let headless = || World::new().answered(ISN).without_reply_half();
    // The port went to another client, whose handshake is under way.
    let overtaken = || headless().with_port_reserved();
    let refusal_to_server = segment(TO_SERVER, RST).numbers(1001, 0).unsolicited();
    let reset = segment(FROM_CLIENT, RST).numbers(1001, 0);
    let second = Leg {
        source: (SNAT.0, SECOND_PORT),
        ..TO_SERVER
    };
    vec![
        row(
            "an ACK of a handshake without its reply half is reset",
            headless(),
            ack(ISN + 1).build(),
        )
        .resets(Reason::HandshakeLost, refusal.build(), World::new()),
        row(
            "an ACK of a handshake whose port went to another client is reset, and the other stays",
            overtaken(),
            ack(ISN + 1).build(),
        )
        .resets(
            Reason::HandshakeLost,
            refusal.build(),
            World::new().with_port_reserved(),
        ),
        row(
            "a SYN of a handshake without its reply half opens it anew",
            headless(),
            syn().build(),
        )
        .transmits(
            Reason::Opened,
            syn().hop(TO_SERVER).build(),
            World::new().opened(),
        ),
        row(
            "a SYN of a handshake whose port went to another client gets a port of its own",
            overtaken(),
            syn().build(),
        )
        .transmits(
            Reason::Opened,
            syn().hop(second).build(),
            World::new().with_port_reserved().opened_from(SECOND_PORT),
        ),
        row(
            "a RST of a handshake whose port went to another client goes nowhere",
            overtaken(),
            reset.build(),
        )
        .drops(Reason::StrayReset, World::new().with_port_reserved()),
        row(
            "a SYN+ACK of a handshake without its forward half is reset",
            World::new().opened().without_forward_half(),
            syn_ack(ISN).build(),
        )
        .resets(
            Reason::HandshakeLost,
            refusal_to_server.build(),
            World::new(),
        ),
        row(
            "a refusal of a handshake without its forward half goes nowhere",
            World::new().opened().without_forward_half(),
            segment(FROM_SERVER, RST | ACK).numbers(0, 1001).build(),
        )
        .drops(Reason::StrayReset, World::new()),
    ]
}
