//! The tables that steering reads and writes, as traits: BPF maps in the
//! kernel, ordinary maps in a test.
//!
//! Every method is safe to call while other CPUs do the same. What a look-up
//! finds is looked at in its place, and not copied: the kernel's stack is small.

use core::ops::Deref;

use crate::addr::Address;
use crate::flow::{Flow, FlowKey, Pending, Progress, Tick};
use crate::layout::PackedKey;
use crate::limit::SourceState;
use crate::service::{Listener, Rule, Service, ServiceId, SourceKey};
use crate::target::{Generation, Load, Snat, Target, TargetId};
use crate::wire::frame::Headers;

/// A flow in its place in FLOWS.
pub trait FlowEntry<A> {
    /// The flow as it stands now.
    fn get(&self) -> Flow<A>;
    /// Notes that a segment passed.
    fn touch(&self, now: Tick);
    /// Sets marks, atomically; gives those that were set before.
    fn advance(&self, marks: Progress) -> Progress;
}

/// A source's account in SOURCES.
pub trait SourceEntry {
    /// The account as it stands now.
    fn get(&self) -> SourceState;
    /// Notes when its next connection is due.
    fn set_due(&self, due: u64);
    /// One open connection more, atomically; gives how many there were.
    fn open(&self) -> u32;
    /// One open connection less, atomically.
    fn close(&self);
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

/// Where a client was sent before: the value of AFFINITIES.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Affinity {
    /// The target.
    pub target: TargetId,
    /// The target's generation at that time.
    pub generation: Generation,
    /// When the client last opened a connection.
    pub since: Tick,
}

/// The tables that are the same for IPv4 and IPv6, and the other sources of
/// information.
pub trait Shared {
    /// SLOTS.
    fn slot(&self, index: u32) -> TargetId;
    /// GENERATIONS.
    fn generation(&self, id: TargetId) -> Generation;
    /// LOAD; that of [`TargetId::NONE`] is the sum of all.
    fn load(&self, id: TargetId) -> Load;
    /// LOAD, one open connection more; gives how many there were before.
    fn open(&self, id: TargetId) -> u32;
    /// LOAD, one open connection less.
    fn close(&self, id: TargetId);
    /// LOAD, another average of the handshakes' time.
    fn set_latency(&self, id: TargetId, latency: u32);
    /// How many open connections a service has.
    fn service_load(&self, id: ServiceId) -> u32;
    /// One open connection of a service more; gives how many it had before.
    fn service_open(&self, id: ServiceId) -> u32;
    /// One open connection of a service less.
    fn service_close(&self, id: ServiceId);
    /// A number that is one higher at each call, for each service.
    fn turn(&self, id: ServiceId) -> u32;
    /// A number that nobody can foresee.
    fn random(&self) -> u32;
    /// Microseconds since the host started, exactly.
    fn microseconds(&self) -> u64;
    /// How many open connections there may be in all.
    fn connections_max(&self) -> u32;
}

/// The maps of DESIGN's data path, for addresses of one family.
pub trait Tables<A: Address>: Shared {
    /// What [`Tables::flow`] finds.
    type FlowEntry: FlowEntry<A>;
    /// What [`Tables::pending`] finds.
    type PendingEntry: Deref<Target = Pending<A>>;
    /// What [`Tables::service`] finds.
    type ServiceEntry: Deref<Target = Service>;
    /// What [`Tables::target`] finds.
    type TargetEntry: Deref<Target = Target<A>>;
    /// What [`Tables::source`] finds.
    type SourceEntry: SourceEntry;

    /// Whether something at `address` may be ours. Strangers' addresses are
    /// mistaken for ours now and then, ours never for strangers'.
    fn may_be_ours(&self, address: A) -> bool;
    /// The same of the address and port that a segment is sent to.
    fn may_come_to_us(&self, headers: &Headers<A::Header>) -> bool;

    /// FLOWS.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::FlowEntry>;
    /// FLOWS, under the key that `headers` hold: for each segment, and
    /// therefore without a copy where that is possible.
    #[inline(always)]
    fn flow_of(&self, headers: &Headers<A::Header>) -> Option<Self::FlowEntry> {
        self.flow(&FlowKey::from(*PackedKey::of(headers)))
    }
    /// FLOWS, a new entry.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Inserted;
    /// FLOWS, an entry less; it need not be there.
    fn remove_flow(&self, key: &FlowKey<A>);

    /// PENDING.
    fn pending(&self, key: &FlowKey<A>) -> Option<Self::PendingEntry>;
    /// PENDING, a new entry.
    fn insert_pending(&self, key: &FlowKey<A>, pending: &Pending<A>) -> Inserted;
    /// PENDING, an entry that is there already, changed.
    fn replace_pending(&self, key: &FlowKey<A>, pending: &Pending<A>);
    /// PENDING, an entry less; it need not be there.
    fn remove_pending(&self, key: &FlowKey<A>);

    /// SERVICES.
    fn service(&self, listener: &Listener<A>) -> Option<Self::ServiceEntry>;
    /// TARGETS.
    fn target(&self, id: TargetId) -> Option<Self::TargetEntry>;
    /// SNATS.
    fn snat(&self, index: u32) -> Option<Snat<A>>;

    /// PREFIXES: the rule with the longest prefix.
    fn rule(&self, service: ServiceId, address: A) -> Option<Rule>;
    /// SOURCES; a new account where there is none. None: there is no room.
    fn source(&self, key: &SourceKey<A>) -> Option<Self::SourceEntry>;
    /// SOURCES, where there is an account.
    fn known_source(&self, key: &SourceKey<A>) -> Option<Self::SourceEntry>;
    /// AFFINITIES.
    fn affinity(&self, key: &SourceKey<A>) -> Option<Affinity>;
    /// AFFINITIES, a new or changed entry.
    fn set_affinity(&self, key: &SourceKey<A>, affinity: &Affinity);
}
