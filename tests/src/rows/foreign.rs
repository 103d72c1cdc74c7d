//! Rows about packets that the data path does not understand: each passes to
//! the host as it came. All of them meet an established connection, which a
//! frame that is misread would be taken for.

use lb_common::addr::Ipv4;
use lb_common::verdict::Reason;

use super::family::Family;
use super::frame::{ACK, ETH, HEADERS, IP, PSH, SYN, finish_ip, finish_tcp, segment};
use super::world::{FROM_CLIENT, World};
use super::{Row, row};

const TOTAL_LENGTH: usize = ETH + 2;
const FRAGMENT: usize = ETH + 6;
const PROTOCOL: usize = ETH + 9;
const DATA_OFFSET: usize = ETH + IP + 12;

/// A segment of the established connection.
pub(super) fn request<A: Family>() -> Vec<u8> {
    segment(FROM_CLIENT.over::<A>(), ACK | PSH)
        .numbers(1001, 5001)
        .payload(b"GET /kv/key HTTP/1.1\r\n\r\n")
        .build()
}

/// The same frame with `bytes` at `offset`, and a right header checksum.
pub(super) fn with<A: Family>(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = request::<A>();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    finish_ip(&mut frame);
    frame
}

/// The same segment, its header of so many words, where that says so is at
/// `offset`.
pub(super) fn with_words<A: Family>(offset: usize, words: u8) -> Vec<u8> {
    let mut frame = with::<A>(offset, &[words << 4]);
    finish_tcp(&mut frame);
    frame
}

pub(super) fn passes<A: Family>(
    sentence: impl Into<String>,
    packet: Vec<u8>,
    reason: Reason,
) -> Row<A> {
    let world = World::new().established().translated();
    row(sentence, world, packet).passes(reason)
}

/// A segment whose frame ends before its headers do, of `headers` bytes.
pub(super) fn truncated<A: Family>(headers: usize) -> Vec<Row<A>> {
    (ETH..headers)
        .map(|length| {
            let mut packet = request::<A>();
            packet.truncate(length);
            let sentence = format!("a frame of {length} bytes of {} passes", A::NAME);
            passes(sentence, packet, Reason::Truncated)
        })
        .collect()
}

pub(super) fn rows() -> Vec<Row> {
    [
        truncated(HEADERS),
        other_protocols(),
        options(),
        fragments(),
        lies(),
    ]
    .concat()
}

fn other_protocols() -> Vec<Row> {
    let with_type = |ether_type: [u8; 2]| with::<Ipv4>(12, &ether_type);
    let tagged = |tag: Vec<u8>| {
        let mut packet = request::<Ipv4>();
        packet.splice(12..12, tag);
        packet
    };
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 9, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.resize(60, 0);
    let protocol = |number| with::<Ipv4>(PROTOCOL, &[number]);
    vec![
        passes("ARP passes", arp, Reason::NotIp),
        passes(
            "an IPv4 packet that says it is IPv6 passes",
            with_type([0x86, 0xdd]),
            Reason::Malformed,
        ),
        passes(
            "a length in the place of a type passes (802.3)",
            with_type([0, 50]),
            Reason::NotIp,
        ),
        passes(
            "a type with its bytes swapped passes",
            with_type([0, 8]),
            Reason::NotIp,
        ),
        passes(
            "a third VLAN tag passes",
            tagged([0x81, 0, 0, 42].repeat(3)),
            Reason::NotIp,
        ),
        passes(
            "ARP with a VLAN tag passes",
            tagged(vec![0x81, 0, 0, 42, 0x08, 0x06]),
            Reason::NotIp,
        ),
        passes(
            "a frame that ends behind its VLAN tag passes",
            tagged(vec![0x81, 0, 0, 42])[..ETH + 4].to_vec(),
            Reason::Truncated,
        ),
        passes(
            "a frame that ends within its VLAN tag passes",
            tagged(vec![0x81, 0, 0, 42])[..ETH + 3].to_vec(),
            Reason::Truncated,
        ),
        passes(
            "a segment that lacks the bytes of its VLAN tag passes",
            tagged(vec![0x81, 0, 0, 42])[..HEADERS + 3].to_vec(),
            Reason::Truncated,
        ),
        passes("UDP passes", protocol(17), Reason::NotTcp),
        passes("ICMP passes", protocol(1), Reason::NotTcp),
        passes("SCTP passes", protocol(132), Reason::NotTcp),
        passes("protocol 0 passes", protocol(0), Reason::NotTcp),
    ]
}

fn options() -> Vec<Row> {
    let mut optional = request::<Ipv4>();
    // Router alert.
    optional.splice(ETH + IP..ETH + IP, [0x94, 4, 0, 0]);
    optional[ETH] = 0x46;
    let version = |byte| with::<Ipv4>(ETH, &[byte]);
    vec![
        passes("a header with IP options passes", optional, Reason::Options),
        passes(
            "a header that claims sixty bytes passes",
            version(0x4f),
            Reason::Options,
        ),
        passes(
            "a header that claims sixteen bytes passes",
            version(0x44),
            Reason::Options,
        ),
        passes(
            "a header that claims no bytes passes",
            version(0x40),
            Reason::Options,
        ),
        passes(
            "version six in an IPv4 frame passes",
            version(0x65),
            Reason::Options,
        ),
    ]
}

fn fragments() -> Vec<Row> {
    let fragment = |bits: u16| with::<Ipv4>(FRAGMENT, &bits.to_be_bytes());
    vec![
        passes(
            "the first fragment passes",
            fragment(0x2000),
            Reason::Fragment,
        ),
        passes(
            "a fragment in the middle passes",
            fragment(0x2001),
            Reason::Fragment,
        ),
        passes(
            "the last fragment passes",
            fragment(0x1fff),
            Reason::Fragment,
        ),
        passes(
            "a fragment that must not be fragmented passes",
            fragment(0x6000),
            Reason::Fragment,
        ),
    ]
}

/// Lengths that contradict the frame, or each other.
fn lies() -> Vec<Row> {
    let payload = request::<Ipv4>().len() - HEADERS;
    let total = |length: usize| with::<Ipv4>(TOTAL_LENGTH, &(length as u16).to_be_bytes());
    let malformed = |sentence, packet| passes(sentence, packet, Reason::Malformed);
    let header = |words| with_words::<Ipv4>(DATA_OFFSET, words);
    let words_of_segment = ((20 + payload) / 4) as u8;
    let mut bare = segment(FROM_CLIENT, SYN).numbers(1000, 0).build();
    bare[DATA_OFFSET] = 6 << 4;
    vec![
        malformed(
            "a total length one byte beyond the frame passes",
            total(IP + 20 + payload + 1),
        ),
        malformed("a total length far beyond the frame passes", total(0xffff)),
        malformed("a total length of zero passes", total(0)),
        malformed("a total length shorter than its header passes", total(19)),
        malformed("a total length of the IP header alone passes", total(IP)),
        malformed(
            "a total length one byte short of a TCP header passes",
            total(IP + 19),
        ),
        malformed("a data offset of zero passes", header(0)),
        malformed("a data offset below five passes", header(4)),
        malformed(
            "a data offset beyond the segment passes",
            header(words_of_segment + 1),
        ),
        malformed("a data offset beyond a bare header passes", bare),
    ]
}
