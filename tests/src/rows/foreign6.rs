//! Rows about IPv6 packets that the data path does not understand, as those in
//! `foreign` about IPv4.

use lb_common::addr::Ipv6;
use lb_common::verdict::Reason;

use super::family::ipv6_like;
use super::frame::{ACK, ETH, HEADERS6, IP6, Leg, PSH, finish_tcp, segment};
use super::world::{FROM_CLIENT, World};
use super::{Row, row};

const VERSION: usize = ETH;
const PAYLOAD_LENGTH: usize = ETH + 4;
const NEXT_HEADER: usize = ETH + 6;
const DATA_OFFSET: usize = ETH + IP6 + 12;

/// A segment of the established connection.
fn request() -> Vec<u8> {
    let over_ipv6 = |(address, port)| (ipv6_like(address).into(), port);
    let leg = Leg {
        source: over_ipv6(FROM_CLIENT.source),
        destination: over_ipv6(FROM_CLIENT.destination),
        ..FROM_CLIENT
    };
    segment(leg, ACK | PSH)
        .numbers(1001, 5001)
        .payload(b"GET /kv/key HTTP/1.1\r\n\r\n")
        .build()
}

/// The same frame with `bytes` at `offset`.
fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = request();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

fn passes(sentence: impl Into<String>, packet: Vec<u8>, reason: Reason) -> Row<Ipv6> {
    let world = World::new().established().translated();
    row(sentence, world, packet).passes(reason)
}

pub(super) fn rows() -> Vec<Row<Ipv6>> {
    [truncated(), headers(), lies()].concat()
}

fn truncated() -> Vec<Row<Ipv6>> {
    (ETH..HEADERS6)
        .map(|length| {
            let mut packet = request();
            packet.truncate(length);
            let sentence = format!("an IPv6 frame of {length} bytes passes");
            passes(sentence, packet, Reason::Truncated)
        })
        .collect()
}

fn headers() -> Vec<Row<Ipv6>> {
    let next = |sentence, number, reason| passes(sentence, with(NEXT_HEADER, &[number]), reason);
    // A fragment's own header, with the segment behind it.
    let mut fragment = with(NEXT_HEADER, &[44]);
    fragment.splice(ETH + IP6..ETH + IP6, [6, 0, 0, 1, 0, 0, 0, 1]);
    let mut options = with(NEXT_HEADER, &[60]);
    options.splice(ETH + IP6..ETH + IP6, [6, 0, 1, 4, 0, 0, 0, 0]);
    let mut arp = with(12, &[0x08, 0x06]);
    arp.truncate(60);
    vec![
        passes("an IPv6 fragment passes", fragment, Reason::Fragment),
        passes("destination options pass", options, Reason::Options),
        next("hop-by-hop options pass", 0, Reason::Options),
        next("a routing header passes", 43, Reason::Options),
        next("an authentication header passes", 51, Reason::Options),
        next("UDP over IPv6 passes", 17, Reason::NotTcp),
        next("an encrypted payload passes", 50, Reason::NotTcp),
        next("no next header passes", 59, Reason::NotTcp),
        next("SCTP over IPv6 passes", 132, Reason::NotTcp),
        passes("ARP where IPv6 is steered passes", arp, Reason::NotIp),
    ]
}

/// Lengths that contradict the frame, or each other.
fn lies() -> Vec<Row<Ipv6>> {
    let payload = request().len() - HEADERS6;
    let malformed = |sentence, packet| passes(sentence, packet, Reason::Malformed);
    let length = |length: usize| with(PAYLOAD_LENGTH, &(length as u16).to_be_bytes());
    let header = |words: u8| {
        let mut frame = with(DATA_OFFSET, &[words << 4]);
        finish_tcp(&mut frame);
        frame
    };
    vec![
        malformed(
            "version four in an IPv6 frame passes",
            with(VERSION, &[0x45]),
        ),
        malformed(
            "version zero in an IPv6 frame passes",
            with(VERSION, &[0x0f]),
        ),
        malformed(
            "an IPv6 length one byte beyond the frame passes",
            length(20 + payload + 1),
        ),
        malformed("an IPv6 length far beyond the frame passes", length(0xffff)),
        malformed("an IPv6 length of zero (a jumbogram) passes", length(0)),
        malformed(
            "an IPv6 length one byte short of a TCP header passes",
            length(19),
        ),
        malformed("a data offset of zero over IPv6 passes", header(0)),
        malformed("a data offset below five over IPv6 passes", header(4)),
        malformed(
            "a data offset beyond the IPv6 segment passes",
            header(((20 + payload) / 4) as u8 + 1),
        ),
    ]
}
