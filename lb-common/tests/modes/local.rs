//! Servers on the balancer's own host.

use lb_common::addr::Port;
use lb_common::flow::Progress;
use lb_common::nat::pseudo_sum;
use lb_common::target::Mode;
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::checksum::sum;
use lb_common::wire::network::NetworkHeader;
use lb_common::wire::tcp::Flags;

use crate::icmp::too_big;
use crate::world::*;

/// Whether the TCP checksum of a segment is right.
fn valid<A: Family>(frame: &[u8]) -> bool {
    let headers = headers::<A>(frame);
    let tcp = &frame[14 + usize::from(A::Header::LENGTH)..];
    let (source, destination) = (headers.network.source(), headers.network.destination());
    pseudo_sum(source, destination, tcp.len() as u16)
        .add(sum(tcp))
        .fold()
        == 0xffff
}

fn a_segment_is_delivered_to_the_server_here<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    let before = segment(&key::<A>(), Flags::ACK | Flags::PSH, (101, 501), 9);
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::Forward);
    assert_eq!(departure.verdict.fate(), Fate::Deliver);
    // The Ethernet addresses stay, the client's address too, and it is no hop.
    assert_eq!(after[..14], before[..14]);
    let headers = headers::<A>(&after);
    assert_eq!(headers.key(), to_server);
    assert_eq!(headers.network.source(), A::address(CLIENT));
    assert_eq!(headers.tcp.destination, Port::new(8080));
    assert_eq!(headers.network.hops(), 64);
    assert!(valid::<A>(&after));
}

fn a_reply_leaves_from_the_address_that_the_client_knows<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    let before = segment(
        &to_server.reversed(),
        Flags::ACK | Flags::PSH,
        (501, 101),
        9,
    );
    let (verdict, after) = leave(&tables, &before);
    assert_eq!(verdict.map(|verdict| verdict.reason), Some(Reason::Reply));
    assert_eq!(after[..14], before[..14]);
    let headers = headers::<A>(&after);
    assert_eq!(headers.key(), key::<A>().reversed());
    assert_eq!(headers.network.hops(), 64);
    assert!(valid::<A>(&after));
}

fn what_else_leaves_is_not_touched<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    let mut stranger = to_server.reversed();
    stranger.destination_port.0 ^= 1;
    let (nat, of_nat) = established::<A>(Mode::Nat);
    for (tables, key) in [
        (&tables, stranger),
        // A client's way to a server is none out of this host.
        (&tables, key()),
        (&nat, of_nat.reversed()),
    ] {
        let before = segment(&key, Flags::ACK, (1, 1), 0);
        assert_eq!(leave(tables, &before), (None, before));
    }
}

fn the_last_hop_is_not_needed_to_stay<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    let mut frame = segment(&key::<A>(), Flags::ACK, (101, 501), 0);
    let is_ipv4 = A::Header::LENGTH == 20;
    let hops = if is_ipv4 { 14 + 8 } else { 14 + 7 };
    frame[hops] = 1;
    let (departure, after) = pass(&tables, &frame);
    assert_eq!(departure.verdict.fate(), Fate::Deliver);
    assert_eq!(headers::<A>(&after).key(), to_server);
}

fn both_fins_close_the_connection<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    assert_eq!(tables.open_at(ID), 1);
    let fin = Flags::FIN | Flags::ACK;
    let _ = leave(&tables, &segment(&to_server.reversed(), fin, (501, 101), 0));
    let _ = pass(&tables, &segment(&key::<A>(), fin, (101, 502), 0));
    assert_eq!(tables.open_at(ID), 0);
    let flow = tables.flow_at(&key()).expect("a flow");
    assert!(flow.progress().contain(Progress::SERVER_FIRST));
}

fn a_cut_servers_reply_goes_nowhere_and_its_client_is_reset<A: Family>() {
    let (mut tables, to_server) = established::<A>(Mode::Local);
    tables.cut(ID);
    let reply = segment(&to_server.reversed(), Flags::ACK, (501, 101), 9);
    let (verdict, _) = leave(&tables, &reply);
    let verdict = verdict.expect("a verdict");
    assert_eq!(
        (verdict.reason, verdict.fate()),
        (Reason::CutOff, Fate::Drop)
    );
    let (departure, _) = pass(&tables, &segment(&key::<A>(), Flags::ACK, (101, 501), 0));
    assert_eq!(departure.verdict.fate(), Fate::Reset);
}

fn a_refusal_of_the_server_reaches_the_client<A: Family>() {
    let tables = tables::<A>(Mode::Local);
    let _ = pass(&tables, &segment(&key::<A>(), Flags::SYN, (100, 0), 0));
    let to_server = rewritten(&tables, &key());
    let refusal = segment(&to_server.reversed(), Flags::RST | Flags::ACK, (0, 101), 0);
    let (verdict, after) = leave(&tables, &refusal);
    assert_eq!(
        verdict.map(|verdict| verdict.reason),
        Some(Reason::BackendRefused)
    );
    assert_eq!(headers::<A>(&after).key(), key::<A>().reversed());
    assert!(tables.pending.borrow().is_empty());
}

fn a_clients_path_is_too_narrow_for_a_server_here<A: Family>() {
    let (tables, to_server) = established::<A>(Mode::Local);
    let before = too_big(&key::<A>().reversed());
    let (departure, after) = pass(&tables, &before);
    assert_eq!(departure.verdict.reason, Reason::IcmpTranslated);
    assert_eq!(departure.verdict.fate(), Fate::Deliver);
    assert_eq!(after[..14], before[..14]);
    assert_eq!(crate::icmp::error::<A>(&after).key(), to_server.reversed());
}

on_both_families! {
    a_segment_is_delivered_to_the_server_here
    a_reply_leaves_from_the_address_that_the_client_knows
    what_else_leaves_is_not_touched
    the_last_hop_is_not_needed_to_stay
    both_fins_close_the_connection
    a_cut_servers_reply_goes_nowhere_and_its_client_is_reset
    a_refusal_of_the_server_reaches_the_client
    a_clients_path_is_too_narrow_for_a_server_here
}
