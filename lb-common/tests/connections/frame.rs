//! Segments as the model's endpoints send them, and what it reads of them.

use lb_common::addr::{Address, Ipv4, Ipv6, Port};
use lb_common::emit;
use lb_common::flow::FlowKey;
use lb_common::layout::{bytes_of, read_from};
use lb_common::nat;
use lb_common::wire::checksum::sum;
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader as _;
use lb_common::wire::tcp::{Flags, TcpHeader};

/// A family of addresses that the model can live in.
pub trait Family: Address {
    /// The address that ends in `bytes`.
    fn ending_in(bytes: [u8; 4]) -> Self;

    /// Whether the network header's own checksum is right, if it has one.
    fn header_valid(header: &Self::Header) -> bool;
}

impl Family for Ipv4 {
    fn ending_in(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    fn header_valid(header: &Self::Header) -> bool {
        sum(bytes_of(header)).fold() == 0xffff
    }
}

impl Family for Ipv6 {
    fn ending_in(bytes: [u8; 4]) -> Self {
        Self([0xfd_u32, 0, 0, u32::from_ne_bytes(bytes)])
    }

    fn header_valid(_: &Self::Header) -> bool {
        true
    }
}

/// A segment without payload.
pub type Segment<A> = Headers<<A as Address>::Header>;

/// The key of what goes from one end to the other.
pub fn key<A: Family>(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> FlowKey<A> {
    FlowKey {
        source: A::ending_in(from.0),
        destination: A::ending_in(to.0),
        source_port: Port::new(from.1),
        destination_port: Port::new(to.1),
    }
}

/// A segment without payload, its checksums complete.
pub fn segment<A: Family>(
    key: &FlowKey<A>,
    flags: Flags,
    sequence: u32,
    acknowledgment: u32,
) -> Segment<A> {
    let mut headers = emit::provoking_ack(key, sequence);
    headers.tcp.flags = flags;
    headers.tcp.window = 0x2000;
    headers.tcp.set_numbers(sequence, acknowledgment);
    headers.tcp.checksum = 0;
    headers.tcp.checksum = !transport_sum::<A>(&headers);
    headers
}

/// Whether all checksums of a segment without payload are right.
pub fn checksums_valid<A: Family>(headers: &Segment<A>) -> bool {
    A::header_valid(&headers.network) && transport_sum::<A>(headers) == 0xffff
}

/// The frame that carries a segment.
pub fn frame<A: Family>(headers: &Segment<A>) -> Vec<u8> {
    let eth = EthernetHeader {
        ether_type: A::Header::ETHER_TYPE,
        ..EthernetHeader::default()
    };
    [bytes_of(&eth), bytes_of(headers)].concat()
}

/// The segment that a frame carries.
pub fn headers<A: Family>(frame: &[u8]) -> Segment<A> {
    let segment = &frame[EthernetHeader::LENGTH..];
    let length = Segment::<A>::LENGTH;
    assert_eq!(segment.len(), length, "no segment here has a payload");
    read_from(segment).expect("as long as headers")
}

fn transport_sum<A: Family>(headers: &Segment<A>) -> u16 {
    let Headers { network, tcp } = headers;
    let length = size_of::<TcpHeader>() as u16;
    nat::pseudo_sum(network.source(), network.destination(), length)
        .add(sum(bytes_of(tcp)))
        .fold()
}
