//! The steering policy's tables on top of the BPF maps.
//!
//! What a look-up finds stays readable until the program ends: the kernel
//! frees map memory no earlier (RCU). An element may be given to another key
//! meanwhile, in which case a neighbour's time stamp or marks are touched: a
//! moment's harm, and only when an entry is removed in the same microsecond.

use core::ops::Deref;

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::maps::lpm_trie::Key;
use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::filter::{Filter, Place};
use lb_common::flow::{Flow, FlowKey, Pending, Progress, Tick};
use lb_common::layout::PackedKey;
use lb_common::limit::SourceState;
use lb_common::service::{Listener, Prefix, Rule, Service, ServiceId, SourceKey};
use lb_common::steer::Case;
use lb_common::tables::{Affinity, FlowEntry, Inserted, Shared, SourceEntry, Tables};
use lb_common::target::{Generation, Load, Snat, Target, TargetId};
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader as _;

use crate::kernel::{self, fetch_add, fetch_or};
use crate::maps::{ADDRESSES, Family, GENERATIONS, IPV4, IPV6, LOAD, SERVICE_LOAD, SLOTS, TURNS};

/// Set by the agent before it loads the program: how many connections there
/// may be.
#[unsafe(no_mangle)]
static CONNECTIONS_MAX: u32 = u32::MAX;

/// -EEXIST.
const EXISTS: i32 = -17;

/// The tables, in BPF maps.
pub struct Maps;

impl Maps {
    /// This CPU's memory for a case.
    #[inline(always)]
    pub fn case<'a, A: Maintained>() -> Option<&'a mut Case<A>> {
        // SAFETY: the element is there as long as the map, and this CPU's own:
        // programs on one CPU do not interrupt each other, and each asks once.
        // All zero, as the kernel makes it, is a case; and later it holds what
        // was stored in it as one.
        A::MAPS
            .cases
            .get_ptr_mut(0)
            .map(|case| unsafe { &mut *case })
    }
}

/// A flow in its place.
pub struct Flows<A>(*mut Flow<A>);

impl<A: Address> FlowEntry<A> for Flows<A> {
    #[inline(always)]
    fn get(&self) -> Flow<A> {
        // SAFETY: found in this run of the program (see above). Other CPUs
        // change when it was last seen and how far it has come, and nothing
        // else, each by one store.
        unsafe { self.0.read() }
    }

    #[inline(always)]
    fn touch(&self, now: Tick) {
        // SAFETY: as above. An aligned word is stored at once; volatile keeps
        // the compiler from splitting the store.
        unsafe {
            let last_seen = &raw mut (*self.0).last_seen;
            if last_seen.read_volatile() != now {
                last_seen.write_volatile(now);
            }
        }
    }

    #[inline(always)]
    fn advance(&self, marks: Progress) -> Progress {
        // SAFETY: as above; a forward flow's progress is an aligned word that
        // is only changed here.
        Progress(unsafe { fetch_or(&raw mut (*self.0).hop.ifindex, marks.0) })
    }
}

/// A source's account in its place.
pub struct Sources(*mut SourceState);

impl SourceEntry for Sources {
    #[inline(always)]
    fn get(&self) -> SourceState {
        // SAFETY: found in this run of the program (see above); each field is
        // changed by one store.
        unsafe { self.0.read() }
    }

    #[inline(always)]
    fn set_due(&self, due: u64) {
        // SAFETY: as above. Two CPUs at once may let one connection more in.
        unsafe { (&raw mut (*self.0).due).write_volatile(due) };
    }

    #[inline(always)]
    fn open(&self) -> u32 {
        // SAFETY: as above; `open` is only changed here and in `close`.
        unsafe { fetch_add(&raw mut (*self.0).open, 1) }
    }

    #[inline(always)]
    fn close(&self) {
        // SAFETY: as above. An account that was pushed out begins anew from 0,
        // and does not count below.
        unsafe {
            let open = &raw mut (*self.0).open;
            if fetch_add(open, u32::MAX) == 0 {
                fetch_add(open, 1);
            }
        }
    }
}

impl Shared for Maps {
    #[inline(always)]
    fn slot(&self, index: u32) -> TargetId {
        TargetId(word(SLOTS.get_ptr_mut(index).map(|slot| slot.cast())))
    }

    #[inline(always)]
    fn generation(&self, id: TargetId) -> Generation {
        let generation = GENERATIONS.get_ptr_mut(id.0);
        Generation(word(generation.map(|generation| generation.cast())))
    }

    #[inline(always)]
    fn load(&self, id: TargetId) -> Load {
        // SAFETY: the element is there as long as the map; each word of it is
        // changed by one store.
        LOAD.get_ptr(id.0)
            .map_or(Load::default(), |load| unsafe { load.read() })
    }

    #[inline(always)]
    fn open(&self, id: TargetId) -> u32 {
        add_open(id, 1)
    }

    #[inline(always)]
    fn close(&self, id: TargetId) {
        add_open(id, u32::MAX);
    }

    #[inline(always)]
    fn set_latency(&self, id: TargetId, latency: u32) {
        if let Some(load) = LOAD.get_ptr_mut(id.0) {
            // SAFETY: as in `load`. Of two CPUs at once one sample is lost.
            unsafe { (&raw mut (*load).latency).write_volatile(latency) };
        }
    }

    #[inline(always)]
    fn service_load(&self, id: ServiceId) -> u32 {
        word(SERVICE_LOAD.get_ptr_mut(u32::from(id.0)))
    }

    #[inline(always)]
    fn service_open(&self, id: ServiceId) -> u32 {
        add(SERVICE_LOAD.get_ptr_mut(u32::from(id.0)), 1)
    }

    #[inline(always)]
    fn service_close(&self, id: ServiceId) {
        add(SERVICE_LOAD.get_ptr_mut(u32::from(id.0)), u32::MAX);
    }

    #[inline(always)]
    fn turn(&self, id: ServiceId) -> u32 {
        add(TURNS.get_ptr_mut(u32::from(id.0)), 1)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        kernel::random()
    }

    #[inline(always)]
    fn microseconds(&self) -> u64 {
        kernel::microseconds()
    }

    #[inline(always)]
    fn connections_max(&self) -> u32 {
        // SAFETY: the static is valid and nobody writes to it once the program
        // is loaded. Volatile, because the agent changes it before that, where
        // the compiler cannot see it.
        unsafe { core::ptr::read_volatile(&raw const CONNECTIONS_MAX) }
    }
}

#[inline(always)]
fn add_open(id: TargetId, addend: u32) -> u32 {
    // SAFETY: the element is there as long as the map; only the address is
    // taken.
    let open = LOAD
        .get_ptr_mut(id.0)
        .map(|load| unsafe { &raw mut (*load).open });
    add(open, addend)
}

/// Adds to a word of an array; gives the word before, 0 where there is none.
#[inline(always)]
fn add(element: Option<*mut u32>, addend: u32) -> u32 {
    // SAFETY: the element is there as long as the map, is aligned, and is
    // only changed here while connections come and go.
    element.map_or(0, |word| unsafe { fetch_add(word, addend) })
}

/// The word that an array element consists of; 0 where there is none.
#[inline(always)]
fn word(element: Option<*mut u32>) -> u32 {
    // SAFETY: the element is there as long as the map, is aligned, and is
    // only ever stored as a whole word.
    element.map_or(0, |word| unsafe { word.read_volatile() })
}

/// A copy of what a look-up found.
#[inline(always)]
fn copy<T: Copy>(found: Option<*const T>) -> Option<T> {
    // SAFETY: found in this run of the program (see above), and replaced whole.
    found.map(|found| unsafe { found.read() })
}

/// What a look-up found, in its place.
pub struct Found<T>(*const T);

impl<T> Deref for Found<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: found in this run of the program (see above). Entries are
        // replaced whole. Over a target the agent may be copying a new next
        // hop: at worst one packet leaves with half of it; what else there is
        // in a target and matters to open connections never changes for an id
        // in use. All fields are integers, so that what is read while it
        // changes is still a value.
        unsafe { &*self.0 }
    }
}

/// Whether a bit of ADDRESSES' element is set.
#[inline(always)]
fn has(filter: *const Filter, (word, bit): Place) -> bool {
    // SAFETY: the element is there as long as the map, and `word` lies within
    // it.
    unsafe { filter.cast::<u64>().add(word).read_volatile() & bit != 0 }
}

/// The maps for a family of addresses.
pub trait Maintained: Address + 'static {
    const MAPS: Family<Self>;
}

impl Maintained for Ipv4 {
    const MAPS: Family<Self> = IPV4;
}

impl Maintained for Ipv6 {
    const MAPS: Family<Self> = IPV6;
}

impl<A: Maintained> Tables<A> for Maps {
    type FlowEntry = Flows<A>;
    type PendingEntry = Found<Pending<A>>;
    type ServiceEntry = Found<Service>;
    type TargetEntry = Found<Target<A>>;
    type SourceEntry = Sources;

    #[inline(always)]
    fn may_be_ours(&self, address: A) -> bool {
        ADDRESSES
            .get_ptr(0)
            .is_some_and(|filter| has(filter, Filter::place(address)))
    }

    #[inline(always)]
    fn may_come_to_us(&self, headers: &Headers<A::Header>) -> bool {
        ADDRESSES.get_ptr(0).is_some_and(|filter| {
            let [one, block] =
                Filter::places(headers.network.destination(), headers.tcp.destination);
            has(filter, one) || has(filter, block)
        })
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<Flows<A>> {
        A::MAPS
            .flows
            .get_ptr_mut(<&PackedKey<A>>::from(key))
            .map(Flows)
    }

    #[inline(always)]
    fn flow_of(&self, headers: &Headers<A::Header>) -> Option<Flows<A>> {
        A::MAPS.flows.get_ptr_mut(PackedKey::of(headers)).map(Flows)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Inserted {
        inserted(
            A::MAPS
                .flows
                .insert(<&PackedKey<A>>::from(key), flow, u64::from(BPF_NOEXIST)),
        )
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey<A>) {
        // Gone already is as good.
        let _ = A::MAPS.flows.remove(<&PackedKey<A>>::from(key));
    }

    #[inline(always)]
    fn pending(&self, key: &FlowKey<A>) -> Option<Found<Pending<A>>> {
        A::MAPS.pending.get_ptr(key).map(Found)
    }

    #[inline(always)]
    fn insert_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) -> Inserted {
        inserted(A::MAPS.pending.insert(key, pending, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn replace_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) {
        // Gone means pushed out: the handshake is lost whatever we do.
        let _ = A::MAPS.pending.insert(key, pending, u64::from(BPF_EXIST));
    }

    #[inline(always)]
    fn remove_pending(&self, key: &FlowKey<A>) {
        // Gone already is as good.
        let _ = A::MAPS.pending.remove(key);
    }

    #[inline(always)]
    fn service(&self, listener: &Listener<A>) -> Option<Found<Service>> {
        A::MAPS.services.get_ptr(listener).map(Found)
    }

    #[inline(always)]
    fn target(&self, id: TargetId) -> Option<Found<Target<A>>> {
        A::MAPS.targets.get_ptr(id.0).map(Found)
    }

    #[inline(always)]
    fn snat(&self, index: u32) -> Option<Snat<A>> {
        copy(A::MAPS.snats.get_ptr(index))
    }

    #[inline(always)]
    fn rule(&self, service: ServiceId, address: A) -> Option<Rule> {
        let key = Key::new(Prefix::<A>::HOST_BITS, Prefix::new(service, address));
        A::MAPS.prefixes.get(key).copied()
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey<A>) -> Option<Sources> {
        let known = self.known_source(key);
        if known.is_some() {
            return known;
        }
        let fresh = SourceState::default();
        // Another CPU may be quicker; no room means that the next look-up
        // finds nothing.
        let _ = A::MAPS.sources.insert(key, fresh, u64::from(BPF_NOEXIST));
        self.known_source(key)
    }

    #[inline(always)]
    fn known_source(&self, key: &SourceKey<A>) -> Option<Sources> {
        A::MAPS.sources.get_ptr_mut(key).map(Sources)
    }

    #[inline(always)]
    fn affinity(&self, key: &SourceKey<A>) -> Option<Affinity> {
        copy(A::MAPS.affinities.get_ptr(key))
    }

    #[inline(always)]
    fn set_affinity(&self, key: &SourceKey<A>, affinity: &Affinity) {
        // No room: the client is hashed again next time.
        let _ = A::MAPS.affinities.insert(key, affinity, u64::from(BPF_ANY));
    }
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Inserted {
    match result {
        Ok(()) => Inserted::Yes,
        Err(EXISTS) => Inserted::Exists,
        // -E2BIG; -ENOMEM and -EBUSY are the same to us: not now.
        Err(_) => Inserted::Full,
    }
}
