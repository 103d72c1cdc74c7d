//! Two CPUs at once: while one handles a packet, another one handles a whole
//! packet in between, before each of the first one's steps in turn.

use std::cell::{Cell, RefCell};

use lb_common::addr::Ipv4;
use lb_common::fake::{FakePacket, process};
use lb_common::flow::Tick;
use lb_common::nat::PartialChecksum;
use lb_common::service::ServiceId;
use lb_common::tables::{Shared as _, Tables};
use lb_common::target::{Mode, TargetId};
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::tcp::Flags;

use crate::frame::{Segment, frame, segment};
use crate::interrupted::Interrupted;
use crate::invariants::{Moment, Orphans, check_accounts, check_tables};
use crate::world::{Happening, Number, Setup, client_key};

type World = crate::world::World<Ipv4>;

/// What two CPUs made of their packets, and the world they left.
struct Outcome {
    world: World,
    first: Verdict,
    second: Verdict,
}

fn handle<T: Tables<Ipv4>>(tables: &T, packet: &Segment<Ipv4>) -> Verdict {
    let mut buffer = FakePacket::new(&frame::<Ipv4>(packet));
    process(&mut buffer, tables, PartialChecksum::Finish, Tick(9)).verdict
}

/// A race's beginning: a world, and what has happened in it.
struct Start {
    setup: Setup,
    history: Vec<Happening>,
}

impl Start {
    /// With the first target alone: which one is selected does not matter here.
    fn new(history: &[Happening]) -> Self {
        let alone = (0..4).map(|slot| Happening::Slot(ServiceId(1), slot, 1));
        Self {
            setup: Setup::default(),
            history: alone.chain(history.iter().cloned()).collect(),
        }
    }

    fn world(&self) -> World {
        World::after(self.setup, &self.history)
    }

    /// Every way in which `second` can come in between while `first` is handled.
    fn races(&self, first: &Segment<Ipv4>, second: &Segment<Ipv4>) -> Vec<Outcome> {
        let never = Cell::new(None);
        let mut outcomes = Vec::new();
        for steps in 0.. {
            let world = self.world();
            let verdict = Cell::new(None);
            let interrupted = Interrupted {
                tables: &world.tables,
                steps_left: Cell::new(steps),
                interruption: RefCell::new(Some(Box::new(|| {
                    verdict.set(Some(handle(&world.tables, second)));
                }))),
                cut: &never,
            };
            let first = handle(&interrupted, first);
            drop(interrupted);
            let Some(second) = verdict.get() else {
                break;
            };
            outcomes.push(Outcome {
                world,
                first,
                second,
            });
        }
        assert!(outcomes.len() > 1, "there is nothing to interrupt");
        outcomes
    }
}

/// No half pair, no reservation that nobody holds, no key in two hands, and
/// what is counted as open is open.
fn assert_sound(world: &World) {
    let moment = Moment::of(world);
    check_tables(world, &moment, &Orphans::default()).expect("the tables are sound");
    check_accounts(world, &moment).expect("the accounts are right");
}

const OPENED: Happening = Happening::Client(0, Flags::SYN, Number::Right);

fn answered() -> [Happening; 2] {
    [OPENED, Happening::Server(0, Flags(0x12))]
}

fn established() -> Vec<Happening> {
    let ack = Happening::Client(0, Flags::ACK, Number::Right);
    answered().into_iter().chain([ack]).collect()
}

fn from_client(client: u8, flags: Flags) -> Segment<Ipv4> {
    segment::<Ipv4>(&client_key(client), flags, 1001, 8 << 20)
}

/// A segment of the first client's server; the SYN+ACK is that sent again.
fn from_server(world: &World, flags: Flags) -> Segment<Ipv4> {
    let pending = world.tables.pending.borrow();
    let pending = pending.get(&client_key(0)).map(|pending| pending.flow);
    let flow = pending.or_else(|| world.tables.flow_at(&client_key(0)));
    let key = world.pair_key(&client_key(0), &flow.expect("it is known"));
    segment::<Ipv4>(&key, flags, (8 << 20) - 1, 1001)
}

#[test]
fn one_syn_on_two_cpus_opens_one_connection() {
    let syn = from_client(0, Flags::SYN);
    for Outcome {
        world,
        first,
        second,
    } in Start::new(&[]).races(&syn, &syn)
    {
        assert_sound(&world);
        assert_eq!(world.tables.pending.borrow().len(), 2);
        let opened = [first.reason, second.reason]
            .into_iter()
            .filter(|reason| *reason == Reason::Opened);
        assert_eq!(opened.count(), 1);
    }
}

#[test]
fn two_clients_on_two_cpus_never_share_a_port() {
    let (first, second) = (from_client(0, Flags::SYN), from_client(1, Flags::SYN));
    for Outcome { world, .. } in Start::new(&[]).races(&first, &second) {
        assert_sound(&world);
        assert_eq!(world.tables.pending.borrow().len(), 4);
    }
}

#[test]
fn a_segment_beside_the_ack_that_finishes_the_handshake_is_never_answered_with_a_reset() {
    let start = Start::new(&answered());
    let ack = from_client(0, Flags::ACK);
    let data = from_client(0, Flags::ACK | Flags::PSH);
    let syn_ack = from_server(&start.world(), Flags::SYN | Flags::ACK);
    for (first, second) in [
        (&ack, &data),
        (&data, &ack),
        (&ack, &syn_ack),
        (&syn_ack, &ack),
        (&ack, &ack),
    ] {
        for Outcome {
            world,
            first,
            second,
        } in start.races(first, second)
        {
            assert_sound(&world);
            assert_eq!(world.tables.flows.borrow().len(), 2);
            assert!(world.tables.pending.borrow().is_empty());
            for verdict in [first, second] {
                assert_eq!(verdict.fate(), Fate::Transmit, "{:?}", verdict.reason);
            }
        }
    }
}

#[test]
fn one_ack_on_two_cpus_opens_one_connection_where_no_reply_comes_by() {
    let start = Start {
        setup: Setup {
            modes: [Mode::Dsr; 3],
            ..Setup::default()
        },
        ..Start::new(&[OPENED])
    };
    let ack = from_client(0, Flags::ACK);
    for Outcome {
        world,
        first,
        second,
    } in start.races(&ack, &ack)
    {
        assert_sound(&world);
        assert_eq!(world.tables.flows.borrow().len(), 1);
        for verdict in [first, second] {
            assert_eq!(verdict.fate(), Fate::Transmit, "{:?}", verdict.reason);
        }
    }
}

#[test]
fn two_cpus_that_find_the_table_full_leave_no_half_pair() {
    let ack = from_client(0, Flags::ACK);
    for room in 0..3 {
        let mut history = answered().to_vec();
        history.push(Happening::Room(room));
        for Outcome { world, .. } in Start::new(&history).races(&ack, &ack) {
            assert_sound(&world);
        }
    }
}

#[test]
fn of_two_handshakes_on_two_cpus_no_more_are_finished_than_the_target_takes() {
    let mut history = answered().to_vec();
    history.push(Happening::Client(1, Flags::SYN, Number::Right));
    history.push(Happening::Server(1, Flags(0x12)));
    let start = Start {
        setup: Setup {
            target_max: 1,
            ..Setup::default()
        },
        ..Start::new(&history)
    };
    let (first, second) = (from_client(0, Flags::ACK), from_client(1, Flags::ACK));
    for Outcome {
        world,
        first,
        second,
    } in start.races(&first, &second)
    {
        assert_sound(&world);
        let reasons = [first.reason, second.reason];
        assert!(reasons.contains(&Reason::Established), "{reasons:?}");
        assert!(reasons.contains(&Reason::ServersFull), "{reasons:?}");
    }
}

#[test]
fn one_connection_that_ends_on_two_cpus_is_closed_once() {
    let start = Start::new(&established());
    let client = |flags| from_client(0, flags);
    let server = |flags| from_server(&start.world(), flags);
    let fin = Flags::FIN | Flags::ACK;
    for (first, second) in [
        (client(fin), server(fin)),
        (server(fin), client(fin)),
        (client(Flags::RST), server(Flags::RST)),
        (server(Flags::RST), client(fin)),
        (client(Flags::RST), server(fin)),
    ] {
        for Outcome { world, .. } in start.races(&first, &second) {
            assert_sound(&world);
            assert!(world.progress(0).expect("it rests").closed());
        }
    }
}

#[test]
fn one_syn_on_two_cpus_reopens_a_closed_connection_once() {
    let mut history = established();
    history.push(Happening::Client(0, Flags::RST, Number::Right));
    let syn = from_client(0, Flags::SYN);
    for Outcome { world, .. } in Start::new(&history).races(&syn, &syn) {
        assert_sound(&world);
        assert!(world.tables.flows.borrow().is_empty());
        assert_eq!(world.tables.pending.borrow().len(), 2);
    }
}

#[test]
fn one_syn_on_two_cpus_replaces_a_connection_that_was_cut_once() {
    let mut history = established();
    history.push(Happening::Cut(1));
    let syn = from_client(0, Flags::SYN);
    for Outcome { world, .. } in Start::new(&history).races(&syn, &syn) {
        assert_sound(&world);
        assert!(world.tables.flows.borrow().is_empty());
        assert_eq!(world.tables.pending.borrow().len(), 2);
    }
}

/// The agent empties the slot first, and raises the generation then.
#[test]
fn no_connection_survives_a_cut_by_being_opened_during_it() {
    let syn = from_client(0, Flags::SYN);
    let target = TargetId(1);
    for steps in 0.. {
        let world = Start::new(&[]).world();
        let cut = Cell::new(None);
        let interrupted = Interrupted {
            tables: &world.tables,
            steps_left: Cell::new(steps),
            interruption: RefCell::new(Some(Box::new(|| cut.set(Some(target))))),
            cut: &cut,
        };
        let _ = handle(&interrupted, &syn);
        if cut.get().is_none() {
            assert!(steps > 1, "there is nothing to interrupt");
            break;
        }
        let generation = interrupted.generation(target);
        for pending in world.tables.pending.borrow().values() {
            assert_ne!(pending.flow.generation, generation, "after {steps} steps");
        }
    }
}
