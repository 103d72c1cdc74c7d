//! Who is let in: rules, rates and limits.

use lb_common::addr::Ipv4;
use lb_common::service::{Options, Rule, Service, ServiceId};
use lb_common::target::{Mode, TargetId};
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::tcp::Flags;

use crate::frame::Family as _;
use crate::world::{Happening, Number, Setup, client_key};

type World = crate::world::World<Ipv4>;

fn syn(world: &mut World, client: u8) -> Verdict {
    let syn = Happening::Client(client, Flags::SYN, Number::Right);
    world.let_happen(&syn).expect("it is a packet").verdict
}

fn change(world: &mut World, change: impl Fn(&mut Service)) {
    world.tables.services.values_mut().for_each(change);
}

fn rule(world: &mut World, client: u8, rule: Rule) {
    let source = client_key::<Ipv4>(client).source;
    world.tables.rules.insert((ServiceId(1), source), rule);
}

#[test]
fn a_rule_denies_whom_it_names_and_nobody_else() {
    let mut world = World::new(Setup::default());
    rule(&mut world, 0, Rule::DENY);
    assert_eq!(syn(&mut world, 0).reason, Reason::Opened, "not asked for");
    let mut world = World::new(Setup::default());
    rule(&mut world, 0, Rule::DENY);
    change(&mut world, |service| service.options = Options::PREFIXES);
    let denied = syn(&mut world, 0);
    assert_eq!((denied.reason, denied.fate()), (Reason::Denied, Fate::Drop));
    assert_eq!(syn(&mut world, 1).reason, Reason::Opened);
    // The same address, but another service.
    assert_eq!(syn(&mut world, 5).reason, Reason::Opened);
    assert!(world.tables.sources.borrow().is_empty());
}

#[test]
fn where_the_others_are_denied_only_whom_a_rule_names_is_let_in() {
    let mut world = World::new(Setup::default());
    rule(&mut world, 0, Rule::ALLOW);
    let options = Options::PREFIXES.with(Options::DENY_OTHERS, true);
    change(&mut world, |service| service.options = options);
    assert_eq!(syn(&mut world, 0).reason, Reason::Opened);
    assert_eq!(syn(&mut world, 1).reason, Reason::Denied);
}

#[test]
fn a_source_may_burst_and_has_to_wait_then() {
    let mut world = World::new(Setup {
        source_interval: 1000,
        ..Setup::default()
    });
    // Clients 0 and 4 are one source; its burst is two.
    assert_eq!(syn(&mut world, 0).reason, Reason::Opened);
    assert_eq!(syn(&mut world, 4).reason, Reason::Opened);
    world.let_happen(&Happening::Client(0, Flags::RST, Number::Right));
    let third = syn(&mut world, 0);
    assert_eq!(
        (third.reason, third.fate()),
        (Reason::SourceRate, Fate::Drop)
    );
    assert_eq!(syn(&mut world, 1).reason, Reason::Opened, "another source");
    world.let_happen(&Happening::Wait(999));
    assert_eq!(syn(&mut world, 0).reason, Reason::SourceRate);
    world.let_happen(&Happening::Wait(1));
    assert_eq!(syn(&mut world, 0).reason, Reason::Opened);
}

#[test]
fn a_syn_that_is_sent_again_costs_its_source_nothing() {
    let mut world = World::new(Setup {
        source_interval: 1000,
        ..Setup::default()
    });
    assert_eq!(syn(&mut world, 0).reason, Reason::Opened);
    for _ in 0..10 {
        assert_eq!(syn(&mut world, 0).reason, Reason::SynUnanswered);
    }
    assert_eq!(syn(&mut world, 4).reason, Reason::Opened);
}

#[test]
fn a_source_has_no_more_open_connections_than_it_may() {
    let mut world = World::new(Setup {
        source_max: 1,
        ..Setup::default()
    });
    assert!(world.connect(0).is_some());
    assert_eq!(syn(&mut world, 4).reason, Reason::SourceFull);
    assert!(world.connect(1).is_some(), "another source");
    world.let_happen(&Happening::Client(0, Flags::RST, Number::Right));
    assert!(world.connect(4).is_some(), "the first one is closed");
}

#[test]
fn a_service_has_no_more_open_connections_than_it_takes() {
    let mut world = World::new(Setup {
        service_max: 2,
        ..Setup::default()
    });
    assert!(world.connect(0).is_some() && world.connect(1).is_some());
    let third = syn(&mut world, 2);
    assert_eq!(
        (third.reason, third.fate()),
        (Reason::ServiceFull, Fate::Reset)
    );
    assert!(world.connect(5).is_some(), "another service");
}

#[test]
fn all_services_together_have_no_more_connections_than_there_may_be() {
    let mut world = World::new(Setup {
        connections_max: 2,
        silent: true,
        ..Setup::default()
    });
    assert!(world.connect(0).is_some() && world.connect(5).is_some());
    let third = syn(&mut world, 2);
    assert_eq!(
        (third.reason, third.fate()),
        (Reason::TableFull, Fate::Drop)
    );
}

#[test]
fn silence_where_there_is_no_target_is_another_option_than_where_all_is_full() {
    for (options, fate) in [
        (Options::DROP_NO_TARGET, Fate::Drop),
        (Options::DROP_FULL, Fate::Reset),
    ] {
        let mut world = World::new(Setup::default());
        change(&mut world, |service| service.options = options);
        for target in 1..=3 {
            world.let_happen(&Happening::Accept(target, false));
        }
        let refused = syn(&mut world, 0);
        assert_eq!((refused.reason, refused.fate()), (Reason::NoTarget, fate));
    }
}

#[test]
fn ports_of_all_addresses_are_given_out_before_they_are_exhausted() {
    let mut world = World::new(Setup::default());
    for slot in 0..4 {
        world.let_happen(&Happening::Slot(ServiceId(1), slot, 1));
        world.let_happen(&Happening::Slot(ServiceId(2), slot, 1));
    }
    let verdicts: Vec<_> = (0..6).map(|client| syn(&mut world, client)).collect();
    let opened = verdicts.iter().filter(|v| v.reason == Reason::Opened);
    // Two addresses with two ports each. A port is tried some times by chance.
    assert_eq!(opened.count(), 4, "{verdicts:?}");
    for refused in verdicts.iter().filter(|v| v.reason != Reason::Opened) {
        assert_eq!(refused.reason, Reason::PortsExhausted);
        // The same server for both services.
        let server = world.tables.targets[&refused.target].server;
        assert_eq!(server, world.tables.targets[&TargetId(1)].server);
    }
    let pending = world.tables.pending.borrow();
    let addresses = [101, 102].map(|last| Ipv4::ending_in([10, 0, 0, last]));
    for address in addresses {
        let used = pending
            .iter()
            .filter(|(key, p)| world.rewrite(key, &p.flow).source == address);
        assert_eq!(used.count(), 2, "{address:?}");
    }
}

#[test]
fn a_connection_that_is_not_translated_needs_no_port() {
    let mut world = World::new(Setup {
        modes: [Mode::Dsr; 3],
        ..Setup::default()
    });
    for client in 0..6 {
        assert!(world.connect(client).is_some());
    }
    assert_eq!(world.flows().len(), 6);
    assert!(world.tables.pending.borrow().is_empty());
}
