//! Tables and packets in ordinary memory: what a test, a fuzzer or a
//! simulator puts in the place of BPF maps and XDP buffers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use crate::account;
use crate::addr::{Address, Ipv4};
use crate::datapath::{Departure, Packet, carry_out, decide, quickly, recognise};
use crate::filter::Filter;
use crate::flow::{Flow, FlowKey, Pending, Progress, Tick};
use crate::icmp::translate;
use crate::layout::{Plain, bytes_of, read_from, view};
use crate::limit::SourceState;
use crate::nat::PartialChecksum;
use crate::service::{Listener, Rule, Service, ServiceId, SourceKey};
use crate::steer::Case;
use crate::tables::{Affinity, FlowEntry, Inserted, Shared, SourceEntry, Tables};
use crate::target::{Generation, Load, Snat, Target, TargetId};
use crate::verdict::{Reason, Verdict};
use crate::wire::checksum::{self, Sum};
use crate::wire::eth::{EthernetHeader, VlanTag};
use crate::wire::frame::Headers;
use crate::wire::network::NetworkHeader;

/// Flows in their places.
type Flows<A> = BTreeMap<FlowKey<A>, Rc<Cell<Flow<A>>>>;

/// The maps for one family of addresses, with room for
/// [`FakeTables::flows_max`] flows.
#[derive(Debug)]
pub struct FakeTables<A: Copy = Ipv4> {
    /// FLOWS.
    pub flows: RefCell<Flows<A>>,
    /// PENDING.
    pub pending: RefCell<BTreeMap<FlowKey<A>, Pending<A>>>,
    /// ADDRESSES; without it, any address may be ours.
    pub addresses: Option<Filter>,
    /// SERVICES.
    pub services: BTreeMap<Listener<A>, Service>,
    /// SLOTS.
    pub slots: BTreeMap<u32, TargetId>,
    /// TARGETS.
    pub targets: BTreeMap<TargetId, Target<A>>,
    /// SNATS.
    pub snats: Vec<Snat<A>>,
    /// GENERATIONS.
    pub generations: BTreeMap<TargetId, Generation>,
    /// PREFIXES: exact addresses only.
    pub rules: BTreeMap<(ServiceId, A), Rule>,
    /// SOURCES.
    pub sources: RefCell<BTreeMap<SourceKey<A>, Rc<Cell<SourceState>>>>,
    /// AFFINITIES.
    pub affinities: RefCell<BTreeMap<SourceKey<A>, Affinity>>,
    /// LOAD.
    pub load: RefCell<BTreeMap<TargetId, Load>>,
    /// SERVICE_LOAD.
    pub service_load: RefCell<BTreeMap<ServiceId, u32>>,
    /// TURNS.
    pub turns: RefCell<BTreeMap<ServiceId, u32>>,
    /// The state of a small generator of numbers.
    pub random: Cell<u32>,
    /// The exact clock.
    pub microseconds: Cell<u64>,
    /// How many entries FLOWS takes.
    pub flows_max: usize,
    /// How many connections there may be.
    pub connections_max: u32,
}

impl<A: Address> Default for FakeTables<A> {
    fn default() -> Self {
        Self {
            flows: RefCell::default(),
            pending: RefCell::default(),
            addresses: None,
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            targets: BTreeMap::new(),
            snats: Vec::new(),
            generations: BTreeMap::new(),
            rules: BTreeMap::new(),
            sources: RefCell::default(),
            affinities: RefCell::default(),
            load: RefCell::default(),
            service_load: RefCell::default(),
            turns: RefCell::default(),
            random: Cell::new(1),
            microseconds: Cell::new(0),
            flows_max: usize::MAX,
            connections_max: u32::MAX,
        }
    }
}

impl<A: Address> FakeTables<A> {
    /// Cuts a target off: all of its flows are stale from now on.
    pub fn cut(&mut self, id: TargetId) {
        self.generations.entry(id).or_default().0 += 1;
    }

    /// The flow under `key`, as it stands now.
    #[must_use]
    pub fn flow_at(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.flows.borrow().get(key).map(|flow| flow.get())
    }

    /// How many connections are open at a target.
    #[must_use]
    pub fn open_at(&self, id: TargetId) -> u32 {
        self.load(id).open
    }

    /// As the agent does it: see [`account::reap`].
    pub fn reap(&self, key: &FlowKey<A>, idle_since: Tick) -> bool {
        account::reap(self, key, idle_since)
    }

    fn change_load(&self, id: TargetId, change: impl FnOnce(&mut Load)) {
        change(self.load.borrow_mut().entry(id).or_default());
    }
}

impl<A: Address> FlowEntry<A> for Rc<Cell<Flow<A>>> {
    fn get(&self) -> Flow<A> {
        Cell::get(self)
    }

    fn touch(&self, now: Tick) {
        let mut flow = Cell::get(self);
        flow.last_seen = now;
        self.set(flow);
    }

    fn advance(&self, marks: Progress) -> Progress {
        let mut flow = Cell::get(self);
        let before = flow.progress();
        flow = flow.progressed(before.with(marks));
        self.set(flow);
        before
    }
}

impl SourceEntry for Rc<Cell<SourceState>> {
    fn get(&self) -> SourceState {
        Cell::get(self)
    }

    fn set_due(&self, due: u64) {
        self.set(SourceState {
            due,
            ..Cell::get(self)
        });
    }

    fn open(&self) -> u32 {
        let state = Cell::get(self);
        self.set(SourceState {
            open: state.open + 1,
            ..state
        });
        state.open
    }

    fn close(&self) {
        let state = Cell::get(self);
        self.set(SourceState {
            open: state.open.saturating_sub(1),
            ..state
        });
    }
}

impl<A: Address> Shared for FakeTables<A> {
    fn slot(&self, index: u32) -> TargetId {
        self.slots.get(&index).copied().unwrap_or_default()
    }

    fn generation(&self, id: TargetId) -> Generation {
        self.generations.get(&id).copied().unwrap_or_default()
    }

    fn load(&self, id: TargetId) -> Load {
        self.load.borrow().get(&id).copied().unwrap_or_default()
    }

    fn open(&self, id: TargetId) -> u32 {
        let before = self.load(id).open;
        self.change_load(id, |load| load.open += 1);
        before
    }

    /// # Panics
    /// Where there are more closed connections than open ones.
    fn close(&self, id: TargetId) {
        self.change_load(id, |load| {
            load.open = load.open.checked_sub(1).expect("closed once");
        });
    }

    fn set_latency(&self, id: TargetId, latency: u32) {
        self.change_load(id, |load| load.latency = latency);
    }

    fn service_load(&self, id: ServiceId) -> u32 {
        let load = self.service_load.borrow();
        load.get(&id).copied().unwrap_or_default()
    }

    fn service_open(&self, id: ServiceId) -> u32 {
        let mut load = self.service_load.borrow_mut();
        let open = load.entry(id).or_default();
        *open += 1;
        *open - 1
    }

    /// # Panics
    /// Where there are more closed connections than open ones.
    fn service_close(&self, id: ServiceId) {
        let mut load = self.service_load.borrow_mut();
        let open = load.entry(id).or_default();
        *open = open.checked_sub(1).expect("closed once");
    }

    fn turn(&self, id: ServiceId) -> u32 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(id).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    /// Marsaglia's xorshift.
    fn random(&self) -> u32 {
        let mut word = self.random.get();
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        self.random.set(word);
        word
    }

    fn microseconds(&self) -> u64 {
        self.microseconds.get()
    }

    fn connections_max(&self) -> u32 {
        self.connections_max
    }
}

/// A copy of what a look-up found.
#[derive(Clone, Copy, Debug)]
pub struct Copied<T>(T);

impl<T> Deref for Copied<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<A: Address> Tables<A> for FakeTables<A> {
    type FlowEntry = Rc<Cell<Flow<A>>>;
    type PendingEntry = Copied<Pending<A>>;
    type ServiceEntry = Copied<Service>;
    type TargetEntry = Copied<Target<A>>;
    type SourceEntry = Rc<Cell<SourceState>>;

    fn may_be_ours(&self, address: A) -> bool {
        self.addresses.is_none_or(|filter| filter.contains(address))
    }

    fn may_come_to_us(&self, headers: &Headers<A::Header>) -> bool {
        let (address, port) = (headers.network.destination(), headers.tcp.destination);
        self.addresses
            .is_none_or(|filter| filter.contains_port(address, port))
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<Self::FlowEntry> {
        self.flows.borrow().get(key).cloned()
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Inserted {
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

    fn remove_flow(&self, key: &FlowKey<A>) {
        self.flows.borrow_mut().remove(key);
    }

    fn pending(&self, key: &FlowKey<A>) -> Option<Copied<Pending<A>>> {
        self.pending.borrow().get(key).copied().map(Copied)
    }

    fn insert_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) -> Inserted {
        let mut all = self.pending.borrow_mut();
        if all.contains_key(key) {
            return Inserted::Exists;
        }
        all.insert(*key, *pending);
        Inserted::Yes
    }

    fn replace_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) {
        if let Some(entry) = self.pending.borrow_mut().get_mut(key) {
            *entry = *pending;
        }
    }

    fn remove_pending(&self, key: &FlowKey<A>) {
        self.pending.borrow_mut().remove(key);
    }

    fn service(&self, listener: &Listener<A>) -> Option<Copied<Service>> {
        self.services.get(listener).copied().map(Copied)
    }

    fn target(&self, id: TargetId) -> Option<Copied<Target<A>>> {
        // An array: every element is there from the start, as zeros.
        let target = self.targets.get(&id).copied().unwrap_or_default();
        (id.0 < TargetId::CAPACITY).then_some(Copied(target))
    }

    fn snat(&self, index: u32) -> Option<Snat<A>> {
        self.snats.get(index as usize).copied()
    }

    fn rule(&self, service: ServiceId, address: A) -> Option<Rule> {
        self.rules.get(&(service, address)).copied()
    }

    fn source(&self, key: &SourceKey<A>) -> Option<Self::SourceEntry> {
        Some(self.sources.borrow_mut().entry(*key).or_default().clone())
    }

    fn known_source(&self, key: &SourceKey<A>) -> Option<Self::SourceEntry> {
        self.sources.borrow().get(key).cloned()
    }

    fn affinity(&self, key: &SourceKey<A>) -> Option<Affinity> {
        self.affinities.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &SourceKey<A>, affinity: &Affinity) {
        self.affinities.borrow_mut().insert(*key, *affinity);
    }
}

/// A packet's whole way through the tables of its family, as a hook takes it.
pub fn process<A: Address, T: Tables<A>>(
    packet: &mut FakePacket,
    tables: &T,
    partial: PartialChecksum,
    now: Tick,
) -> Departure {
    match packet.ether_type() {
        None => return Departure::stays(Verdict::of_nobody(Reason::Truncated)),
        Some(ether_type) if ether_type == A::Header::ETHER_TYPE => {}
        Some(_) => return Departure::stays(Verdict::of_nobody(Reason::NotIp)),
    }
    if let Some(departure) = quickly(packet, tables, partial, || now) {
        return departure;
    }
    let mut case = Case::default();
    decide(packet, tables, &mut case, now);
    let ifindex = match case.verdict.reason {
        Reason::NotTcp => translate(packet, tables, &mut case),
        _ => carry_out(packet, &mut case, partial),
    };
    Departure {
        verdict: case.verdict,
        ifindex,
    }
}

/// A packet's way out of this host, as a hook takes it; none where it is no
/// reply of a server here.
pub fn process_leaving<A: Address, T: Tables<A>>(
    packet: &mut FakePacket,
    tables: &T,
    partial: PartialChecksum,
    now: Tick,
) -> Option<Verdict> {
    let mut case = Case::default();
    (packet.ether_type()? == A::Header::ETHER_TYPE && recognise(packet, tables, &mut case, now))
        .then(|| {
            carry_out(packet, &mut case, partial);
            case.verdict
        })
}

/// A frame in ordinary memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FakePacket {
    /// Words, because headers begin on even addresses.
    words: Vec<u16>,
    length: usize,
    /// Where the network header begins.
    network: usize,
    ifindex: u32,
}

impl FakePacket {
    /// The frame that consists of `bytes`, and came by NIC 1.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::arriving(bytes, 1)
    }

    /// The frame that consists of `bytes`, and came by a NIC.
    #[must_use]
    pub fn arriving(bytes: &[u8], ifindex: u32) -> Self {
        let words = bytes.chunks(2).map(|pair| {
            let second = pair.get(1).copied().unwrap_or(0);
            u16::from_ne_bytes([pair[0], second])
        });
        Self {
            words: words.collect(),
            length: bytes.len(),
            network: EthernetHeader::LENGTH,
            ifindex,
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.take(self.length).collect()
    }

    fn header<T: Plain>(&self, offset: usize) -> Option<T> {
        read_from(self.bytes().get(offset..)?)
    }
}

impl Packet for FakePacket {
    fn ether_type(&mut self) -> Option<u16> {
        let mut ether_type = self.header::<EthernetHeader>(0)?.ether_type;
        for _ in 0..VlanTag::MAX {
            if VlanTag::follows(ether_type) {
                ether_type = self.header::<VlanTag>(self.network)?.ether_type;
                self.network += VlanTag::LENGTH;
            }
        }
        Some(ether_type)
    }

    fn available(&self) -> usize {
        self.length - self.network
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn window<T: Plain>(&mut self) -> Option<(&mut EthernetHeader, &mut T)> {
        if self.length < self.network + size_of::<T>() {
            return None;
        }
        let (link, network) = self.words.split_at_mut(self.network / 2);
        Some((view(link)?, view(network)?))
    }

    fn transport_sum<A: Address>(&self, length: u16) -> Option<Sum> {
        let start = self.network + usize::from(A::Header::LENGTH);
        let bytes = self.bytes();
        Some(checksum::sum(
            bytes.get(start..)?.get(..usize::from(length))?,
        ))
    }

    fn truncate<A: Address>(&mut self) -> Option<()> {
        self.length = self.network + Headers::<A::Header>::LENGTH;
        self.words.truncate(self.length.div_ceil(2));
        Some(())
    }

    fn prepend<T: Plain>(&mut self, header: &T) -> Option<()> {
        let mut bytes = self.bytes();
        let network = self.network;
        bytes.splice(network..network, bytes_of(header).iter().copied());
        *self = Self::arriving(&bytes, self.ifindex);
        self.network = network;
        Some(())
    }
}
