//! Properties of the way from bytes to bytes that hold for any bytes.

use lb_common::addr::{Address, Ipv4, Ipv6, Port};
use lb_common::emit::{self, ChecksumForm};
use lb_common::fake::{FakePacket, FakeTables, process};
use lb_common::flow::{FlowKey, Tick};
use lb_common::layout::{bytes_of, read_from};
use lb_common::nat::{self, PartialChecksum, Remainder, Rewrite};
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::Hop;
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::checksum::{Sum, sum, update};
use lb_common::wire::eth::{EthernetHeader, VlanTag};
use lb_common::wire::frame::Headers;
use lb_common::wire::ipv4::Ipv4Header;
use lb_common::wire::ipv6::Ipv6Header;
use lb_common::wire::network::NetworkHeader as _;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// A segment of a family of addresses.
type Segment<A> = Headers<<A as Address>::Header>;

/// The longest of both, in bytes.
const LONGEST: usize = Segment::<Ipv6>::LENGTH;

fn ipv4_keys() -> impl Strategy<Value = FlowKey<Ipv4>> {
    keys(any::<u32>().prop_map(Ipv4).boxed())
}

fn ipv6_keys() -> impl Strategy<Value = FlowKey<Ipv6>> {
    keys(any::<[u32; 4]>().prop_map(Ipv6).boxed())
}

fn keys<A: Address>(addresses: BoxedStrategy<A>) -> impl Strategy<Value = FlowKey<A>> {
    let ports = any::<(u16, u16)>();
    (addresses.clone(), addresses, ports).prop_map(|(source, destination, (from, to))| FlowKey {
        source,
        destination,
        source_port: Port(from),
        destination_port: Port(to),
    })
}

fn forms() -> impl Strategy<Value = ChecksumForm> {
    prop_oneof![Just(ChecksumForm::Complete), Just(ChecksumForm::Partial)]
}

/// How what has `from` is rewritten to what has `to`.
fn rewrite<A: Address>(from: &FlowKey<A>, to: &FlowKey<A>) -> Rewrite<A> {
    let (address_delta, port_delta) = nat::deltas(from, to);
    Rewrite {
        to: *to,
        address_delta,
        port_delta,
        hop: Hop::default(),
        local: 0,
    }
}

/// Whether the IPv4 header's checksum is right.
fn network_valid(header: &Ipv4Header) -> bool {
    sum(bytes_of(header)).fold() == 0xffff
}

/// Whether the TCP checksum of a segment without options and payload is right.
fn transport_valid<A: Address>(headers: &Segment<A>) -> bool {
    let Headers { network, tcp } = headers;
    let pseudo = nat::pseudo_sum(network.source(), network.destination(), 20);
    pseudo.add(sum(bytes_of(tcp))).fold() == 0xffff
}

/// Tables with a service on the listener that `headers` are for.
fn tables_for<A: Address>(headers: &Segment<A>) -> FakeTables<A> {
    let mut tables = FakeTables::default();
    let listener = Listener::new(headers.network.destination(), headers.tcp.destination);
    let service = Service {
        id: ServiceId(1),
        slots: 1,
        ..Service::default()
    };
    tables.services.insert(listener, service);
    tables
}

/// The frame that carries `segment`.
fn frame<A: Address>(segment: &Segment<A>) -> Vec<u8> {
    let eth = EthernetHeader {
        ether_type: A::Header::ETHER_TYPE,
        ..EthernetHeader::default()
    };
    [bytes_of(&eth), bytes_of(segment)].concat()
}

/// `frame` with as many VLAN tags as there are in `tags`.
fn tagged(mut frame: Vec<u8>, tags: &[u16]) -> Vec<u8> {
    for vlan in tags {
        let [high, low] = vlan.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
    frame
}

fn steered<A: Address>(frame: &[u8], tables: &FakeTables<A>) -> (Verdict, Vec<u8>) {
    let mut packet = FakePacket::new(frame);
    let departure = process(&mut packet, tables, PartialChecksum::Finish, Tick(0));
    (departure.verdict, packet.bytes())
}

/// Rewrites a segment; none where its checksum looks as if it were left to the
/// NIC, as one in 65536 does.
fn rewritten<A: Address>(
    mut segment: Segment<A>,
    from: &FlowKey<A>,
    to: &FlowKey<A>,
) -> Option<Segment<A>> {
    let rewrite = rewrite(from, to);
    let deltas = (rewrite.address_delta, rewrite.port_delta);
    let remainder = nat::update_checksum(&mut segment, deltas, PartialChecksum::Finish);
    nat::readdress(&mut segment, &rewrite);
    (remainder == Remainder::None).then_some(segment)
}

/// A segment there and back: valid on each leg, and as it was but for two hops.
fn there_and_back<A: Address>(
    original: Segment<A>,
    from: &FlowKey<A>,
    to: &FlowKey<A>,
) -> Result<Option<Segment<A>>, TestCaseError> {
    let hops = original.network.hops();
    let Some(there) = rewritten::<A>(original, from, to) else {
        return Ok(None);
    };
    prop_assert_eq!(there.key(), *to);
    prop_assert_eq!(there.network.hops(), hops - 1);
    prop_assert!(transport_valid::<A>(&there));
    let Some(back) = rewritten::<A>(there, to, from) else {
        return Ok(None);
    };
    prop_assert_eq!(back.key(), *from);
    prop_assert_eq!(back.tcp, original.tcp);
    Ok(Some(there))
}

/// Whatever the bytes, a RST that answers them is valid and goes back.
fn answered<A: Address>(bytes: &[u8], form: ChecksumForm) -> Result<Segment<A>, TestCaseError> {
    let segment: Segment<A> = read_from(bytes).expect("long enough");
    let mut reset = segment;
    emit::reset::<A>(&mut reset, form);
    prop_assert_eq!(reset.key(), segment.key().reversed());
    prop_assert!(transport_valid::<A>(&reset) || reset.checksum_partial());
    Ok(reset)
}

/// What the headers say of themselves decides whether they are answered.
fn answered_if_plausible<A: Address>(headers: &Segment<A>) -> Result<(), TestCaseError> {
    let frame = frame::<A>(headers);
    let (verdict, after) = steered(&frame, &tables_for::<A>(headers));
    if headers.check(Segment::<A>::LENGTH).is_err() {
        prop_assert_eq!(verdict.fate(), Fate::Pass);
        prop_assert_eq!(after, frame);
    } else {
        prop_assert_ne!(verdict.fate(), Fate::Pass);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_rewritten_ipv4_segment_is_valid_and_the_reverse_rewrite_restores_it(
        from in ipv4_keys(), to in ipv4_keys(), sequence: u32, ttl in 3_u8..,
    ) {
        let mut original = emit::provoking_ack(&from, sequence);
        // From one time to live to another: the sum of what the field loses.
        let word = |ttl: u8| u16::from_ne_bytes([ttl, original.network.protocol]);
        let delta = Sum::default().add_u16(!word(original.network.ttl)).add_u16(word(ttl));
        original.network.checksum = update(original.network.checksum, delta.fold());
        original.network.ttl = ttl;
        prop_assert!(network_valid(&original.network));
        prop_assert!(transport_valid::<Ipv4>(&original));
        if let Some(there) = there_and_back(original, &from, &to)? {
            prop_assert!(network_valid(&there.network));
        }
    }

    #[test]
    fn a_rewritten_ipv6_segment_is_valid_and_the_reverse_rewrite_restores_it(
        from in ipv6_keys(), to in ipv6_keys(), sequence: u32, hops in 3_u8..,
    ) {
        let mut original = emit::provoking_ack(&from, sequence);
        original.network.hop_limit = hops;
        prop_assert!(transport_valid::<Ipv6>(&original));
        there_and_back(original, &from, &to)?;
    }

    #[test]
    fn a_reset_is_valid_and_goes_back_where_the_segment_came_from(
        bytes in proptest::array::uniform32(any::<u8>()),
        more in proptest::array::uniform28(any::<u8>()),
        form in forms(),
    ) {
        let bytes = [&bytes[..], &more[..]].concat();
        let reset = answered::<Ipv4>(&bytes, form)?;
        prop_assert!(network_valid(&reset.network));
        let reset = answered::<Ipv6>(&bytes, form)?;
        prop_assert_eq!(reset.network.version_class, Ipv6Header::VERSION);
    }

    #[test]
    fn whatever_passes_is_not_touched_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ether_type in prop_oneof![
            Just(None),
            Just(Some([0x08, 0x00])),
            Just(Some([0x86, 0xdd])),
            Just(Some([0x81, 0x00])),
            Just(Some([0x88, 0xa8])),
        ],
    ) {
        let mut bytes = bytes;
        if let (Some(ether_type), Some(place)) = (ether_type, bytes.get_mut(12..14)) {
            place.copy_from_slice(&ether_type);
        }
        let (verdict, after) = steered(&bytes, &FakeTables::<Ipv4>::default());
        prop_assert_eq!(verdict.fate(), Fate::Pass);
        prop_assert_eq!(&after, &bytes);
        let (verdict, after) = steered(&bytes, &FakeTables::<Ipv6>::default());
        prop_assert_eq!(verdict.fate(), Fate::Pass);
        prop_assert_eq!(after, bytes);
    }

    #[test]
    fn a_frame_cut_short_anywhere_passes(
        key in ipv4_keys(), other in ipv6_keys(),
        tags in proptest::collection::vec(any::<u16>(), 0..=VlanTag::MAX),
        missing in 1..LONGEST,
    ) {
        let segment = emit::provoking_ack(&key, 1);
        let whole = tagged(frame::<Ipv4>(&segment), &tags);
        let cut = &whole[..whole.len().saturating_sub(missing)];
        let (verdict, after) = steered(cut, &tables_for::<Ipv4>(&segment));
        prop_assert_eq!(verdict.reason, Reason::Truncated);
        prop_assert_eq!(after, cut);

        let segment = emit::provoking_ack(&other, 1);
        let whole = tagged(frame::<Ipv6>(&segment), &tags);
        let cut = &whole[..whole.len().saturating_sub(missing)];
        let (verdict, after) = steered(cut, &tables_for::<Ipv6>(&segment));
        prop_assert_eq!(verdict.reason, Reason::Truncated);
        prop_assert_eq!(after, cut);
    }

    #[test]
    fn vlan_tags_stay_where_they_are(
        key in ipv6_keys(), tags in proptest::collection::vec(any::<u16>(), 0..=VlanTag::MAX),
    ) {
        let segment = emit::provoking_ack(&key, 1);
        let tables = tables_for::<Ipv6>(&segment);
        let (_, plain) = steered(&frame::<Ipv6>(&segment), &tables);
        let (verdict, after) = steered(&tagged(frame::<Ipv6>(&segment), &tags), &tables);
        prop_assert_eq!(verdict.reason, Reason::UnknownFlow);
        prop_assert_eq!(after, tagged(plain, &tags));
    }

    #[test]
    fn ipv4_headers_that_look_like_a_segment_are_answered_only_where_they_are_one(
        bytes in proptest::array::uniform32(any::<u8>()),
        more in proptest::array::uniform8(any::<u8>()),
        plain in any::<[bool; 4]>(),
    ) {
        let mut headers: Segment<Ipv4> =
            read_from(&[&bytes[..], &more[..]].concat()).expect("enough");
        // Fields of their own accord seldom have the values that make a segment.
        let [version, fragment, protocol, lengths] = plain;
        if version { headers.network.version_length = 0x45; }
        if fragment { headers.network.fragment = 0; }
        if protocol { headers.network.protocol = 6; }
        if lengths {
            headers.network.total_length = 40_u16.to_be();
            headers.tcp.data_offset = 0x50;
        }
        answered_if_plausible::<Ipv4>(&headers)?;
    }

    #[test]
    fn ipv6_headers_that_look_like_a_segment_are_answered_only_where_they_are_one(
        bytes in proptest::array::uniform32(any::<u8>()),
        more in proptest::array::uniform28(any::<u8>()),
        plain in any::<[bool; 3]>(),
    ) {
        let mut headers: Segment<Ipv6> =
            read_from(&[&bytes[..], &more[..]].concat()).expect("enough");
        let [version, protocol, lengths] = plain;
        if version { headers.network.version_class = 0x60; }
        if protocol { headers.network.next_header = 6; }
        if lengths {
            headers.network.payload_length = 20_u16.to_be();
            headers.tcp.data_offset = 0x50;
        }
        answered_if_plausible::<Ipv6>(&headers)?;
    }
}
