//! The map writer: brings the engine's plans into the kernel's tables, and
//! reads the tables back that a former agent left.

mod convert;
mod family;

use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues};
use lb_common::addr::{Ipv4, Ipv6, Port};
use lb_common::counters::{TargetCounters, Traffic, target_traffic};
use lb_common::filter::Filter;
use lb_common::flow::Direction;
use lb_common::service::Listener;
use lb_common::target::{Generation, Load, TargetId};
use thiserror::Error;

use crate::engine::{Installed, Op, TargetEntry};
use crate::shell::load::{Datapath, OpenError};
use crate::shell::slots::Slots;
use family::FamilyTables;
pub use family::{Family, Sources, socket};

/// Why a plan could not be applied.
#[derive(Debug, Error)]
pub enum TableError {
    /// The kernel refused an access.
    #[error("cannot {action}")]
    Map {
        /// What was attempted.
        action: String,
        /// What the kernel said.
        source: MapError,
    },
    /// SLOTS is shorter than the engine takes it for.
    #[error("cannot store {count} slots from {first} on")]
    Slots {
        /// The first slot.
        first: u32,
        /// How many.
        count: usize,
    },
    /// The ways to the servers begin at too many addresses.
    #[error(
        "the host uses more source addresses towards the servers than there is room for; name \
         those to use by snat.addresses"
    )]
    Snats,
    /// An address is not of the family that it should be.
    #[error("{0} is not of its server's address family")]
    Family(IpAddr),
}

/// The maps that the agent writes.
pub struct Tables {
    v4: FamilyTables<Ipv4>,
    v6: FamilyTables<Ipv6>,
    addresses: Array<MapData, Filter>,
    /// What ADDRESSES holds.
    filter: Filter,
    slots: Slots,
    generations: Array<MapData, Generation>,
    load: Array<MapData, Load>,
    traffic: PerCpuArray<MapData, Traffic>,
    counters: PerCpuArray<MapData, TargetCounters>,
}

/// Does with the family's tables and address what `$body` says.
macro_rules! by_family {
    ($this:ident, $ip:expr, |$tables:ident, $address:ident| $body:expr) => {
        match $ip {
            IpAddr::V4(address) => {
                let ($tables, $address) = (&mut $this.v4, Ipv4::from(address));
                $body
            }
            IpAddr::V6(address) => {
                let ($tables, $address) = (&mut $this.v6, Ipv6::from(address));
                $body
            }
        }
    };
}

impl Tables {
    /// The tables of `datapath`; connections get source addresses and ports of
    /// `sources`.
    ///
    /// # Errors
    /// A map is not there, or not of the kind that it should be.
    pub fn open(datapath: &mut Datapath, sources: &Sources) -> Result<Self, OpenError> {
        Ok(Self {
            v4: FamilyTables::open(datapath, sources)?,
            v6: FamilyTables::open(datapath, sources)?,
            addresses: datapath.take("ADDRESSES")?,
            filter: Filter::EMPTY,
            slots: Slots::map(&datapath.reopen_map("SLOTS")?).map_err(OpenError::Slots)?,
            generations: datapath.take("GENERATIONS")?,
            load: datapath.reopen("LOAD")?,
            traffic: datapath.reopen("TARGET_TRAFFIC")?,
            counters: datapath.reopen("TARGET_COUNTERS")?,
        })
    }

    /// How many entries SLOTS has.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots.count()
    }

    /// What the tables hold: empty after a first start.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_back(&mut self) -> Result<Installed, TableError> {
        let mut installed = Installed::default();
        self.filter = self.addresses.get(&0, 0).map_err(map("read the filter"))?;
        self.v4.read_back(&mut installed)?;
        self.v6.read_back(&mut installed)?;
        for service in installed.services.values() {
            let length = service.slots.saturating_add(service.members);
            let range = self.slots.load(service.first_slot, length as usize);
            installed.slots.insert(service.first_slot, range);
        }
        Ok(installed)
    }

    /// Brings what a target consists of beside its entry up to date: source
    /// addresses and ports may be configured otherwise by now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn refresh(&mut self, installed: &Installed) -> Result<(), TableError> {
        for snat in self.v4.sources().to_vec() {
            self.note_ours(|filter| filter.add_snat(&snat))?;
        }
        for snat in self.v6.sources().to_vec() {
            self.note_ours(|filter| filter.add_snat(&snat))?;
        }
        self.v4.store_sources()?;
        self.v6.store_sources()?;
        for (&id, target) in &installed.targets {
            self.set_target(id, target)?;
        }
        Ok(())
    }

    /// Applies one step of a plan.
    ///
    /// # Errors
    /// What the kernel says; the step had no effect then.
    pub fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        match op {
            Op::SetTarget { id, target } => self.set_target(*id, target),
            Op::SetSlots { first, targets } => self.set_slots(*first, targets),
            Op::SetService { listen, service } => {
                let port = Port::new(listen.port());
                self.note_ours(|filter| match listen.ip() {
                    IpAddr::V4(address) => {
                        filter.add_listener(&Listener::new(Ipv4::from(address), port));
                    }
                    IpAddr::V6(address) => {
                        filter.add_listener(&Listener::new(Ipv6::from(address), port));
                    }
                })?;
                by_family!(self, listen.ip(), |tables, address| {
                    tables.set_service(*listen, address, service)
                })
            }
            Op::RemoveService { listen } => by_family!(self, listen.ip(), |tables, address| {
                tables.remove_service(*listen, address)
            }),
            Op::SetRule {
                service,
                prefix,
                access,
            } => by_family!(self, prefix.addr(), |tables, address| {
                tables.set_rule(*service, address, *prefix, *access)
            }),
            Op::RemoveRule { service, prefix } => {
                by_family!(self, prefix.addr(), |tables, address| {
                    tables.remove_rule(*service, address, *prefix)
                })
            }
            Op::Cut { id } => self.cut(*id),
            Op::ClearTarget { id } => {
                self.v4.clear_target(*id)?;
                self.v6.clear_target(*id)
            }
        }
    }

    fn set_target(&mut self, id: TargetId, entry: &TargetEntry) -> Result<(), TableError> {
        if !self.v4.is_installed(id)? && !self.v6.is_installed(id)? {
            self.forget_counters(id)?;
        }
        match entry.server.ip() {
            IpAddr::V4(address) => {
                if let Some(snat) = self.v4.answered_at(address.into(), entry)? {
                    self.note_ours(|filter| filter.add_snat(&snat))?;
                }
            }
            IpAddr::V6(address) => {
                if let Some(snat) = self.v6.answered_at(address.into(), entry)? {
                    self.note_ours(|filter| filter.add_snat(&snat))?;
                }
            }
        }
        by_family!(self, entry.server.ip(), |tables, address| {
            tables.set_target(id, address, entry)
        })
    }

    /// Lets packets through to the look-ups, to where `add` says. Before
    /// anything can arrive there.
    fn note_ours(&mut self, add: impl FnOnce(&mut Filter)) -> Result<(), TableError> {
        let before = self.filter;
        add(&mut self.filter);
        if self.filter == before {
            return Ok(());
        }
        self.addresses
            .set(0, self.filter, 0)
            .map_err(map("set the filter"))
    }

    /// Ids are given out again: the new target starts from zero.
    fn forget_counters(&mut self, id: TargetId) -> Result<(), TableError> {
        let failed = format!("reset the counters of target {}", id.0);
        for direction in [Direction::Forward, Direction::Reply] {
            let index = target_traffic(id, direction);
            self.traffic.set(index, zeros()?, 0).map_err(map(&failed))?;
        }
        let load = self.load.set(id.0, Load::default(), 0);
        load.map_err(map(&failed))?;
        self.counters.set(id.0, zeros()?, 0).map_err(map(&failed))
    }

    /// One slot is one aligned store, more are a range that no packet reads.
    fn set_slots(&mut self, first: u32, targets: &[TargetId]) -> Result<(), TableError> {
        let stored = self.slots.store(first, targets);
        stored.ok_or(TableError::Slots {
            first,
            count: targets.len(),
        })
    }

    /// This agent is the only writer, so that reading first is no race.
    fn cut(&mut self, id: TargetId) -> Result<(), TableError> {
        let failed = format!("cut target {} off", id.0);
        let Generation(generation) = self.generations.get(&id.0, 0).map_err(map(&failed))?;
        self.generations
            .set(id.0, Generation(generation.wrapping_add(1)), 0)
            .map_err(map(&failed))
    }
}

/// Zero on every CPU.
fn zeros<V: aya::Pod + Default>() -> Result<PerCpuValues<V>, TableError> {
    let failed = |source| map("reset counters")(MapError::IoError(source));
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| failed(source))?;
    PerCpuValues::try_from(vec![V::default(); cpus]).map_err(failed)
}

fn map(action: &str) -> impl FnOnce(MapError) -> TableError {
    let action = action.to_owned();
    move |source| TableError::Map { action, source }
}

/// The address and port that an IPv4 address mapped into IPv6 stands for.
#[must_use]
pub fn unmapped(address: Ipv6, port: Port) -> SocketAddr {
    let address = std::net::Ipv6Addr::from(address).to_canonical();
    (address, port.number()).into()
}
