//! The tables that steering reads and writes, as a trait: BPF maps in the
//! kernel, ordinary maps in a test.
//!
//! Every method is safe to call while other CPUs do the same.

use crate::addr::Address;
use crate::flow::{Flow, FlowKey, Pending, Step, Tick};
use crate::service::{Listener, Service};
use crate::target::{Generation, Target, TargetId};

/// A flow in its place in FLOWS.
pub trait FlowEntry<A> {
    /// The flow as it stands now.
    fn get(&self) -> Flow<A>;
    /// Notes that a segment passed.
    fn touch(&self, now: Tick);
    /// Notes a step in the connection's progress.
    fn advance(&self, step: Step);
}

/// What became of an insertion under a key that must be new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Inserted {
    /// The entry is there now.
    Yes,
    /// Another entry has the key.
    Exists,
    /// There is no room.
    Full,
}

/// The maps of DESIGN's data path.
pub trait Tables<A: Address> {
    /// What [`Tables::flow`] finds.
    type FlowEntry: FlowEntry<A>;

    /// FLOWS.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::FlowEntry>;
    /// FLOWS, a new entry.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Inserted;
    /// FLOWS, an entry less; it need not be there.
    fn remove_flow(&self, key: &FlowKey<A>);

    /// PENDING.
    fn pending(&self, key: &FlowKey<A>) -> Option<Pending<A>>;
    /// PENDING, a new entry.
    fn insert_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) -> Inserted;
    /// PENDING, an entry that is there already, changed.
    fn replace_pending(&self, key: &FlowKey<A>, pending: &Pending<A>);
    /// PENDING, an entry less; it need not be there.
    fn remove_pending(&self, key: &FlowKey<A>);

    /// SERVICES.
    fn service(&self, listener: &Listener<A>) -> Option<Service>;
    /// SLOTS.
    fn slot(&self, index: u32) -> TargetId;
    /// TARGETS.
    fn target(&self, id: TargetId) -> Option<Target<A>>;
    /// GENERATIONS.
    fn generation(&self, id: TargetId) -> Generation;
}
