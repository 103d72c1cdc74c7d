//! Which target a new connection goes to, by each algorithm.

use std::collections::BTreeMap;

use lb_common::addr::Ipv4;
use lb_common::choose::{Choice, choose};
use lb_common::fake::FakeTables;
use lb_common::flow::{FlowKey, Tick};
use lb_common::service::{Algorithm, Service, ServiceId, SourceKey};
use lb_common::tables::{Affinity, Shared as _, Tables as _};
use lb_common::target::{Load, Target, TargetId};
use lb_common::verdict::Reason;
use lb_common::wire::frame::Segment;
use lb_common::wire::tcp::Flags;
use proptest::prelude::*;

use crate::frame::key;

/// Where the service's slots begin.
const FIRST: u32 = 100;
const SERVICE: ServiceId = ServiceId(4);

/// A service that has a target for each of `weights`, and as many slots of
/// each as it weighs.
struct Choosing {
    tables: FakeTables<Ipv4>,
    service: Service,
}

impl Choosing {
    fn new(algorithm: Algorithm, weights: &[u16]) -> Self {
        let mut tables = FakeTables::default();
        let mut slots = Vec::new();
        for (id, weight) in (1..).map(TargetId).zip(weights) {
            let target = Target {
                port: lb_common::addr::Port::new(9000),
                weight: *weight,
                accepts: 1,
                ..Target::default()
            };
            tables.targets.insert(id, target);
            slots.extend(std::iter::repeat_n(id, usize::from(*weight)));
        }
        let service = Service {
            first_slot: FIRST,
            slots: slots.len() as u32,
            members: weights.len() as u32,
            algorithm: algorithm as u8,
            id: SERVICE,
            ..Service::default()
        };
        slots.extend(tables.targets.keys());
        tables.slots = (FIRST..).zip(slots).collect();
        Self { tables, service }
    }

    /// The choice for a client's connection from `port`, at tick `now`.
    fn at(&self, client: u8, port: u16, now: u32) -> Result<Choice, Reason> {
        choose(&self.tables, &syn(client, port), &self.service, Tick(now))
    }

    fn choose(&self, client: u8, port: u16) -> Result<TargetId, Reason> {
        self.at(client, port, 0).map(|choice| choice.id)
    }

    /// How often each target is chosen in `times` new connections, which all
    /// stay open.
    fn census(&self, times: u16) -> BTreeMap<TargetId, u32> {
        let mut census = BTreeMap::new();
        for port in 0..times {
            let id = self.choose((port % 200) as u8, port).expect("there is one");
            self.tables.open(id);
            *census.entry(id).or_default() += 1;
        }
        census
    }

    fn change(&mut self, id: u32, change: impl FnOnce(&mut Target<Ipv4>)) {
        change(self.tables.targets.get_mut(&TargetId(id)).expect("there"));
    }

    fn load(&self, id: u32, load: Load) {
        self.tables.load.borrow_mut().insert(TargetId(id), load);
    }
}

fn syn(client: u8, port: u16) -> Segment<Ipv4> {
    let key: FlowKey<Ipv4> = key(([10, 0, 2, client], port), ([10, 0, 0, 100], 80));
    Segment {
        key,
        flags: Flags::SYN,
        hops: 64,
        ..Segment::default()
    }
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    (0_u8..6).prop_map(Algorithm::from_number)
}

#[test]
fn round_robin_gives_each_target_its_weight_in_every_cycle() {
    let choosing = Choosing::new(Algorithm::RoundRobin, &[1, 3, 2]);
    for _ in 0..5 {
        let census = choosing.census(6);
        let counts: Vec<_> = census.into_values().collect();
        assert_eq!(counts, [1, 3, 2]);
    }
}

#[test]
fn round_robin_goes_on_where_its_counter_wraps() {
    let choosing = Choosing::new(Algorithm::RoundRobin, &[1, 1]);
    let turns = &choosing.tables.turns;
    turns.borrow_mut().insert(SERVICE, u32::MAX);
    let chosen: Vec<_> = (0..4).map(|port| choosing.choose(1, port)).collect();
    assert_ne!(chosen[0], chosen[1]);
    assert_eq!(chosen[1], Ok(TargetId(1)));
    assert_eq!(chosen[2], Ok(TargetId(2)));
}

#[test]
fn a_source_hash_keeps_a_client_with_its_target_and_maglev_does_not() {
    let targets = |algorithm| {
        let choosing = Choosing::new(algorithm, &[10, 10, 10]);
        let chosen = (0..100).map(|port| choosing.choose(7, port).expect("one"));
        chosen.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(targets(Algorithm::SourceHash), 1);
    assert_eq!(targets(Algorithm::Maglev), 3);
}

#[test]
fn a_source_hash_spreads_the_clients() {
    let choosing = Choosing::new(Algorithm::SourceHash, &[10, 10]);
    let first = (0..200).filter(|client| choosing.choose(*client, 1) == Ok(TargetId(1)));
    let count = first.count();
    assert!((60..=140).contains(&count), "{count} of 200");
}

#[test]
fn chance_follows_the_weights() {
    let census = Choosing::new(Algorithm::Random, &[1, 3]).census(4000);
    let first = census[&TargetId(1)];
    assert!((900..=1100).contains(&first), "{first} of 4000");
}

#[test]
fn least_connections_fills_targets_by_their_weight() {
    let census = Choosing::new(Algorithm::LeastConnections, &[1, 1, 2]).census(4000);
    let counts: Vec<_> = census.into_values().collect();
    for (count, expected) in counts.iter().zip([1000, 1000, 2000]) {
        assert!(count.abs_diff(expected) <= 20, "{counts:?}");
    }
}

#[test]
fn least_connections_catches_up_with_a_target_that_was_away() {
    let choosing = Choosing::new(Algorithm::LeastConnections, &[1, 1]);
    choosing.load(
        1,
        Load {
            open: 300,
            latency: 0,
        },
    );
    let census = choosing.census(200);
    // The busy one is selected only where chance names it twice.
    assert!(census[&TargetId(2)] > 120, "{census:?}");
}

#[test]
fn least_latency_prefers_the_quicker_target_and_tries_the_unknown_first() {
    let choosing = Choosing::new(Algorithm::LeastLatency, &[1, 1]);
    let share = |first: u32, second: u32| {
        choosing.load(
            1,
            Load {
                open: 0,
                latency: first,
            },
        );
        choosing.load(
            2,
            Load {
                open: 0,
                latency: second,
            },
        );
        let chosen = (0..400).filter(|port| choosing.choose(1, *port) == Ok(TargetId(1)));
        chosen.count()
    };
    // Three times in four one of two by chance is the first.
    assert!((260..=340).contains(&share(100, 200)));
    assert!((60..=140).contains(&share(200, 100)));
    assert!((260..=340).contains(&share(0, 100)));
}

#[test]
fn a_slow_target_with_fewer_connections_is_chosen_again() {
    let choosing = Choosing::new(Algorithm::LeastLatency, &[1, 1]);
    choosing.load(
        1,
        Load {
            open: 0,
            latency: 1000,
        },
    );
    choosing.load(
        2,
        Load {
            open: 30,
            latency: 100,
        },
    );
    let chosen = (0..400).filter(|port| choosing.choose(1, *port) == Ok(TargetId(1)));
    assert!(chosen.count() >= 260);
}

#[test]
fn a_client_returns_to_its_target_within_its_time() {
    let mut choosing = Choosing::new(Algorithm::Maglev, &[5, 5, 5]);
    choosing.service.affinity = 10;
    let remember = |choosing: &Choosing, since: u32| {
        let affinity = Affinity {
            target: TargetId(2),
            generation: choosing.tables.generation(TargetId(2)),
            since: Tick(since),
        };
        let source = SourceKey::new(syn(7, 0).key.source, SERVICE);
        choosing.tables.set_affinity(&source, &affinity);
    };
    let always = |choosing: &Choosing, now: u32| {
        (0..50).all(|port| choosing.at(7, port, now).map(|choice| choice.id) == Ok(TargetId(2)))
    };
    remember(&choosing, 100);
    assert!(always(&choosing, 100) && always(&choosing, 110));
    assert!(!always(&choosing, 111), "too old");
    // The clock wraps.
    remember(&choosing, u32::MAX - 4);
    assert!(always(&choosing, 5) && !always(&choosing, 6));
    remember(&choosing, 100);
    choosing.service.affinity = 0;
    assert!(!always(&choosing, 100), "not asked for");
    choosing.service.affinity = 10;
    choosing.change(2, |target| target.accepts = 0);
    assert!(!always(&choosing, 100), "drained");
    choosing.change(2, |target| target.accepts = 1);
    choosing.change(2, |target| target.max_connections = 1);
    assert!(always(&choosing, 100));
    choosing.load(
        2,
        Load {
            open: 1,
            latency: 0,
        },
    );
    assert!(!always(&choosing, 100), "full");
    choosing.load(2, Load::default());
    choosing.tables.cut(TargetId(2));
    assert!(!always(&choosing, 100), "cut off");
}

#[test]
fn what_overflows_goes_to_another_member_and_is_refused_where_all_are_full() {
    let mut choosing = Choosing::new(Algorithm::Maglev, &[1, 1, 1]);
    for id in 1..=3 {
        choosing.change(id, |target| target.max_connections = 2);
    }
    let census = choosing.census(6);
    assert!(census.values().all(|count| *count == 2), "{census:?}");
    assert_eq!(choosing.choose(9, 9), Err(Reason::ServersFull));
    choosing.tables.close(TargetId(3));
    assert_eq!(choosing.choose(9, 9), Ok(TargetId(3)));
}

#[test]
fn what_overflows_is_not_bound_to_the_slot_and_never_meets_a_drained_target() {
    let mut choosing = Choosing::new(Algorithm::RoundRobin, &[1, 1, 1]);
    choosing.tables.slots.insert(FIRST, TargetId(1));
    choosing.change(1, |target| target.max_connections = 1);
    choosing.change(2, |target| target.accepts = 0);
    choosing.load(
        1,
        Load {
            open: 1,
            latency: 0,
        },
    );
    let choice = choosing.at(1, 1, 0).expect("there is the third");
    assert_eq!((choice.id, choice.slot), (TargetId(3), Choice::NO_SLOT));
}

#[test]
fn an_empty_service_has_no_target() {
    for number in 0..6 {
        let algorithm = Algorithm::from_number(number);
        let choosing = Choosing::new(algorithm, &[]);
        assert_eq!(
            choosing.choose(1, 1),
            Err(Reason::NoTarget),
            "{algorithm:?}"
        );
    }
}

proptest! {
    #[test]
    fn whoever_is_chosen_is_a_member_that_accepts_and_has_room(
        algorithm in algorithms(),
        weights in proptest::collection::vec(1_u16..5, 1..8),
        states in proptest::collection::vec((any::<bool>(), 0_u32..3, 0_u32..4), 8),
        clients in proptest::collection::vec(any::<(u8, u16)>(), 1..40),
    ) {
        let mut choosing = Choosing::new(algorithm, &weights);
        for ((id, _), (accepts, max, open)) in (1..).zip(&weights).zip(states) {
            choosing.change(id, |target| {
                target.accepts = u8::from(accepts);
                target.max_connections = max;
            });
            choosing.load(id, Load { open, latency: 0 });
        }
        for (client, port) in clients {
            match choosing.choose(client, port) {
                Ok(id) => {
                    let target = choosing.tables.targets[&id];
                    let open = choosing.tables.open_at(id);
                    prop_assert_ne!(target.accepts, 0);
                    prop_assert!(target.max_connections == 0 || open < target.max_connections);
                }
                Err(reason) => {
                    let known = matches!(reason, Reason::NoTarget | Reason::ServersFull);
                    prop_assert!(known, "{:?}", reason);
                }
            }
        }
    }

    #[test]
    fn a_service_whose_targets_all_accept_refuses_nobody(
        algorithm in algorithms(),
        weights in proptest::collection::vec(1_u16..5, 1..8),
        clients in proptest::collection::vec(any::<(u8, u16)>(), 1..40),
    ) {
        let choosing = Choosing::new(algorithm, &weights);
        for (client, port) in clients {
            prop_assert!(choosing.choose(client, port).is_ok());
        }
    }
}
