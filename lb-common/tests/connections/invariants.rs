//! The invariants, each a sentence.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::addr::Ipv4;
use lb_common::flow::{Direction, Flow, Pending};
use lb_common::verdict::{Fate, Reason};
use lb_common::wire::tcp::Flags;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::frame::{Key, checksums_valid};
use crate::world::{Happening, Number, Passage, World};

type Checked = Result<(), TestCaseError>;

/// FLOWS and PENDING at one moment.
pub struct Tables {
    flows: BTreeMap<Key, Flow<Ipv4>>,
    pending: BTreeMap<Key, Pending<Ipv4>>,
}

impl Tables {
    pub fn of(world: &World) -> Self {
        let flows = world.tables.flows.borrow();
        Self {
            flows: flows.iter().map(|(key, flow)| (*key, flow.get())).collect(),
            pending: world.tables.pending.borrow().clone(),
        }
    }

    /// Whether the connection that `flow` belongs to is closed or stale.
    fn over(&self, world: &World, key: &Key, flow: &Flow<Ipv4>) -> bool {
        let forward = match flow.direction() {
            Direction::Forward => *key,
            Direction::Reply => flow.pair_key(),
        };
        let closed = self.flows.get(&forward).map(|f| f.progress.closed());
        closed == Some(true) || world.generation(flow.target) != flow.generation
    }

    /// The flow under `key`, wherever it is.
    fn find(&self, key: &Key) -> Option<Flow<Ipv4>> {
        let pending = || self.pending.get(key).map(|pending| pending.flow);
        self.flows.get(key).copied().or_else(pending)
    }
}

/// Keys in PENDING whose other half was pushed out.
#[derive(Default)]
pub struct Orphans(BTreeSet<Key>);

impl Orphans {
    /// Keeps account of what `happening` pushed out.
    pub fn note(&mut self, happening: &Happening, before: &Tables, after: &Tables) {
        if let Happening::Evict(_) = happening {
            for (key, pending) in &before.pending {
                if !after.pending.contains_key(key) {
                    self.0.insert(pending.flow.pair_key());
                }
            }
        }
        self.0.retain(|key| match after.pending.get(key) {
            Some(_) => {
                before.pending.get(key).map(|p| p.flow.pair_key())
                    == after.pending.get(key).map(|p| p.flow.pair_key())
            }
            None => false,
        });
    }
}

/// What holds of the tables after every step.
pub fn check_tables(after: &Tables, orphans: &Orphans) -> Checked {
    for (key, flow) in &after.flows {
        let pair = after.flows.get(&flow.pair_key());
        prop_assert!(pair.is_some(), "half a pair in FLOWS: {key:?}");
        check_pair(key, flow, pair.expect("just seen"))?;
        prop_assert!(!after.pending.contains_key(key), "{key:?} is in both");
    }
    for (key, pending) in &after.pending {
        let pair = after.pending.get(&pending.flow.pair_key());
        match pair.filter(|pair| pair.flow.pair_key() == *key) {
            Some(pair) => check_pair(key, &pending.flow, &pair.flow)?,
            None => prop_assert!(
                orphans.0.contains(key),
                "{key:?} in PENDING lost its other half, and was not pushed out"
            ),
        }
    }
    Ok(())
}

/// The two halves of a pair tell of one connection.
fn check_pair(key: &Key, flow: &Flow<Ipv4>, pair: &Flow<Ipv4>) -> Checked {
    prop_assert_eq!(pair.pair_key(), *key, "a reverse key serves another");
    prop_assert_ne!(flow.direction(), pair.direction());
    prop_assert_eq!(flow.target, pair.target);
    prop_assert_eq!(flow.generation, pair.generation);
    prop_assert_eq!(flow.service, pair.service);
    Ok(())
}

/// An established flow stays with its target, and goes only for a reason.
pub fn check_established(
    world: &World,
    before: &Tables,
    after: &Tables,
    happening: &Happening,
) -> Checked {
    for (key, old) in &before.flows {
        let Some(new) = after.flows.get(key) else {
            let reaped = matches!(happening, Happening::Reap);
            prop_assert!(reaped || before.over(world, key, old), "{key:?} is gone");
            continue;
        };
        prop_assert_eq!(old.target, new.target, "{:?} moved", key);
        prop_assert_eq!(old.generation, new.generation, "{:?} was renewed", key);
        prop_assert_eq!(old.rewrite, new.rewrite, "{:?} goes elsewhere", key);
    }
    Ok(())
}

/// What holds of every packet.
pub fn check_passage(world: &World, before: &Tables, passage: &Passage) -> Checked {
    let Passage {
        before: packet,
        verdict,
        after: frame,
    } = passage;
    let key = packet.key();
    match verdict.fate() {
        Fate::Pass | Fate::Drop => {
            prop_assert_eq!(packet, frame, "an untouched packet is untouched");
        }
        Fate::Reset => {
            prop_assert!(!packet.tcp.flags.intersect(Flags::RST), "a RST is answered");
            prop_assert!(checksums_valid(frame));
            prop_assert_eq!(frame.key(), key.reversed());
        }
        Fate::Transmit => {
            prop_assert!(checksums_valid(frame));
            check_transmitted(world, before, passage)?;
        }
    }
    if let Some(old) = before.flows.get(&key) {
        let stale = world.generation(old.target) != old.generation;
        let may_go_on = !stale || verdict.reason == Reason::Opened;
        let goes_on = verdict.fate() == Fate::Transmit;
        prop_assert!(may_go_on || !goes_on, "a connection that was cut goes on");
    }
    Ok(())
}

/// A segment that goes on, goes where the other direction comes from.
fn check_transmitted(world: &World, before: &Tables, passage: &Passage) -> Checked {
    let (packet, frame) = (passage.before.key(), passage.after.key());
    let after = Tables::of(world);
    let find = |key| after.find(key).or_else(|| before.find(key));
    let (Some(flow), Some(pair)) = (find(&packet), find(&frame.reversed())) else {
        prop_assert!(false, "{packet:?} goes on along no pair");
        return Ok(());
    };
    prop_assert_eq!(flow.rewrite, frame);
    prop_assert_eq!(pair.rewrite.reversed(), packet, "and back to another");
    prop_assert_eq!(
        world.generation(flow.target),
        flow.generation,
        "to a target that was cut"
    );
    prop_assert_eq!(passage.verdict.target, flow.target);
    if passage.verdict.direction == Direction::Forward {
        let server = world.tables.targets[&flow.target].server;
        prop_assert_eq!(frame.destination, server);
    }
    Ok(())
}

/// Nobody finishes a handshake who has not seen the server's SYN+ACK.
pub fn check_proof(happening: &Happening, passage: &Passage) -> Checked {
    if let Happening::Client(_, _, Number::Wrong(number)) = happening {
        let reason = passage.verdict.reason;
        prop_assert_ne!(reason, Reason::Established, "by guessing {}", number);
    }
    Ok(())
}

/// A connection that is used is not idle.
pub fn check_time(world: &World, after: &Tables, passage: &Passage) -> Checked {
    if let Some(flow) = after.flows.get(&passage.before.key())
        && passage.verdict.fate() == Fate::Transmit
    {
        prop_assert_eq!(flow.last_seen, world.now);
    }
    Ok(())
}
