//! The BPF maps.
//!
//! Sizes are upper bounds or defaults; the agent sets the sizes of SLOTS and of
//! the tables of connections from its configuration before it loads the program.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::LpmTrie;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::counters::{REASONS_STRIDE, TargetCounters, Traffic};
use lb_common::event::{Budget, Urgency};
use lb_common::filter::Filter;
use lb_common::flow::{Flow, FlowKey, Pending};
use lb_common::layout::PackedKey;
use lb_common::limit::SourceState;
use lb_common::service::{
    Listener, PREFIXES_CAPACITY, Prefix, Rule, SLOTS_MIN, Service, ServiceId, SourceKey,
};
use lb_common::steer::Case;
use lb_common::tables::Affinity;
use lb_common::target::{Generation, Load, SNATS_CAPACITY, Snat, Target, TargetId};
use lb_common::verdict::Reason;

/// BPF_F_NO_PREALLOC: an LPM trie cannot be otherwise.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

/// BPF_F_MMAPABLE.
const MMAPABLE: u32 = aya_ebpf::bindings::BPF_F_MMAPABLE;

/// The maps for addresses of one family.
pub struct Family<A: 'static> {
    pub flows: &'static HashMap<PackedKey<A>, Flow<A>>,
    pub pending: &'static LruHashMap<FlowKey<A>, Pending<A>>,
    pub services: &'static HashMap<Listener<A>, Service>,
    pub targets: &'static Array<Target<A>>,
    pub snats: &'static Array<Snat<A>>,
    pub prefixes: &'static LpmTrie<Prefix<A>, Rule>,
    pub sources: &'static LruHashMap<SourceKey<A>, SourceState>,
    pub affinities: &'static LruHashMap<SourceKey<A>, Affinity>,
    /// One for each CPU: too large for the stack.
    pub cases: &'static PerCpuArray<Case<A>>,
}

macro_rules! family {
    ($family:ident, $address:ty, $flows:ident, $pending:ident, $services:ident, $targets:ident,
     $snats:ident, $prefixes:ident, $sources:ident, $affinities:ident, $cases:ident) => {
        #[map]
        static $flows: HashMap<PackedKey<$address>, Flow<$address>> =
            HashMap::with_max_entries(1 << 18, 0);
        #[map]
        static $pending: LruHashMap<FlowKey<$address>, Pending<$address>> =
            LruHashMap::with_max_entries(1 << 15, 0);
        #[map]
        static $services: HashMap<Listener<$address>, Service> =
            HashMap::with_max_entries(ServiceId::CAPACITY, 0);
        #[map]
        static $targets: Array<Target<$address>> = Array::with_max_entries(TargetId::CAPACITY, 0);
        #[map]
        static $snats: Array<Snat<$address>> = Array::with_max_entries(SNATS_CAPACITY, 0);
        #[map]
        static $prefixes: LpmTrie<Prefix<$address>, Rule> =
            LpmTrie::with_max_entries(PREFIXES_CAPACITY, NO_PREALLOC);
        #[map]
        static $sources: LruHashMap<SourceKey<$address>, SourceState> =
            LruHashMap::with_max_entries(1 << 16, 0);
        #[map]
        static $affinities: LruHashMap<SourceKey<$address>, Affinity> =
            LruHashMap::with_max_entries(1 << 16, 0);
        #[map]
        static $cases: PerCpuArray<Case<$address>> = PerCpuArray::with_max_entries(1, 0);

        pub const $family: Family<$address> = Family {
            flows: &$flows,
            pending: &$pending,
            services: &$services,
            targets: &$targets,
            snats: &$snats,
            prefixes: &$prefixes,
            sources: &$sources,
            affinities: &$affinities,
            cases: &$cases,
        };
    };
}

family!(
    IPV4,
    Ipv4,
    FLOWS_V4,
    PENDING_V4,
    SERVICES_V4,
    TARGETS_V4,
    SNATS_V4,
    PREFIXES_V4,
    SOURCES_V4,
    AFFINITIES_V4,
    CASES_V4
);
family!(
    IPV6,
    Ipv6,
    FLOWS_V6,
    PENDING_V6,
    SERVICES_V6,
    TARGETS_V6,
    SNATS_V6,
    PREFIXES_V6,
    SOURCES_V6,
    AFFINITIES_V6,
    CASES_V6
);

/// Which addresses, and which ports of them, may be ours.
#[map]
pub static ADDRESSES: Array<Filter> = Array::with_max_entries(1, 0);
/// The agent writes to it as to memory of its own.
#[map]
pub static SLOTS: Array<TargetId> = Array::with_max_entries(SLOTS_MIN, MMAPABLE);
#[map]
pub static GENERATIONS: Array<Generation> = Array::with_max_entries(TargetId::CAPACITY, 0);
/// Open connections and handshake times, by target.
#[map]
pub static LOAD: Array<Load> = Array::with_max_entries(TargetId::CAPACITY, 0);
/// Open connections, by service.
#[map]
pub static SERVICE_LOAD: Array<u32> = Array::with_max_entries(ServiceId::CAPACITY, 0);
/// Whose turn it is, by service.
#[map]
pub static TURNS: Array<u32> = Array::with_max_entries(ServiceId::CAPACITY, 0);

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
pub static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(Urgency::COUNT, 0);
