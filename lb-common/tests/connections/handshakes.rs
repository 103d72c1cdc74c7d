//! What becomes of a handshake that does not go as it should.

use lb_common::addr::Ipv4;
use lb_common::flow::Progress;
use lb_common::service::{Algorithm, ServiceId};
use lb_common::target::{Mode, TargetId};
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::tcp::Flags;

use crate::invariants::{Moment, Orphans, check_accounts, check_tables};
use crate::world::{Happening, Number, Setup};

type World = crate::world::World<Ipv4>;

const SYN_ACK: Happening = Happening::Server(0, Flags(0x12));

/// A world in which the first target has all slots.
fn world(setup: Setup) -> World {
    let slots: Vec<_> = (0..4)
        .map(|slot| Happening::Slot(ServiceId(1), slot, 1))
        .collect();
    World::after(setup, &slots)
}

fn client(world: &mut World, client: u8, flags: Flags) -> Verdict {
    let segment = Happening::Client(client, flags, Number::Right);
    world.let_happen(&segment).expect("it is a packet").verdict
}

fn hand_over(world: &mut World) {
    for slot in 0..4 {
        world.let_happen(&Happening::Slot(ServiceId(1), slot, 2));
    }
}

fn assert_sound(world: &World) {
    let moment = Moment::of(world);
    check_tables(world, &moment, &Orphans::default()).expect("the tables are sound");
    check_accounts(world, &moment).expect("the accounts are right");
}

#[test]
fn a_syn_that_is_sent_again_meets_the_same_target_by_whatever_algorithm() {
    for number in 0..6 {
        let mut world = World::new(Setup {
            algorithm: Algorithm::from_number(number),
            ..Setup::default()
        });
        let opened = client(&mut world, 0, Flags::SYN);
        for _ in 0..10 {
            let again = client(&mut world, 0, Flags::SYN);
            assert_eq!(again.reason, Reason::SynUnanswered);
            assert_eq!(again.target, opened.target);
        }
        world.let_happen(&SYN_ACK);
        let again = client(&mut world, 0, Flags::SYN);
        assert_eq!(again.reason, Reason::SynRetransmitted);
        assert_eq!(again.target, opened.target);
        assert_sound(&world);
    }
}

#[test]
fn a_syn_that_is_sent_again_selects_again_where_its_target_accepts_no_more() {
    let mut world = world(Setup::default());
    assert_eq!(client(&mut world, 0, Flags::SYN).target, TargetId(1));
    hand_over(&mut world);
    let again = client(&mut world, 0, Flags::SYN);
    assert_eq!(again.reason, Reason::SynUnanswered, "the slot is not asked");
    assert_eq!(again.target, TargetId(1));
    world.let_happen(&Happening::Accept(1, false));
    let again = client(&mut world, 0, Flags::SYN);
    assert_eq!((again.reason, again.target), (Reason::Opened, TargetId(2)));
    assert_eq!(world.tables.pending.borrow().len(), 2, "no port leaks");
    assert_sound(&world);
}

#[test]
fn a_handshake_that_was_answered_is_finished_while_its_target_drains() {
    let mut world = world(Setup::default());
    let _ = client(&mut world, 0, Flags::SYN);
    world.let_happen(&SYN_ACK);
    world.let_happen(&Happening::Accept(1, false));
    hand_over(&mut world);
    let again = client(&mut world, 0, Flags::SYN);
    assert_eq!(again.reason, Reason::SynRetransmitted);
    let ack = client(&mut world, 0, Flags::ACK);
    assert_eq!((ack.reason, ack.target), (Reason::Established, TargetId(1)));
}

#[test]
fn a_syn_that_is_sent_again_after_a_refusal_selects_again() {
    let mut world = world(Setup::default());
    let _ = client(&mut world, 0, Flags::SYN);
    let refusal = Happening::Server(0, Flags::RST | Flags::ACK);
    let refused = world.let_happen(&refusal).expect("a packet").verdict;
    assert_eq!(refused.reason, Reason::BackendRefused);
    assert!(world.tables.pending.borrow().is_empty());
    hand_over(&mut world);
    let again = client(&mut world, 0, Flags::SYN);
    assert_eq!((again.reason, again.target), (Reason::Opened, TargetId(2)));
}

#[test]
fn a_syn_that_is_sent_again_is_refused_where_nobody_is_left() {
    let mut world = world(Setup::default());
    let _ = client(&mut world, 0, Flags::SYN);
    for target in 1..=3 {
        world.let_happen(&Happening::Accept(target, false));
    }
    let again = client(&mut world, 0, Flags::SYN);
    assert_eq!(
        (again.reason, again.fate()),
        (Reason::NoTarget, Fate::Reset)
    );
    assert!(world.tables.pending.borrow().is_empty());
}

/// Two of three handshakes at once are finished, where each was let in while
/// nothing was open.
fn two_of_three_are_finished(setup: Setup, refusal: Reason) {
    let mut world = world(setup);
    for client in 0..3 {
        world.let_happen(&Happening::Client(client, Flags::SYN, Number::Right));
        world.let_happen(&Happening::Server(client, Flags(0x12)));
    }
    let reasons = [0, 1, 2].map(|n| client(&mut world, n, Flags::ACK).reason);
    let [first, second, third] = reasons;
    assert_eq!([first, second], [Reason::Established; 2]);
    assert_eq!(third, refusal);
    assert_eq!(world.tables.open_at(TargetId(1)), 2);
    assert_eq!(world.flows().len(), 4);
    assert!(world.tables.pending.borrow().is_empty());
    assert_sound(&world);
}

#[test]
fn no_more_handshakes_are_finished_than_each_limit_allows() {
    let none = Setup::default();
    for (setup, refusal) in [
        (
            Setup {
                target_max: 2,
                ..none
            },
            Reason::ServersFull,
        ),
        (
            Setup {
                service_max: 2,
                ..none
            },
            Reason::ServiceFull,
        ),
        (
            Setup {
                connections_max: 2,
                ..none
            },
            Reason::TableFull,
        ),
    ] {
        two_of_three_are_finished(setup, refusal);
    }
}

#[test]
fn of_two_handshakes_of_one_source_one_is_finished_where_it_may_have_one() {
    let mut world = world(Setup {
        source_max: 1,
        ..Setup::default()
    });
    // Clients 0 and 4 are one source.
    for client in [0, 4] {
        world.let_happen(&Happening::Client(client, Flags::SYN, Number::Right));
        world.let_happen(&Happening::Server(client, Flags(0x12)));
    }
    let reasons = [0, 4].map(|n| client(&mut world, n, Flags::ACK).reason);
    assert_eq!(reasons, [Reason::Established, Reason::SourceFull]);
    assert_sound(&world);
}

#[test]
fn the_time_of_a_handshake_is_measured_once() {
    let mut world = world(Setup::default());
    world.let_happen(&Happening::Wait(10_000));
    let _ = client(&mut world, 0, Flags::SYN);
    world.let_happen(&Happening::Wait(250));
    world.let_happen(&SYN_ACK);
    world.let_happen(&Happening::Wait(9000));
    world.let_happen(&SYN_ACK);
    let load = world.tables.load.borrow()[&TargetId(1)];
    assert_eq!(load.latency, 250);
}

#[test]
fn an_ack_with_a_fin_begins_the_end_of_a_connection_whose_replies_come_by() {
    let mut world = world(Setup::default());
    let _ = client(&mut world, 0, Flags::SYN);
    world.let_happen(&SYN_ACK);
    let _ = client(&mut world, 0, Flags::FIN | Flags::ACK);
    assert_eq!(world.progress(0), Some(Progress::CLIENT_FIN));
    assert_eq!(world.tables.open_at(TargetId(1)), 1);
}

#[test]
fn an_ack_with_a_fin_is_the_end_of_a_connection_whose_replies_do_not_come_by() {
    let mut world = world(Setup {
        modes: [Mode::Dsr; 3],
        ..Setup::default()
    });
    let _ = client(&mut world, 0, Flags::SYN);
    let _ = client(&mut world, 0, Flags::FIN | Flags::ACK);
    assert!(world.progress(0).expect("it is known").closed());
    assert_eq!(world.tables.open_at(TargetId(1)), 0);
    assert_sound(&world);
}
