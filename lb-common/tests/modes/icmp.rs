//! ICMP errors about our connections.

use lb_common::addr::Address;
use lb_common::flow::FlowKey;
use lb_common::layout::{bytes_of, read_from};
use lb_common::target::Mode;
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::checksum::sum;
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::icmp::IcmpError;
use lb_common::wire::network::NetworkHeader;
use lb_common::wire::tcp::Flags;

use crate::world::*;

/// "Fragmentation needed" or "packet too big", 1400 bytes, from a router to
/// who sent a segment with `key`, which is quoted with 100 bytes of payload.
pub fn too_big<A: Family>(key: &FlowKey<A>) -> Vec<u8> {
    let segment = segment(key, Flags::ACK, (1000, 2000), 100);
    let mut message = match A::Header::ETHER_TYPE {
        EthernetHeader::IPV4 => vec![3, 4, 0, 0, 0, 0],
        _ => vec![2, 0, 0, 0, 0, 0],
    };
    message.extend(1400_u16.to_be_bytes());
    message.extend(&segment[14..]);
    let length = message.len() as u16;
    let network = A::Header::fresh(A::address(ROUTER), key.source, A::Header::ICMP, length);
    let checksum = icmp_sum::<A>(&network, &message);
    message[2..4].copy_from_slice(&(!checksum).to_ne_bytes());
    frame(A::Header::ETHER_TYPE, &network, &message)
}

/// The sum that ICMP's checksum is over.
pub fn icmp_sum<A: Address>(network: &A::Header, message: &[u8]) -> u16 {
    let sum = sum(message);
    if A::Header::ETHER_TYPE == EthernetHeader::IPV4 {
        return sum.fold();
    }
    sum.add(network.source().sum())
        .add(network.destination().sum())
        .add_u16((message.len() as u16).to_be())
        .add_u16(58_u16.to_be())
        .fold()
}

pub fn error<A: Address>(frame: &[u8]) -> IcmpError<A::Header> {
    let error: IcmpError<A::Header> = read_from(&frame[14..]).expect("long enough");
    let length = usize::from(A::Header::LENGTH);
    let (network, message) = frame[14..].split_at(length);
    assert_eq!(icmp_sum::<A>(&error.network, message), 0xffff);
    if A::Header::ETHER_TYPE == EthernetHeader::IPV4 {
        assert_eq!(sum(network).fold(), 0xffff);
        assert_eq!(sum(bytes_of(&error.quoted)).fold(), 0xffff);
    }
    error
}

fn a_servers_path_is_too_narrow<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Nat);
    let before = too_big(&to_server);
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    assert_eq!(departure.ifindex, TO_CLIENT.ifindex);
    let error = error::<A>(&after);
    assert_eq!(error.network.source(), A::address(VIP));
    assert_eq!(error.network.destination(), A::address(CLIENT));
    assert_eq!(error.network.hops(), 63);
    assert_eq!(error.key(), key());
    assert_eq!(error.icmp.rest, [0, 1400_u16.to_be()]);
    // What is not rewritten stays as it was.
    assert_eq!(after.len(), before.len());
    assert_eq!(
        after[14 + size_of_val(&error)..],
        before[14 + size_of_val(&error)..]
    );
}

fn a_clients_path_is_too_narrow<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Nat);
    let (departure, after) = pass(&tables, &too_big(&key::<A>().reversed()));
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    assert_eq!(departure.ifindex, TO_SERVER.ifindex);
    let error = error::<A>(&after);
    assert_eq!(error.network.source(), to_server.source);
    assert_eq!(error.network.destination(), to_server.destination);
    assert_eq!(error.key(), to_server.reversed());
    assert_eq!(after[..6], bytes_of(&TO_SERVER)[..6]);
}

fn a_direct_server_gets_the_error_as_it_came<A: Family>() {
    let (tables, _) = established::<A>(Mode::Dsr);
    let before = too_big(&key::<A>().reversed());
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    assert_eq!(departure.ifindex, TO_SERVER.ifindex);
    let error = error::<A>(&after);
    assert_eq!(error.network.source(), A::address(ROUTER));
    assert_eq!(error.network.hops(), 63);
    assert_eq!(
        after[14 + usize::from(A::Header::LENGTH)..],
        before[14 + usize::from(A::Header::LENGTH)..]
    );
}

fn a_handshakes_error_is_translated_too<A: Family>() {
    let tables = tables::<A>(Mode::Nat);
    let _ = pass(&tables, &segment(&key::<A>(), Flags::SYN, (100, 0), 0));
    let to_server = rewritten(&tables, &key());
    let (departure, after) = pass(&tables, &too_big(&to_server));
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    assert_eq!(error::<A>(&after).key(), key());
}

fn what_is_not_about_us_passes_untouched<A: Family>() {
    let (mut tables, to_server) = established::<A>(Mode::Nat);
    let mut stranger = to_server;
    stranger.source_port.0 ^= 1;
    let mut ping = too_big(&to_server);
    ping[14 + usize::from(A::Header::LENGTH)] = 8;
    let mut quotes_udp = too_big(&to_server);
    let quoted = 14 + usize::from(A::Header::LENGTH) + 8;
    let protocol = if A::Header::ETHER_TYPE == EthernetHeader::IPV4 {
        9
    } else {
        6
    };
    quotes_udp[quoted + protocol] = 17;
    let mut short = too_big(&to_server);
    short.truncate(quoted + usize::from(A::Header::LENGTH) + 7);
    for frame in [too_big(&stranger), ping, quotes_udp, short] {
        let (departure, after) = pass(&tables, &frame);
        assert_eq!(departure.verdict.fate(), Fate::Pass);
        assert_eq!(after, frame);
    }
    tables.cut(ID);
    let stale = too_big(&to_server);
    assert_eq!(pass(&tables, &stale).1, stale);
}

on_both_families! {
    a_servers_path_is_too_narrow
    a_clients_path_is_too_narrow
    a_direct_server_gets_the_error_as_it_came
    a_handshakes_error_is_translated_too
    what_is_not_about_us_passes_untouched
}
