//! What counts as open, from the end of a handshake to the end of all.

use lb_common::addr::Ipv4;
use lb_common::flow::{Direction, Flow, Tick};
use lb_common::target::{Mode, TargetId};
use lb_common::wire::tcp::Flags;

use crate::world::{Happening, Number, Setup, client_key, service_of};

type World = crate::world::World<Ipv4>;

const FIN: Flags = Flags(0x11);

fn open(world: &World) -> u32 {
    let in_all = world.tables.open_at(TargetId::NONE);
    let each = (1..=3).map(|id| world.tables.open_at(TargetId(id)));
    assert_eq!(each.sum::<u32>(), in_all);
    in_all
}

/// A world with one connection.
fn connected(setup: Setup) -> World {
    let mut world = World::new(setup);
    world.connect(0).expect("there is room");
    assert_eq!(open(&world), 1);
    world
}

fn by_client(world: &mut World, flags: Flags) {
    world.let_happen(&Happening::Client(0, flags, Number::Right));
}

fn by_server(world: &mut World, flags: Flags) {
    world.let_happen(&Happening::Server(0, flags));
}

#[test]
fn a_handshake_does_not_count_before_it_is_finished() {
    let mut world = World::new(Setup::default());
    by_client(&mut world, Flags::SYN);
    by_server(&mut world, Flags::SYN | Flags::ACK);
    assert_eq!(open(&world), 0);
    by_client(&mut world, Flags::ACK);
    assert_eq!(open(&world), 1);
}

#[test]
fn a_connection_counts_until_both_have_closed_and_is_not_closed_twice() {
    let mut world = connected(Setup::default());
    by_server(&mut world, FIN);
    by_server(&mut world, FIN);
    assert_eq!(open(&world), 1);
    by_client(&mut world, FIN);
    assert_eq!(open(&world), 0);
    by_client(&mut world, FIN);
    by_client(&mut world, Flags::RST);
    by_server(&mut world, Flags::RST);
    world.let_happen(&Happening::Reap);
    assert_eq!(open(&world), 0);
    assert!(world.flows().is_empty());
}

#[test]
fn a_client_alone_closes_a_connection_whose_replies_do_not_come_by() {
    let mut world = connected(Setup {
        modes: [Mode::Dsr; 3],
        ..Setup::default()
    });
    by_client(&mut world, FIN);
    assert_eq!(open(&world), 0);
}

#[test]
fn a_reset_by_either_closes_a_connection() {
    for end in [by_client, by_server] {
        let mut world = connected(Setup::default());
        end(&mut world, Flags::RST);
        assert_eq!(open(&world), 0);
    }
}

#[test]
fn a_connection_that_was_cut_counts_until_it_is_forgotten_or_replaced() {
    let mut world = connected(Setup::default());
    let target = world.flows()[0].1.target();
    world.let_happen(&Happening::Cut(target.0));
    by_client(&mut world, Flags::ACK);
    assert_eq!(open(&world), 1);
    let mut replaced = connected(Setup::default());
    replaced.let_happen(&Happening::Cut(target.0));
    by_client(&mut replaced, Flags::SYN);
    assert_eq!(open(&replaced), 0);
    world.let_happen(&Happening::Reap);
    assert_eq!(open(&world), 0);
}

#[test]
fn an_idle_connection_is_forgotten_by_either_half_and_only_while_it_is_idle() {
    let setup = Setup {
        source_max: 5,
        ..Setup::default()
    };
    for half in 0..2 {
        let world = connected(setup);
        let (key, flow) = world.flows()[half];
        let earlier = flow.last_seen.minus(1);
        assert!(
            !world.tables.reap(&key, earlier),
            "a segment passed meanwhile"
        );
        let (other, _) = world.flows()[1 - half];
        let seen = |tick| {
            let flows = world.tables.flows.borrow();
            let mut flow = flows[&other].get();
            flow.last_seen = tick;
            flows[&other].set(flow);
        };
        seen(Tick(flow.last_seen.0 + 1));
        assert!(
            !world.tables.reap(&key, flow.last_seen),
            "one passed in the other direction"
        );
        seen(flow.last_seen);
        assert_eq!((open(&world), world.flows().len()), (1, 2));
        assert!(world.tables.reap(&key, flow.last_seen));
        assert!(!world.tables.reap(&key, flow.last_seen), "it is gone");
        assert_eq!((open(&world), world.flows().len()), (0, 0));
        let sources = world.tables.sources.borrow();
        assert!(sources.values().all(|source| source.get().open == 0));
    }
}

#[test]
fn half_a_pair_is_forgotten_without_harm_to_another() {
    for half in 0..2 {
        let world = connected(Setup::default());
        let (key, flow) = world.flows()[half];
        let pair = world.pair_key(&key, &flow);
        world.tables.flows.borrow_mut().remove(&pair);
        assert!(world.tables.reap(&key, flow.last_seen));
        assert!(world.flows().is_empty());
    }
}

#[test]
fn half_a_pair_is_forgotten_where_the_other_key_serves_another_connection() {
    let world = connected(Setup::default());
    let key = client_key(0);
    let flow = world.tables.flow_at(&key).expect("it is there");
    let reply = world.pair_key(&key, &flow);
    {
        let flows = world.tables.flows.borrow();
        let of = flows[&reply].get();
        let (back, owner) = (client_key::<Ipv4>(1).reversed(), of.owner());
        let another = Flow::new(&reply, &back, Direction::Reply, owner, of.hop, of.last_seen);
        flows[&reply].set(another);
    }
    assert!(world.tables.reap(&key, flow.last_seen));
    assert!(world.tables.flow_at(&reply).is_some());
    assert!(world.tables.flow_at(&key).is_none());
}

#[test]
fn services_are_counted_apart() {
    let mut world = World::new(Setup::default());
    for client in [0, 1, 5] {
        world.connect(client).expect("there is room");
    }
    let load = world.tables.service_load.borrow();
    assert_eq!(load[&service_of(0)], 2);
    assert_eq!(load[&service_of(5)], 1);
}

#[test]
fn a_client_that_comes_back_from_its_port_is_counted_anew() {
    let mut world = connected(Setup::default());
    by_client(&mut world, Flags::RST);
    world.connect(0).expect("there is room");
    assert_eq!(open(&world), 1);
    let flow = world.tables.flow_at(&client_key(0)).expect("it is there");
    assert!(!flow.progress().closed());
}
