//! What the kernel's tables hold, as plain data, and what one step does to
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::config::{Access, Algorithm, Mode, Refusal, SourceLimits};
use crate::engine::event::NextHop;
use crate::engine::plan::Op;

/// One server as one service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetEntry {
    /// The service.
    pub service: ServiceId,
    /// Where the service's clients connect to.
    pub listen: SocketAddr,
    /// Where connections go.
    pub server: SocketAddr,
    /// How segments get there.
    pub mode: Mode,
    /// The server's share of new connections, relative to the others'.
    pub weight: u32,
    /// Open connections at a time. `None`: without limit.
    pub max_connections: Option<u32>,
    /// Whether it may get new connections now. True as long as a slot names
    /// it; an affinity to a target that does not accept is void.
    pub accepts: bool,
    /// The way to the server.
    pub way: NextHop,
}

/// A service, and where its table is.
///
/// Its range of SLOTS begins with the table, `slots` long; the ids of the
/// `members` distinct targets of the table stand right behind it, by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service's number.
    pub id: ServiceId,
    /// The first of its slots.
    pub first_slot: u32,
    /// The length of its table.
    pub slots: u32,
    /// How many ids stand behind the table; 0 for a service that goes to the
    /// leader, and where there is no target.
    pub members: u32,
    /// How it chooses, and whom it refuses.
    pub settings: Settings,
}

/// What the configuration says about new connections to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a slot of the table is chosen.
    pub algorithm: Algorithm,
    /// How long a client that comes back goes to the same target.
    pub affinity: Option<Duration>,
    /// Open connections at a time. `None`: without limit.
    pub max_connections: Option<u32>,
    /// What becomes of a new connection while there is no target.
    pub on_no_target: Refusal,
    /// The same, while all targets or the service are full.
    pub on_full: Refusal,
    /// How much one client address may ask.
    pub source: SourceLimits,
    /// What becomes of clients that no prefix rule matches. `None`: there are
    /// no rules to look at.
    pub rules: Option<Access>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Maglev,
            affinity: None,
            max_connections: None,
            on_no_target: Refusal::default(),
            on_full: Refusal::default(),
            source: SourceLimits::default(),
            rules: None,
        }
    }
}

/// What the kernel's tables hold: as read back from the pinned maps at the
/// start, empty where there are none; and what we want them to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// By listener.
    pub services: BTreeMap<SocketAddr, ServiceEntry>,
    /// By id.
    pub targets: BTreeMap<TargetId, TargetEntry>,
    /// By first slot: the range of every service, table and members, and no
    /// other.
    pub slots: BTreeMap<u32, Vec<TargetId>>,
    /// Who may connect to which service: the longest prefix decides.
    pub rules: BTreeMap<(ServiceId, IpNet), Access>,
}

impl Installed {
    /// The range of the service at `listen`; empty where there is none.
    #[must_use]
    pub fn range_of(&self, listen: SocketAddr) -> &[TargetId] {
        self.services
            .get(&listen)
            .and_then(|service| self.slots.get(&service.first_slot))
            .map_or(&[], Vec::as_slice)
    }

    /// The table of the service at `listen`; empty where there is none.
    #[must_use]
    pub fn slots_of(&self, listen: SocketAddr) -> &[TargetId] {
        self.halves(listen).0
    }

    /// The targets in that table, each once; empty for a leader's.
    #[must_use]
    pub fn members_of(&self, listen: SocketAddr) -> &[TargetId] {
        self.halves(listen).1
    }

    fn halves(&self, listen: SocketAddr) -> (&[TargetId], &[TargetId]) {
        let range = self.range_of(listen);
        let slots = self
            .services
            .get(&listen)
            .map_or(0, |service| service.slots as usize);
        range.split_at(slots.min(range.len()))
    }

    /// The targets that the service at `listen` may give to new connections.
    #[must_use]
    pub fn selectable(&self, listen: SocketAddr) -> BTreeSet<TargetId> {
        // Behind a table stands every target that is in it.
        let ids = match self.halves(listen) {
            (slots, []) => slots,
            (_, members) => members,
        };
        let ids = ids.iter().copied();
        ids.filter(|&id| id != TargetId::NONE).collect()
    }

    /// The one target of a service that has a single slot, and changes it in
    /// place: one that goes to the leader.
    #[must_use]
    pub fn writer_of(&self, listen: SocketAddr) -> Option<TargetId> {
        match (self.slots_of(listen), self.members_of(listen)) {
            (&[id], []) if id != TargetId::NONE => Some(id),
            _ => None,
        }
    }

    /// What one step does to the tables.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetTarget { id, target } => {
                self.targets.insert(*id, *target);
            }
            Op::SetSlots { first, targets } => {
                self.slots.insert(*first, targets.clone());
            }
            Op::SetService { listen, service } => {
                let before = self.services.insert(*listen, *service);
                if let Some(before) = before
                    && before.first_slot != service.first_slot
                {
                    self.slots.remove(&before.first_slot);
                }
            }
            Op::RemoveService { listen } => {
                if let Some(service) = self.services.remove(listen) {
                    self.slots.remove(&service.first_slot);
                }
            }
            Op::SetRule {
                service,
                prefix,
                access,
            } => {
                self.rules.insert((*service, *prefix), *access);
            }
            Op::RemoveRule { service, prefix } => {
                self.rules.remove(&(*service, *prefix));
            }
            Op::Cut { .. } => {}
            Op::ClearTarget { id } => {
                self.targets.remove(id);
            }
        }
    }
}
