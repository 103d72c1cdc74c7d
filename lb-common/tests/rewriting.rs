//! Properties of the way from bytes to bytes that hold for any bytes.

use lb_common::addr::{Ipv4, Port};
use lb_common::datapath::process;
use lb_common::emit;
use lb_common::fake::{FakePacket, FakeTables};
use lb_common::flow::{FlowKey, Tick};
use lb_common::layout::{bytes_of, read_from};
use lb_common::nat::{self, PartialChecksum, Remainder, Rewrite};
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::Hop;
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::checksum::sum;
use lb_common::wire::frame::Headers;
use proptest::prelude::*;

fn keys() -> impl Strategy<Value = FlowKey<Ipv4>> {
    any::<(u32, u32, u16, u16)>().prop_map(|(source, destination, from, to)| FlowKey {
        source: Ipv4(source),
        destination: Ipv4(destination),
        source_port: Port(from),
        destination_port: Port(to),
    })
}

fn hooks() -> impl Strategy<Value = PartialChecksum> {
    prop_oneof![Just(PartialChecksum::Finish), Just(PartialChecksum::Keep)]
}

/// How what has `from` is rewritten to what has `to`.
fn rewrite(from: &FlowKey<Ipv4>, to: &FlowKey<Ipv4>) -> Rewrite<Ipv4> {
    let (network_delta, transport_delta) = nat::deltas(from, to);
    Rewrite {
        to: *to,
        network_delta,
        transport_delta,
        hop: Hop::default(),
    }
}

/// Whether the IPv4 header's checksum is right, and the TCP checksum of a
/// segment without options and payload.
fn valid(headers: &Headers) -> [bool; 2] {
    let bytes = bytes_of(headers);
    let (ip, tcp) = bytes[14..].split_at(20);
    let pseudo = nat::pseudo_sum(headers.ip.source(), headers.ip.destination(), 20);
    [sum(ip), pseudo.add(sum(tcp))].map(|sum| sum.fold() == 0xffff)
}

/// Tables with a service on the listener that `headers` are for.
fn tables_for(headers: &Headers) -> FakeTables {
    let mut tables = FakeTables::default();
    let listener = Listener::new(headers.ip.destination(), headers.tcp.destination);
    let service = Service::new(ServiceId(1), 0, 1);
    tables.services.insert(listener, service);
    tables
}

proptest! {
    #[test]
    fn a_rewritten_segment_is_valid_and_the_reverse_rewrite_restores_it(
        from in keys(), to in keys(), sequence: u32, ttl in 3_u8..,
    ) {
        let mut original = emit::provoking_ack(&from, Hop::default(), sequence);
        original.ip.checksum = {
            // From one time to live to another: the sum of what the field loses.
            let word = |ttl: u8| u16::from_ne_bytes([ttl, original.ip.protocol]);
            let delta = lb_common::wire::checksum::Sum::default()
                .add_u16(!word(original.ip.ttl))
                .add_u16(word(ttl));
            lb_common::wire::checksum::update(original.ip.checksum, delta.fold())
        };
        original.ip.ttl = ttl;
        prop_assert_eq!(valid(&original), [true, true]);

        let mut segment = original;
        let there = nat::apply(&mut segment, &rewrite(&from, &to), PartialChecksum::Finish);
        prop_assume!(there == Remainder::None);
        prop_assert_eq!(segment.key(), to);
        prop_assert_eq!(segment.ip.ttl, ttl - 1);
        prop_assert_eq!(valid(&segment), [true, true]);

        let back = nat::apply(&mut segment, &rewrite(&to, &from), PartialChecksum::Finish);
        prop_assume!(back == Remainder::None);
        prop_assert_eq!(segment.tcp, original.tcp);
        prop_assert_eq!(segment.key(), from);
        prop_assert_eq!(valid(&segment), [true, true]);
    }

    #[test]
    fn a_reset_is_valid_and_goes_back_where_the_segment_came_from(
        bytes in proptest::array::uniform32(any::<u8>()),
        more in proptest::array::uniform22(any::<u8>()),
        finish in hooks(),
    ) {
        let bytes = [&bytes[..], &more[..]].concat();
        let segment: Headers = read_from(&bytes).expect("long enough");
        let mut reset = segment;
        emit::reset(&mut reset, finish);
        prop_assert_eq!(reset.key(), segment.key().reversed());
        prop_assert_eq!(reset.eth.destination, segment.eth.source);
        prop_assert_eq!(reset.eth.source, segment.eth.destination);
        let [network, transport] = valid(&reset);
        prop_assert!(network);
        prop_assert!(transport || reset.checksum_partial());
    }

    #[test]
    fn whatever_passes_is_not_touched_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), finish in hooks(),
    ) {
        let mut packet = FakePacket::new(&bytes);
        let verdict = process(&mut packet, &FakeTables::default(), finish, || Tick(0));
        prop_assert_eq!(verdict.fate(), Fate::Pass);
        prop_assert_eq!(packet.bytes(), bytes);
    }

    #[test]
    fn a_segment_cut_short_anywhere_passes(key in keys(), length in 0_usize..Headers::LENGTH) {
        let segment = emit::provoking_ack(&key, Hop::default(), 1);
        let bytes = &bytes_of(&segment)[..length];
        let mut packet = FakePacket::new(bytes);
        let tables = tables_for(&segment);
        let verdict = process(&mut packet, &tables, PartialChecksum::Finish, || Tick(0));
        prop_assert_eq!(verdict.reason, Reason::Truncated);
        prop_assert_eq!(packet.bytes(), bytes);
    }

    #[test]
    fn headers_that_look_like_a_segment_are_answered_only_where_they_are_one(
        bytes in proptest::array::uniform32(any::<u8>()),
        more in proptest::array::uniform22(any::<u8>()),
        plain in any::<[bool; 5]>(),
    ) {
        let mut headers: Headers = read_from(&[&bytes[..], &more[..]].concat()).expect("enough");
        // Fields of their own accord seldom have the values that make a segment.
        let [ethernet, version, fragment, protocol, lengths] = plain;
        if ethernet { headers.eth.ether_type = 0x0800_u16.to_be(); }
        if version { headers.ip.version_length = 0x45; }
        if fragment { headers.ip.fragment = 0; }
        if protocol { headers.ip.protocol = 6; }
        if lengths {
            headers.ip.total_length = 40_u16.to_be();
            headers.tcp.data_offset = 0x50;
        }
        let tables = tables_for(&headers);
        let mut packet = FakePacket::new(bytes_of(&headers));
        let verdict = process(&mut packet, &tables, PartialChecksum::Finish, || Tick(0));
        if plain.contains(&false) && headers.parse(Headers::LENGTH).is_err() {
            prop_assert_eq!(verdict.fate(), Fate::Pass);
            prop_assert_eq!(packet.bytes(), bytes_of(&headers));
        } else {
            prop_assert_ne!(verdict.fate(), Fate::Pass);
        }
    }
}
