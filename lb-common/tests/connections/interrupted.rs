//! Tables whose user is interrupted once, between two of its steps.

use std::cell::{Cell, RefCell};

use lb_common::addr::Ipv4;
use lb_common::fake::FakeTables;
use lb_common::flow::{Flow, FlowKey, Pending};
use lb_common::service::{Listener, Rule, ServiceId, SourceKey};
use lb_common::tables::{Affinity, Inserted, Shared, Tables};
use lb_common::target::{Generation, Load, Snat, TargetId};
use lb_common::wire::frame::Headers;
use lb_common::wire::ipv4::Ipv4Header;

/// Tables that let something happen before one of their user's steps.
pub struct Interrupted<'a> {
    pub tables: &'a FakeTables,
    pub steps_left: Cell<usize>,
    pub interruption: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
    /// The target that the agent cuts off, if it does.
    pub cut: &'a Cell<Option<TargetId>>,
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

impl Shared for Interrupted<'_> {
    fn slot(&self, index: u32) -> TargetId {
        let id = self.step().slot(index);
        if self.cut.get() == Some(id) {
            TargetId::NONE
        } else {
            id
        }
    }
    fn generation(&self, id: TargetId) -> Generation {
        let generation = self.step().generation(id);
        Generation(generation.0 + u32::from(self.cut.get() == Some(id)))
    }
    fn load(&self, id: TargetId) -> Load {
        self.step().load(id)
    }
    fn open(&self, id: TargetId) -> u32 {
        self.step().open(id)
    }
    fn close(&self, id: TargetId) {
        self.step().close(id);
    }
    fn set_latency(&self, id: TargetId, latency: u32) {
        self.step().set_latency(id, latency);
    }
    fn service_load(&self, id: ServiceId) -> u32 {
        self.step().service_load(id)
    }
    fn service_open(&self, id: ServiceId) -> u32 {
        self.step().service_open(id)
    }
    fn service_close(&self, id: ServiceId) {
        self.step().service_close(id);
    }
    fn turn(&self, id: ServiceId) -> u32 {
        self.step().turn(id)
    }
    fn random(&self) -> u32 {
        self.step().random()
    }
    fn microseconds(&self) -> u64 {
        self.step().microseconds()
    }
    fn connections_max(&self) -> u32 {
        self.step().connections_max()
    }
}

impl Tables<Ipv4> for Interrupted<'_> {
    type FlowEntry = <FakeTables as Tables<Ipv4>>::FlowEntry;
    type PendingEntry = <FakeTables as Tables<Ipv4>>::PendingEntry;
    type ServiceEntry = <FakeTables as Tables<Ipv4>>::ServiceEntry;
    type TargetEntry = <FakeTables as Tables<Ipv4>>::TargetEntry;
    type SourceEntry = <FakeTables as Tables<Ipv4>>::SourceEntry;

    fn may_be_ours(&self, address: Ipv4) -> bool {
        self.step().may_be_ours(address)
    }
    fn may_come_to_us(&self, headers: &Headers<Ipv4Header>) -> bool {
        self.step().may_come_to_us(headers)
    }
    fn flow(&self, key: &FlowKey<Ipv4>) -> Option<Self::FlowEntry> {
        self.step().flow(key)
    }
    fn insert_flow(&self, key: &FlowKey<Ipv4>, flow: &Flow<Ipv4>) -> Inserted {
        self.step().insert_flow(key, flow)
    }
    fn remove_flow(&self, key: &FlowKey<Ipv4>) {
        self.step().remove_flow(key);
    }
    fn pending(&self, key: &FlowKey<Ipv4>) -> Option<Self::PendingEntry> {
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
    fn service(&self, listener: &Listener<Ipv4>) -> Option<Self::ServiceEntry> {
        self.step().service(listener)
    }
    fn target(&self, id: TargetId) -> Option<Self::TargetEntry> {
        self.step().target(id)
    }
    fn snat(&self, index: u32) -> Option<Snat<Ipv4>> {
        self.step().snat(index)
    }
    fn rule(&self, service: ServiceId, address: Ipv4) -> Option<Rule> {
        self.step().rule(service, address)
    }
    fn source(&self, key: &SourceKey<Ipv4>) -> Option<Self::SourceEntry> {
        self.step().source(key)
    }
    fn known_source(&self, key: &SourceKey<Ipv4>) -> Option<Self::SourceEntry> {
        self.step().known_source(key)
    }
    fn affinity(&self, key: &SourceKey<Ipv4>) -> Option<Affinity> {
        self.step().affinity(key)
    }
    fn set_affinity(&self, key: &SourceKey<Ipv4>, affinity: &Affinity) {
        self.step().set_affinity(key, affinity);
    }
}
