//! Segments as the model's endpoints send them, and what it reads of them.

use lb_common::addr::{Ipv4, Port};
use lb_common::flow::FlowKey;
use lb_common::layout::{bytes_of, read_from};
use lb_common::nat;
use lb_common::target::Hop;
use lb_common::wire::checksum::sum;
use lb_common::wire::frame::Headers;
use lb_common::wire::tcp::{Flags, TcpHeader};

/// The key of a segment.
pub type Key = FlowKey<Ipv4>;

/// The key of what goes from one end to the other.
pub fn key(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Key {
    FlowKey {
        source: Ipv4(u32::from_ne_bytes(from.0)),
        destination: Ipv4(u32::from_ne_bytes(to.0)),
        source_port: Port::new(from.1),
        destination_port: Port::new(to.1),
    }
}

/// A segment without payload, its checksums complete.
pub fn segment(key: &Key, flags: Flags, sequence: u32, acknowledgment: u32) -> Headers {
    let mut headers = lb_common::emit::provoking_ack(key, Hop::default(), sequence);
    headers.tcp.flags = flags;
    headers.tcp.window = 0x2000;
    headers.tcp.set_numbers(sequence, acknowledgment);
    headers.tcp.checksum = 0;
    headers.tcp.checksum = !transport_sum(&headers);
    headers
}

/// Whether both checksums of a segment without payload are right.
pub fn checksums_valid(headers: &Headers) -> bool {
    sum(bytes_of(headers).get(14..34).expect("an IPv4 header")).fold() == 0xffff
        && transport_sum(headers) == 0xffff
}

/// What becomes of `bytes` as headers.
pub fn headers(bytes: &[u8]) -> Headers {
    assert_eq!(
        bytes.len(),
        Headers::LENGTH,
        "no segment here has a payload"
    );
    read_from(bytes).expect("as long as headers")
}

fn transport_sum(headers: &Headers) -> u16 {
    let Headers { ip, .. } = headers;
    let length = size_of::<TcpHeader>() as u16;
    let tcp = bytes_of(headers).get(34..).expect("a TCP header");
    nat::pseudo_sum(ip.source(), ip.destination(), length)
        .add(sum(tcp))
        .fold()
}
