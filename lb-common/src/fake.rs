//! Tables and packets in ordinary memory: what a test, a fuzzer or a
//! simulator puts in the place of BPF maps and XDP buffers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::addr::Ipv4;
use crate::datapath::Packet;
use crate::flow::{Flow, FlowKey, Pending, Progress, Step, Tick};
use crate::layout::{bytes_of, read_from};
use crate::service::{Listener, Service};
use crate::tables::{FlowEntry, Inserted, Tables};
use crate::target::{Generation, Target, TargetId};
use crate::wire::checksum::{self, Sum};
use crate::wire::frame::Headers;

type Key = FlowKey<Ipv4>;

/// The maps, with room for [`FakeTables::flows_max`] flows.
#[derive(Debug)]
pub struct FakeTables {
    /// FLOWS.
    pub flows: RefCell<BTreeMap<Key, Rc<Cell<Flow<Ipv4>>>>>,
    /// PENDING.
    pub pending: RefCell<BTreeMap<Key, Pending<Ipv4>>>,
    /// SERVICES.
    pub services: BTreeMap<Listener<Ipv4>, Service>,
    /// SLOTS.
    pub slots: BTreeMap<u32, TargetId>,
    /// TARGETS.
    pub targets: BTreeMap<TargetId, Target<Ipv4>>,
    /// GENERATIONS.
    pub generations: BTreeMap<TargetId, Generation>,
    /// How many entries FLOWS takes.
    pub flows_max: usize,
}

impl Default for FakeTables {
    fn default() -> Self {
        Self {
            flows: RefCell::default(),
            pending: RefCell::default(),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            targets: BTreeMap::new(),
            generations: BTreeMap::new(),
            flows_max: usize::MAX,
        }
    }
}

impl FakeTables {
    /// Cuts a target off: all of its flows are stale from now on.
    pub fn cut(&mut self, id: TargetId) {
        self.generations.entry(id).or_default().0 += 1;
    }

    /// The flow under `key`, as it stands now.
    #[must_use]
    pub fn flow_at(&self, key: &Key) -> Option<Flow<Ipv4>> {
        self.flows.borrow().get(key).map(|flow| flow.get())
    }
}

impl FlowEntry<Ipv4> for Rc<Cell<Flow<Ipv4>>> {
    fn get(&self) -> Flow<Ipv4> {
        Cell::get(self)
    }

    fn touch(&self, now: Tick) {
        let mut flow = Cell::get(self);
        flow.last_seen = now;
        self.set(flow);
    }

    fn advance(&self, step: Step) {
        let mut flow = Cell::get(self);
        match step {
            Step::ClientFin => flow.progress.client_fin = 1,
            Step::ServerFin => flow.progress.server_fin = 1,
            Step::ServerFinFirst => flow.progress.server_fin = Progress::FIRST,
            Step::Reset => flow.progress.reset = 1,
        }
        self.set(flow);
    }
}

impl Tables<Ipv4> for FakeTables {
    type FlowEntry = Rc<Cell<Flow<Ipv4>>>;

    fn flow(&self, key: &Key) -> Option<Self::FlowEntry> {
        self.flows.borrow().get(key).cloned()
    }

    fn insert_flow(&self, key: &Key, flow: &Flow<Ipv4>) -> Inserted {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Inserted::Exists;
        }
        if flows.len() >= self.flows_max {
            return Inserted::Full;
        }
        flows.insert(*key, Rc::new(Cell::new(*flow)));
        Inserted::Yes
    }

    fn remove_flow(&self, key: &Key) {
        self.flows.borrow_mut().remove(key);
    }

    fn pending(&self, key: &Key) -> Option<Pending<Ipv4>> {
        self.pending.borrow().get(key).copied()
    }

    fn insert_pending(&self, key: &Key, pending: &Pending<Ipv4>) -> Inserted {
        let mut all = self.pending.borrow_mut();
        if all.contains_key(key) {
            return Inserted::Exists;
        }
        all.insert(*key, *pending);
        Inserted::Yes
    }

    fn replace_pending(&self, key: &Key, pending: &Pending<Ipv4>) {
        if let Some(entry) = self.pending.borrow_mut().get_mut(key) {
            *entry = *pending;
        }
    }

    fn remove_pending(&self, key: &Key) {
        self.pending.borrow_mut().remove(key);
    }

    fn service(&self, listener: &Listener<Ipv4>) -> Option<Service> {
        self.services.get(listener).copied()
    }

    fn slot(&self, index: u32) -> TargetId {
        self.slots.get(&index).copied().unwrap_or_default()
    }

    fn target(&self, id: TargetId) -> Option<Target<Ipv4>> {
        // An array: every element is there from the start, as zeros.
        let target = self.targets.get(&id).copied().unwrap_or_default();
        (id.0 < TargetId::CAPACITY).then_some(target)
    }

    fn generation(&self, id: TargetId) -> Generation {
        self.generations.get(&id).copied().unwrap_or_default()
    }
}

/// A frame in ordinary memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FakePacket {
    headers: Option<Headers>,
    rest: Vec<u8>,
}

impl FakePacket {
    /// The frame that consists of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let headers = read_from(bytes);
        let rest = bytes[headers.map_or(0, |_: Headers| Headers::LENGTH)..].to_vec();
        Self { headers, rest }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self
            .headers
            .as_ref()
            .map_or(Vec::new(), |h| bytes_of(h).to_vec());
        bytes.extend_from_slice(&self.rest);
        bytes
    }
}

impl Packet for FakePacket {
    fn length(&self) -> usize {
        self.headers.map_or(0, |_| Headers::LENGTH) + self.rest.len()
    }

    fn headers(&mut self) -> Option<&mut Headers> {
        self.headers.as_mut()
    }

    fn transport_sum(&self, length: u16) -> Option<Sum> {
        let tcp = size_of::<crate::wire::tcp::TcpHeader>();
        let bytes = self.bytes();
        let segment = bytes.get(Headers::LENGTH - tcp..)?;
        Some(checksum::sum(segment.get(..usize::from(length))?))
    }

    fn truncate(&mut self) -> Option<()> {
        self.rest.clear();
        Some(())
    }
}
