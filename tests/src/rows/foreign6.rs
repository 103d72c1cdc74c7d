//! Rows about IPv6 packets that the data path does not understand, as those in
//! `foreign` about IPv4.

use lb_common::addr::Ipv6;
use lb_common::verdict::Reason;

use super::Row;
use super::foreign::{passes, request, truncated, with, with_words};
use super::frame::{ETH, HEADERS6, IP6};

const VERSION: usize = ETH;
const PAYLOAD_LENGTH: usize = ETH + 4;
const NEXT_HEADER: usize = ETH + 6;
const DATA_OFFSET: usize = ETH + IP6 + 12;

pub(super) fn rows() -> Vec<Row<Ipv6>> {
    [truncated(HEADERS6), headers(), lies()].concat()
}

fn headers() -> Vec<Row<Ipv6>> {
    let next =
        |sentence, number, reason| passes(sentence, with::<Ipv6>(NEXT_HEADER, &[number]), reason);
    // A fragment's own header, with the segment behind it.
    let mut fragment = with::<Ipv6>(NEXT_HEADER, &[44]);
    fragment.splice(ETH + IP6..ETH + IP6, [6, 0, 0, 1, 0, 0, 0, 1]);
    let mut options = with::<Ipv6>(NEXT_HEADER, &[60]);
    options.splice(ETH + IP6..ETH + IP6, [6, 0, 1, 4, 0, 0, 0, 0]);
    let mut arp = with::<Ipv6>(12, &[0x08, 0x06]);
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
    let payload = request::<Ipv6>().len() - HEADERS6;
    let malformed = |sentence, packet| passes(sentence, packet, Reason::Malformed);
    let length = |length: usize| with::<Ipv6>(PAYLOAD_LENGTH, &(length as u16).to_be_bytes());
    let header = |words| with_words::<Ipv6>(DATA_OFFSET, words);
    vec![
        malformed(
            "version four in an IPv6 frame passes",
            with::<Ipv6>(VERSION, &[0x45]),
        ),
        malformed(
            "version zero in an IPv6 frame passes",
            with::<Ipv6>(VERSION, &[0x0f]),
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
