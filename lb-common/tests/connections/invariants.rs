//! The invariants, each a sentence.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::flow::{Direction, Flow, FlowKey, Pending};
use lb_common::layout::bytes_of;
use lb_common::service::{ServiceId, SourceKey};
use lb_common::tables::{Shared as _, SourceEntry as _, Tables as _};
use lb_common::target::TargetId;
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::tcp::Flags;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::frame::{Family, checksums_valid};
use crate::world::{ALL_TARGETS, Happening, Number, Passage, World};

type Checked = Result<(), TestCaseError>;

/// FLOWS and PENDING at one moment, and what is counted as open.
pub struct Moment<A> {
    flows: BTreeMap<FlowKey<A>, Flow<A>>,
    pending: BTreeMap<FlowKey<A>, Pending<A>>,
    /// Of each target; the sum under [`TargetId::NONE`].
    open: BTreeMap<TargetId, u32>,
    open_of_services: BTreeMap<ServiceId, u32>,
    open_of_sources: BTreeMap<SourceKey<A>, u32>,
}

impl<A: Family> Moment<A> {
    pub fn of(world: &World<A>) -> Self {
        let tables = &world.tables;
        let targets = (0..=ALL_TARGETS).map(TargetId);
        let services = tables.services.values().map(|service| service.id);
        let sources = tables.sources.borrow();
        Self {
            flows: world.flows().into_iter().collect(),
            pending: tables.pending.borrow().clone(),
            open: targets.map(|id| (id, tables.open_at(id))).collect(),
            open_of_services: services.map(|id| (id, tables.service_load(id))).collect(),
            open_of_sources: sources
                .iter()
                .map(|(key, source)| (*key, source.get().open))
                .collect(),
        }
    }

    /// Whether the connection that `flow` belongs to is closed or stale.
    fn over(&self, world: &World<A>, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let forward = match flow.direction() {
            Direction::Forward => *key,
            Direction::Reply => world.pair_key(key, flow),
        };
        let closed = self.flows.get(&forward).map(|f| f.progress().closed());
        closed == Some(true) || world.generation(flow.target()) != flow.generation
    }

    /// The flow under `key`, wherever it is.
    fn find(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        let pending = || self.pending.get(key).map(|pending| pending.flow);
        self.flows.get(key).copied().or_else(pending)
    }
}

/// Keys in PENDING whose other half was pushed out.
#[derive(Default)]
pub struct Orphans<A>(BTreeSet<FlowKey<A>>);

impl<A: Family> Orphans<A> {
    /// Keeps account of what `happening` pushed out.
    pub fn note(
        &mut self,
        world: &World<A>,
        happening: &Happening,
        before: &Moment<A>,
        after: &Moment<A>,
    ) {
        if let Happening::Evict(_) = happening {
            for (key, pending) in &before.pending {
                if !after.pending.contains_key(key) && world.replies(&pending.flow) {
                    self.0.insert(world.pair_key(key, &pending.flow));
                }
            }
        }
        self.0.retain(|key| match after.pending.get(key) {
            Some(now) => before.pending.get(key).is_some_and(|then| {
                world.pair_key(key, &then.flow) == world.pair_key(key, &now.flow)
            }),
            None => false,
        });
    }
}

/// What holds of FLOWS and PENDING after every step.
pub fn check_tables<A: Family>(
    world: &World<A>,
    after: &Moment<A>,
    orphans: &Orphans<A>,
) -> Checked {
    for (key, flow) in &after.flows {
        prop_assert!(!after.pending.contains_key(key), "{key:?} is in both");
        if !world.replies(flow) {
            prop_assert_eq!(flow.direction(), Direction::Forward);
            continue;
        }
        let pair = after.flows.get(&world.pair_key(key, flow));
        prop_assert!(pair.is_some(), "half a pair in FLOWS: {key:?}");
        check_pair(world, key, flow, pair.expect("just seen"))?;
    }
    for (key, pending) in &after.pending {
        if !world.replies(&pending.flow) {
            continue;
        }
        let pair_key = world.pair_key(key, &pending.flow);
        let pair = after.pending.get(&pair_key);
        match pair.filter(|pair| world.pair_key(&pair_key, &pair.flow) == *key) {
            Some(pair) => check_pair(world, key, &pending.flow, &pair.flow)?,
            None => prop_assert!(
                orphans.0.contains(key),
                "{key:?} in PENDING lost its other half, and was not pushed out"
            ),
        }
    }
    Ok(())
}

/// The two halves of a pair tell of one connection.
fn check_pair<A: Family>(
    world: &World<A>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    pair: &Flow<A>,
) -> Checked {
    let back = world.pair_key(&world.pair_key(key, flow), pair);
    prop_assert_eq!(back, *key, "a reverse key serves another");
    prop_assert_ne!(flow.direction(), pair.direction());
    prop_assert_eq!(flow.owner(), pair.owner());
    Ok(())
}

/// What is counted as open is what stands in FLOWS and is not closed: for each
/// target, in all, for each service and for each source; and no more than each
/// limit allows.
pub fn check_accounts<A: Family>(world: &World<A>, after: &Moment<A>) -> Checked {
    let mut open = BTreeMap::<_, u32>::new();
    let mut services = BTreeMap::<_, u32>::new();
    let mut sources = BTreeMap::<_, u32>::new();
    for (key, flow) in &after.flows {
        if flow.direction() == Direction::Forward && !flow.progress().closed() {
            *open.entry(flow.target()).or_default() += 1;
            *open.entry(TargetId::NONE).or_default() += 1;
            *services
                .entry(world.tables.targets[&flow.target()].service)
                .or_default() += 1;
            let source = SourceKey::new(key.source, world.tables.targets[&flow.target()].service);
            *sources.entry(source).or_default() += 1;
        }
    }
    let really = |count: Option<&u32>| count.copied().unwrap_or(0);
    for (id, counted) in &after.open {
        prop_assert_eq!(*counted, really(open.get(id)), "open at {:?}", id);
    }
    for (id, counted) in &after.open_of_services {
        prop_assert_eq!(*counted, really(services.get(id)), "open at {:?}", id);
    }
    for (key, counted) in &after.open_of_sources {
        prop_assert_eq!(*counted, really(sources.get(key)), "open of {:?}", key);
    }
    let limited = world.setup.source_max != 0 || world.setup.source_interval != 0;
    for key in sources.keys() {
        let known = after.open_of_sources.contains_key(key);
        prop_assert_eq!(known, limited, "an account of {:?}", key);
    }
    let kept = |limit: u32, open: u32| limit == 0 || open <= limit;
    let setup = world.setup;
    for id in (1..=ALL_TARGETS).map(TargetId) {
        prop_assert!(kept(setup.target_max, after.open[&id]), "{id:?} has more");
    }
    prop_assert!(kept(setup.connections_max, after.open[&TargetId::NONE]));
    for open in after.open_of_services.values() {
        prop_assert!(kept(setup.service_max, *open), "a service has more");
    }
    for open in after.open_of_sources.values() {
        prop_assert!(kept(setup.source_max, *open), "a source has more");
    }
    Ok(())
}

/// An established flow stays with its target, and goes only for a reason.
pub fn check_established<A: Family>(
    world: &World<A>,
    before: &Moment<A>,
    after: &Moment<A>,
    happening: &Happening,
) -> Checked {
    for (key, old) in &before.flows {
        let Some(new) = after.flows.get(key) else {
            let reaped = matches!(happening, Happening::Reap | Happening::Idle(_));
            prop_assert!(reaped || before.over(world, key, old), "{key:?} is gone");
            continue;
        };
        prop_assert_eq!(old.owner(), new.owner(), "{:?} moved", key);
        let way = |flow| world.rewrite(key, flow);
        prop_assert_eq!(way(old), way(new), "{:?} goes elsewhere", key);
        let progress = new.progress();
        prop_assert!(progress.contain(old.progress()), "{key:?} lost a mark");
    }
    Ok(())
}

/// What holds of every packet.
pub fn check_passage<A: Family>(
    world: &World<A>,
    before: &Moment<A>,
    passage: &Passage<A>,
) -> Checked {
    let Passage {
        before: packet,
        verdict,
        after: frame,
    } = passage;
    let key = packet.key();
    match verdict.fate() {
        Fate::Pass | Fate::Drop => {
            let untouched = bytes_of(packet) == bytes_of(frame);
            prop_assert!(untouched, "an untouched packet is untouched");
        }
        Fate::Reset => {
            prop_assert!(!packet.tcp.flags.intersect(Flags::RST), "a RST is answered");
            prop_assert!(checksums_valid::<A>(frame));
            prop_assert_eq!(frame.key(), key.reversed());
        }
        Fate::Transmit => {
            prop_assert!(checksums_valid::<A>(frame));
            check_transmitted(world, before, passage)?;
        }
        Fate::Deliver => prop_assert!(false, "no server is on this host"),
        Fate::Notify => prop_assert!(false, "no server is behind a tunnel"),
    }
    if let Some(old) = before.find(&key) {
        let stale = world.generation(old.target()) != old.generation;
        let may_go_on = !stale || verdict.reason == Reason::Opened;
        let goes_on = verdict.fate() == Fate::Transmit;
        prop_assert!(may_go_on || !goes_on, "a connection that was cut goes on");
    }
    Ok(())
}

/// A segment that goes on, goes where the other direction comes from.
fn check_transmitted<A: Family>(
    world: &World<A>,
    before: &Moment<A>,
    passage: &Passage<A>,
) -> Checked {
    let (packet, frame) = (passage.before.key(), passage.after.key());
    let after = Moment::of(world);
    let find = |key| after.find(key).or_else(|| before.find(key));
    let Some(flow) = find(&packet) else {
        prop_assert!(false, "{packet:?} goes on along no flow");
        return Ok(());
    };
    prop_assert_eq!(world.rewrite(&packet, &flow), frame);
    prop_assert_eq!(
        world.generation(flow.target()),
        flow.generation,
        "to a target that was cut"
    );
    prop_assert_eq!(passage.verdict.target, flow.target());
    if !world.replies(&flow) {
        prop_assert_eq!(frame, packet, "only Ethernet addresses change");
        return Ok(());
    }
    let Some(pair) = find(&frame.reversed()) else {
        prop_assert!(false, "{packet:?} goes on along no pair");
        return Ok(());
    };
    let back = world.pair_key(&frame.reversed(), &pair);
    prop_assert_eq!(back, packet, "and back to another");
    if passage.verdict.direction == Direction::Forward {
        let server = world.tables.targets[&flow.target()].server;
        prop_assert_eq!(frame.destination, server);
    }
    Ok(())
}

/// Whoever is let in found room, and a target that takes new connections.
pub fn check_admission<A: Family>(
    world: &World<A>,
    before: &Moment<A>,
    passage: &Passage<A>,
) -> Checked {
    let verdict = passage.verdict;
    if verdict.reason != Reason::Opened {
        return Ok(());
    }
    let setup = world.setup;
    let key = passage.before.key();
    // A SYN that takes the place of a connection makes room for itself.
    let replaced = u32::from(
        before
            .flows
            .get(&key)
            .is_some_and(|flow| !flow.progress().closed()),
    );
    let below = |limit: u32, open: u32| limit == 0 || open < limit + replaced;
    let source = SourceKey::new(key.source, verdict.service);
    let open_of_source = before.open_of_sources.get(&source).copied();
    prop_assert_ne!(world.tables.targets[&verdict.target].accepts, 0);
    prop_assert!(below(setup.target_max, before.open[&verdict.target]));
    prop_assert!(below(setup.connections_max, before.open[&TargetId::NONE]));
    prop_assert!(below(
        setup.service_max,
        before.open_of_services[&verdict.service]
    ));
    prop_assert!(below(setup.source_max, open_of_source.unwrap_or(0)));
    Ok(())
}

/// Nobody finishes a handshake who has not seen the server's SYN+ACK, where
/// that came by.
pub fn check_proof<A: Family>(happening: &Happening, passage: &Passage<A>) -> Checked {
    if let Happening::Client(_, _, Number::Wrong(number)) = happening
        && passage.verdict.mode.replies()
    {
        let reason = passage.verdict.reason;
        prop_assert_ne!(reason, Reason::Established, "by guessing {}", number);
    }
    Ok(())
}

/// A connection that is used is not idle.
pub fn check_time<A: Family>(world: &World<A>, after: &Moment<A>, passage: &Passage<A>) -> Checked {
    if let Some(flow) = after.flows.get(&passage.before.key())
        && passage.verdict.fate() == Fate::Transmit
        && passage.verdict.reason != Reason::Established
    {
        prop_assert_eq!(flow.last_seen, world.now);
    }
    Ok(())
}

/// When the agent has forgotten every flow, nothing counts as open.
pub fn check_end<A: Family>(world: &mut World<A>) -> Checked {
    while !world.flows().is_empty() {
        world.let_happen(&Happening::Idle(0));
    }
    check_accounts(world, &Moment::of(world))?;
    prop_assert_eq!(world.tables.load(TargetId::NONE).open, 0);
    let sources = world.tables.sources.borrow();
    for key in sources.keys() {
        let account = world.tables.known_source(key).expect("just seen");
        prop_assert_eq!(account.get().open, 0);
    }
    Ok(())
}
