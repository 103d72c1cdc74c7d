//! The BPF maps, and the steering policy's tables on top of them.
//!
//! Sizes are upper bounds or defaults; the agent sets the sizes of FLOWS and
//! PENDING from its configuration before it loads the program.

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use lb_common::addr::Ipv4;
use lb_common::counters::{REASONS_STRIDE, TargetCounters, Traffic};
use lb_common::event::Budget;
use lb_common::flow::{Flow, FlowKey, Pending, Progress, Step, Tick};
use lb_common::service::{Listener, SLOTS_CAPACITY, Service, ServiceId};
use lb_common::tables::{FlowEntry, Inserted, Tables};
use lb_common::target::{Generation, Target, TargetId};
use lb_common::verdict::Reason;

#[map]
static FLOWS: HashMap<FlowKey<Ipv4>, Flow<Ipv4>> = HashMap::with_max_entries(1 << 18, 0);
#[map]
static PENDING: LruHashMap<FlowKey<Ipv4>, Pending<Ipv4>> = LruHashMap::with_max_entries(1 << 15, 0);
#[map]
static SERVICES: HashMap<Listener<Ipv4>, Service> =
    HashMap::with_max_entries(ServiceId::CAPACITY, 0);
#[map]
static SLOTS: Array<TargetId> = Array::with_max_entries(SLOTS_CAPACITY, 0);
#[map]
static TARGETS: Array<Target<Ipv4>> = Array::with_max_entries(TargetId::CAPACITY, 0);
#[map]
static GENERATIONS: Array<Generation> = Array::with_max_entries(TargetId::CAPACITY, 0);

/// Packets and bytes by reason.
#[map]
pub static VERDICTS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(Reason::COUNT as u32, 0);
/// Packets by service and reason, see [`lb_common::counters::service_verdict`].
#[map]
pub static SERVICE_VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(ServiceId::CAPACITY * REASONS_STRIDE, 0);
/// Traffic by target and direction, see [`lb_common::counters::target_traffic`].
#[map]
pub static TARGET_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(TargetId::CAPACITY * 2, 0);
/// What else happens to a target's connections.
#[map]
pub static TARGET_COUNTERS: PerCpuArray<TargetCounters> =
    PerCpuArray::with_max_entries(TargetId::CAPACITY, 0);
/// What the agent is told of: [`lb_common::event::Event`].
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
/// What is left of each urgency's budget.
#[map]
pub static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(2, 0);

/// -EEXIST.
const EXISTS: i32 = -17;

/// The tables, in BPF maps.
pub struct Maps;

/// A flow in its place. The kernel frees map memory no earlier than after the
/// program's end (RCU), so that the pointer is good for the whole run; the
/// element may have been given to another key meanwhile, in which case a
/// neighbour's time stamp or progress is touched: a moment's harm, and only
/// when an entry is removed in the same microsecond.
pub struct Entry(*mut Flow<Ipv4>);

impl FlowEntry<Ipv4> for Entry {
    #[inline(always)]
    fn get(&self) -> Flow<Ipv4> {
        // SAFETY: the pointer came from a look-up in this run of the program.
        // Other CPUs change `last_seen` and the marks of `progress` only, each
        // by one store.
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
    fn advance(&self, step: Step) {
        // SAFETY: as above. Every mark is a byte of its own.
        unsafe {
            let progress = &raw mut (*self.0).progress;
            match step {
                Step::ClientFin => (&raw mut (*progress).client_fin).write_volatile(1),
                Step::ServerFin => (&raw mut (*progress).server_fin).write_volatile(1),
                Step::ServerFinFirst => {
                    (&raw mut (*progress).server_fin).write_volatile(Progress::FIRST);
                }
                Step::Reset => (&raw mut (*progress).reset).write_volatile(1),
            }
        }
    }
}

impl Tables<Ipv4> for Maps {
    type FlowEntry = Entry;

    #[inline(always)]
    fn flow(&self, key: &FlowKey<Ipv4>) -> Option<Entry> {
        FLOWS.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey<Ipv4>, flow: &Flow<Ipv4>) -> Inserted {
        inserted(FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey<Ipv4>) {
        // Gone already is as good.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn pending(&self, key: &FlowKey<Ipv4>) -> Option<Pending<Ipv4>> {
        let pending = PENDING.get_ptr(key)?;
        // SAFETY: the pointer came from a look-up in this run of the program;
        // entries are replaced whole, never changed in place.
        Some(unsafe { pending.read() })
    }

    #[inline(always)]
    fn insert_pending(&self, key: &FlowKey<Ipv4>, pending: &Pending<Ipv4>) -> Inserted {
        inserted(PENDING.insert(key, pending, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn replace_pending(&self, key: &FlowKey<Ipv4>, pending: &Pending<Ipv4>) {
        // Gone means pushed out: the handshake is lost whatever we do.
        let _ = PENDING.insert(key, pending, u64::from(BPF_EXIST));
    }

    #[inline(always)]
    fn remove_pending(&self, key: &FlowKey<Ipv4>) {
        // Gone already is as good.
        let _ = PENDING.remove(key);
    }

    #[inline(always)]
    fn service(&self, listener: &Listener<Ipv4>) -> Option<Service> {
        let service = SERVICES.get_ptr(listener)?;
        // SAFETY: the pointer came from a look-up in this run of the program;
        // the agent replaces entries whole.
        Some(unsafe { service.read() })
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> TargetId {
        TargetId(word(SLOTS.get_ptr_mut(index).map(|slot| slot.cast())))
    }

    #[inline(always)]
    fn target(&self, id: TargetId) -> Option<Target<Ipv4>> {
        let target = TARGETS.get_ptr(id.0)?;
        // SAFETY: the element is there as long as the map. The agent may be
        // copying a new next hop over it: at worst one packet leaves with
        // half of it. What else there is in it never changes for an id in use.
        Some(unsafe { target.read() })
    }

    #[inline(always)]
    fn generation(&self, id: TargetId) -> Generation {
        Generation(word(
            GENERATIONS
                .get_ptr_mut(id.0)
                .map(|generation| generation.cast()),
        ))
    }
}

/// The word that an array element consists of; 0 where there is none.
#[inline(always)]
fn word(element: Option<*mut u32>) -> u32 {
    // SAFETY: the element is there as long as the map, is aligned, and is
    // only ever stored as a whole word.
    element.map_or(0, |word| unsafe { word.read_volatile() })
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
