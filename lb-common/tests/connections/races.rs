//! Two CPUs at once: while one handles a packet, another one handles a whole
//! packet in between, before each of the first one's steps in turn.

use std::cell::{Cell, RefCell};

use lb_common::addr::Ipv4;
use lb_common::datapath::process;
use lb_common::fake::{FakePacket, FakeTables};
use lb_common::flow::{Flow, FlowKey, Pending, Tick};
use lb_common::layout::bytes_of;
use lb_common::nat::PartialChecksum;
use lb_common::service::{Listener, Service};
use lb_common::tables::{Inserted, Tables};
use lb_common::target::{Generation, Target, TargetId};
use lb_common::verdict::{Fate, Reason, Verdict};
use lb_common::wire::frame::Headers;
use lb_common::wire::tcp::Flags;

use crate::frame::segment;
use crate::invariants::{self, check_tables};
use crate::world::{Happening, Number, World, client_key};

/// Tables whose user is interrupted once.
struct Interrupted<'a> {
    tables: &'a FakeTables,
    steps_left: Cell<usize>,
    interruption: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
    /// The target that the agent cuts off, if it does.
    cut: &'a Cell<Option<TargetId>>,
}

impl Interrupted<'_> {
    fn step(&self) -> &FakeTables {
        match self.steps_left.get().checked_sub(1) {
            Some(left) => self.steps_left.set(left),
            None => {
                let interruption = self.interruption.borrow_mut().take();
                if let Some(interrupt) = interruption {
                    interrupt();
                }
            }
        }
        self.tables
    }
}

impl Tables<Ipv4> for Interrupted<'_> {
    type FlowEntry = <FakeTables as Tables<Ipv4>>::FlowEntry;

    fn flow(&self, key: &FlowKey<Ipv4>) -> Option<Self::FlowEntry> {
        self.step().flow(key)
    }
    fn insert_flow(&self, key: &FlowKey<Ipv4>, flow: &Flow<Ipv4>) -> Inserted {
        self.step().insert_flow(key, flow)
    }
    fn remove_flow(&self, key: &FlowKey<Ipv4>) {
        self.step().remove_flow(key);
    }
    fn pending(&self, key: &FlowKey<Ipv4>) -> Option<Pending<Ipv4>> {
        self.step().pending(key)
    }
    fn insert_pending(&self, key: &FlowKey<Ipv4>, pending: &Pending<Ipv4>) -> Inserted {
        self.step().insert_pending(key, pending)
    }
    fn replace_pending(&self, key: &FlowKey<Ipv4>, pending: &Pending<Ipv4>) {
        self.step().replace_pending(key, pending);
    }
    fn remove_pending(&self, key: &FlowKey<Ipv4>) {
        self.step().remove_pending(key);
    }
    fn service(&self, listener: &Listener<Ipv4>) -> Option<Service> {
        self.step().service(listener)
    }
    fn slot(&self, index: u32) -> TargetId {
        let id = self.step().slot(index);
        if self.cut.get() == Some(id) {
            TargetId::NONE
        } else {
            id
        }
    }
    fn target(&self, id: TargetId) -> Option<Target<Ipv4>> {
        self.step().target(id)
    }
    fn generation(&self, id: TargetId) -> Generation {
        let generation = self.step().generation(id);
        Generation(generation.0 + u32::from(self.cut.get() == Some(id)))
    }
}

/// What two CPUs made of their packets, and the world they left.
struct Outcome {
    world: World,
    first: Verdict<Ipv4>,
    second: Verdict<Ipv4>,
}

fn handle<T: Tables<Ipv4>>(tables: &T, packet: &Headers) -> Verdict<Ipv4> {
    let mut buffer = FakePacket::new(bytes_of(packet));
    process(&mut buffer, tables, PartialChecksum::Finish, || Tick(9))
}

/// Every way in which `second` can come in between while `first` is handled,
/// in worlds with this `history`.
fn races(history: &[Happening], first: &Headers, second: &Headers) -> Vec<Outcome> {
    let never = Cell::new(None);
    let mut outcomes = Vec::new();
    for steps in 0.. {
        let world = after(history);
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

fn after(history: &[Happening]) -> World {
    let mut world = World::new();
    for happening in history {
        world.let_happen(happening);
    }
    world
}

/// No half pair, no reservation that nobody holds, no key in two hands.
fn assert_sound(world: &World) {
    let tables = invariants::Tables::of(world);
    check_tables(&tables, &invariants::Orphans::default()).expect("the tables are sound");
}

const OPENED: Happening = Happening::Client(0, Flags::SYN, Number::Right);

fn answered() -> [Happening; 2] {
    [OPENED, Happening::Server(0, Flags(0x12))]
}

fn from_client(client: u8, flags: Flags) -> Headers {
    segment(&client_key(client), flags, 1001, 8 << 20)
}

/// The server's SYN+ACK, sent again.
fn again(world: &World) -> Headers {
    let tables = world.tables.pending.borrow();
    let reply = tables[&client_key(0)].flow.pair_key();
    segment(&reply, Flags::SYN | Flags::ACK, (8 << 20) - 1, 1001)
}

#[test]
fn one_syn_on_two_cpus_opens_one_connection() {
    let syn = from_client(0, Flags::SYN);
    for Outcome {
        world,
        first,
        second,
    } in races(&[], &syn, &syn)
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
    for Outcome { world, .. } in races(
        &[],
        &from_client(0, Flags::SYN),
        &from_client(1, Flags::SYN),
    ) {
        assert_sound(&world);
        assert_eq!(world.tables.pending.borrow().len(), 4);
    }
}

#[test]
fn a_segment_beside_the_ack_that_finishes_the_handshake_is_never_answered_with_a_reset() {
    let ack = from_client(0, Flags::ACK);
    let data = from_client(0, Flags::ACK | Flags::PSH);
    let syn_ack = again(&after(&answered()));
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
        } in races(&answered(), first, second)
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
fn two_cpus_that_find_the_table_full_leave_no_half_pair() {
    let ack = from_client(0, Flags::ACK);
    for room in 0..3 {
        let mut history = answered().to_vec();
        history.push(Happening::Room(room));
        for Outcome { world, .. } in races(&history, &ack, &ack) {
            assert_sound(&world);
        }
    }
}

#[test]
fn one_syn_on_two_cpus_reopens_a_closed_connection_once() {
    let mut history = answered().to_vec();
    history.extend([
        Happening::Client(0, Flags::ACK, Number::Right),
        Happening::Client(0, Flags::RST, Number::Right),
    ]);
    let syn = from_client(0, Flags::SYN);
    for Outcome { world, .. } in races(&history, &syn, &syn) {
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
        let world = World::new();
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
