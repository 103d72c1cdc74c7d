//! Rows about frames with VLAN tags: they leave with the tags that they came
//! with.

use lb_common::target::Mode;
use lb_common::verdict::Reason;

use super::frame::{ACK, PSH, RST, SYN, Tcp, segment};
use super::local::AWAY;
use super::world::{FROM_CLIENT, FROM_SERVER, TO_CLIENT, TO_SERVER, World};
use super::{Row, row};

/// VLAN 42, priority 5.
const CUSTOMER: [u8; 4] = [0x81, 0x00, 0xa0, 42];
/// VLAN 7 of a provider (802.1ad).
const PROVIDER: [u8; 4] = [0x88, 0xa8, 0x00, 7];

pub(super) fn rows() -> Vec<Row> {
    [
        rows_with("a VLAN tag", &[CUSTOMER]),
        rows_with("two VLAN tags", &[PROVIDER, CUSTOMER]),
    ]
    .concat()
}

fn rows_with(what: &str, tags: &[[u8; 4]]) -> Vec<Row> {
    let open = || World::new().established();
    let tagged = |packet: &Tcp| packet.clone().tags(tags).build();
    let sentence = |rest: &str| format!("{what} {rest}");
    let syn = segment(FROM_CLIENT, SYN).numbers(1000, 0);
    let request = segment(FROM_CLIENT, ACK | PSH)
        .numbers(1001, 5001)
        .payload(b"GET");
    let response = segment(FROM_SERVER, ACK | PSH)
        .numbers(5001, 1001)
        .payload(b"200 OK");
    let here = || World::new().mode(Mode::Local).established();
    let answer = segment(AWAY, ACK | PSH)
        .numbers(5001, 1001)
        .payload(b"200 OK");
    let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
    vec![
        row(sentence("stays on a SYN"), World::new(), tagged(&syn)).transmits(
            Reason::Opened,
            tagged(&syn.hop(TO_SERVER)),
            World::new().opened(),
        ),
        row(sentence("stays on a request"), open(), tagged(&request)).transmits(
            Reason::Forward,
            tagged(&request.clone().hop(TO_SERVER)),
            open(),
        ),
        row(sentence("stays on a response"), open(), tagged(&response)).transmits(
            Reason::Reply,
            tagged(&response.hop(TO_CLIENT)),
            open(),
        ),
        row(
            sentence("stays on a segment that is answered with a RST"),
            open().cut(),
            tagged(&request),
        )
        .resets(Reason::CutOff, tagged(&reset), open().cut()),
        row(
            sentence("stays on a response of a server here"),
            here(),
            tagged(&answer),
        )
        .delivers(Reason::Reply, tagged(&answer.clone().on(TO_CLIENT)), here())
        .leaving(),
    ]
}
