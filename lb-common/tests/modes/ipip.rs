//! Tunnels to servers.

use lb_common::addr::Address;
use lb_common::layout::{bytes_of, read_from};
use lb_common::target::Mode;
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::checksum::sum;
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::icmp::Notice;
use lb_common::wire::network::NetworkHeader;
use lb_common::wire::tcp::Flags;

use crate::icmp::{icmp_sum, too_big};
use crate::world::*;

/// The outer header of a frame, and the frame as it is when unwrapped.
fn unwrap<A: Address>(frame: &[u8], link: usize) -> (A::Header, Vec<u8>) {
    let outer: A::Header = read_from(&frame[link..]).expect("an outer header");
    let length = usize::from(A::Header::LENGTH);
    if A::Header::ETHER_TYPE == EthernetHeader::IPV4 {
        assert_eq!(sum(bytes_of(&outer)).fold(), 0xffff);
    }
    assert_eq!(outer.packet_length() as usize, frame.len() - link);
    (outer, [&frame[..link], &frame[link + length..]].concat())
}

fn a_segment_travels_inside_of_another_packet<A: Family>() {
    let (tables, _) = established::<A>(Mode::Ipip);
    let before = segment(&key::<A>(), Flags::ACK | Flags::PSH, (101, 501), 33);
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::Forward);
    assert_eq!(departure.ifindex, TO_SERVER.ifindex);
    let (outer, inner) = unwrap::<A>(&after, 14);
    assert_eq!(outer.source(), A::address(TUNNEL));
    assert_eq!(outer.destination(), A::address(SERVER));
    assert_eq!(outer.hops(), 64);
    assert_eq!(inner[..6], bytes_of(&TO_SERVER)[..6]);
    let (was, is) = (headers::<A>(&before), headers::<A>(&inner));
    assert_eq!(is.network.hops(), was.network.hops() - 1);
    assert_eq!(is.key(), was.key());
    let tcp = 14 + usize::from(A::Header::LENGTH);
    assert_eq!(inner[tcp..], before[tcp..]);
}

fn vlan_tags_stay_in_front<A: Family>() {
    let (tables, _) = established::<A>(Mode::Ipip);
    let plain = segment(&key::<A>(), Flags::ACK, (101, 501), 5);
    let [outer, inner] = [[0x88, 0xa8, 0, 5], [0x81, 0, 0, 6]];
    let before = [&plain[..12], &outer, &inner, &plain[12..]].concat();
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::Forward);
    assert_eq!(after[12..22], before[12..22]);
    let (_, unwrapped) = unwrap::<A>(&after, 22);
    assert_eq!(unwrapped.len(), before.len());
}

fn what_does_not_fit_is_answered_with_the_length_that_does<A: Family>() {
    let (tables, _) = established::<A>(Mode::Ipip);
    let headers_length = usize::from(A::Header::LENGTH) + 20;
    let fits = 1500 - usize::from(A::Header::LENGTH);
    let segment =
        |length: usize| segment(&key::<A>(), Flags::ACK, (101, 501), length - headers_length);
    let (departure, after) = pass(&tables, &segment(fits));
    assert_eq!(departure.verdict.reason, Reason::Forward);
    assert_eq!(after.len(), 14 + 1500);

    let before = segment(fits + 1);
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::TooBig);
    assert_eq!(departure.verdict.fate(), Fate::Notify);
    assert_eq!(departure.ifindex, 1);
    assert_eq!(after[..6], before[6..12]);
    let notice: Notice<A::Header> = read_from(&after[14..]).expect("a notice");
    assert_eq!(notice.network.source(), A::address(VIP));
    assert_eq!(notice.network.destination(), A::address(CLIENT));
    assert_eq!((notice.icmp.kind, notice.icmp.code), A::Header::TOO_BIG);
    assert_eq!(notice.icmp.rest, [0, (fits as u16).to_be()]);
    let (network, message) = after[14..].split_at(usize::from(A::Header::LENGTH));
    assert_eq!(
        network.len() + message.len(),
        notice.network.packet_length() as usize
    );
    assert_eq!(icmp_sum::<A>(&notice.network, message), 0xffff);
    assert_eq!(message[8..], before[14..14 + headers_length]);
}

fn an_error_for_the_server_travels_inside_too<A: Family>() {
    let (tables, _) = established::<A>(Mode::Ipip);
    let (departure, after) = pass(&tables, &too_big(&key::<A>().reversed()));
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    let (outer, inner) = unwrap::<A>(&after, 14);
    assert_eq!(outer.destination(), A::address(SERVER));
    let inner: A::Header = read_from(&inner[14..]).expect("a header");
    assert_eq!(inner.source(), A::address(ROUTER));
    assert_eq!(inner.destination(), A::address(VIP));
}

on_both_families! {
    a_segment_travels_inside_of_another_packet
    vlan_tags_stay_in_front
    what_does_not_fit_is_answered_with_the_length_that_does
    an_error_for_the_server_travels_inside_too
}
