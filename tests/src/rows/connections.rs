//! What the tables hold of connections, as far as a row compares it.

use std::collections::BTreeMap;

use lb_common::addr::{Address, Ipv4};
use lb_common::flow::{Direction, Flow, FlowKey, Pending, Progress, Tick};
use lb_common::limit::SourceState;
use lb_common::service::{ServiceId, SourceKey};
use lb_common::tables::Affinity;
use lb_common::target::{Target, TargetId};

/// A flow and its key.
pub type Entry<A = Ipv4> = (FlowKey<A>, Flow<A>);

/// A moment that never comes, for what is due in some future.
pub const SOME_DAY: u64 = 1 << 62;

/// What FLOWS, PENDING, SOURCES and AFFINITIES hold, and what is counted as
/// open. Moments do not count: they are zero, or [`SOME_DAY`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connections<A: Address = Ipv4> {
    /// FLOWS.
    pub flows: BTreeMap<FlowKey<A>, Flow<A>>,
    /// PENDING.
    pub pending: BTreeMap<FlowKey<A>, Pending<A>>,
    /// SOURCES.
    pub sources: BTreeMap<SourceKey<A>, SourceState>,
    /// AFFINITIES.
    pub affinities: BTreeMap<SourceKey<A>, Affinity>,
    /// LOAD, open connections: those that are not 0.
    pub open: BTreeMap<TargetId, u32>,
    /// SERVICE_LOAD: those that are not 0.
    pub open_of_services: BTreeMap<ServiceId, u32>,
}

impl<A: Address> Default for Connections<A> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            pending: BTreeMap::new(),
            sources: BTreeMap::new(),
            affinities: BTreeMap::new(),
            open: BTreeMap::new(),
            open_of_services: BTreeMap::new(),
        }
    }
}

impl<A: Address> Connections<A> {
    /// The same without moments, and without what is 0.
    #[must_use]
    pub fn timeless(mut self) -> Self {
        for flow in self.flows.values_mut() {
            flow.last_seen = Tick(0);
        }
        for pending in self.pending.values_mut() {
            pending.flow.last_seen = Tick(0);
            pending.opened = 0;
        }
        for source in self.sources.values_mut() {
            source.due = if source.due == 0 { 0 } else { SOME_DAY };
        }
        for affinity in self.affinities.values_mut() {
            affinity.since = Tick(0);
        }
        self.open.retain(|_, open| *open != 0);
        self.open_of_services.retain(|_, open| *open != 0);
        self
    }

    /// With the counts that belong to the flows, of connections to `targets`:
    /// of what is not closed.
    #[must_use]
    pub fn counted(mut self, targets: &BTreeMap<TargetId, Target<A>>) -> Self {
        for flow in self.flows.values() {
            if flow.direction() == Direction::Forward && !flow.progress().closed() {
                *self.open.entry(flow.target()).or_default() += 1;
                *self.open.entry(TargetId::NONE).or_default() += 1;
                let service = targets[&flow.target()].service;
                *self.open_of_services.entry(service).or_default() += 1;
            }
        }
        self
    }
}

/// An entry of PENDING whose server has said nothing yet.
#[must_use]
pub fn unanswered<A: Address>((key, flow): Entry<A>) -> (FlowKey<A>, Pending<A>) {
    let pending = Pending {
        flow,
        server_sequence: 0,
        opened: 0,
        progress: Progress(0),
    };
    (key, pending)
}
