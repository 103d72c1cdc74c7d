//! The map writer: brings the engine's plans into the kernel's tables, and
//! reads the tables back that a former agent left.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use lb_common::addr::{Ipv4, Port};
use lb_common::counters::{TargetCounters, Traffic, target_traffic};
use lb_common::flow::Direction;
use lb_common::service::{Listener, Service};
use lb_common::target::{Generation, Target, TargetId};
use thiserror::Error;

use crate::engine::{Installed, Op, ServiceEntry, TargetEntry};
use crate::shell::batch;
use crate::shell::load::{Datapath, OpenError};

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
    /// The kernel refused to store slots.
    #[error("cannot store {count} slots from {first} on")]
    Slots {
        /// The first slot.
        first: u32,
        /// How many.
        count: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// IPv6, which the data path does not know yet.
    #[error("{0} is no IPv4 address")]
    Family(IpAddr),
}

/// The maps that the agent writes.
pub struct Tables {
    services: HashMap<MapData, Listener<Ipv4>, Service>,
    slots: Array<MapData, TargetId>,
    slots_data: MapData,
    targets: Array<MapData, Target<Ipv4>>,
    generations: Array<MapData, Generation>,
    traffic: PerCpuArray<MapData, Traffic>,
    counters: PerCpuArray<MapData, TargetCounters>,
    snat_ports: RangeInclusive<u16>,
}

impl Tables {
    /// The tables of `datapath`; connections get source ports of `snat_ports`.
    ///
    /// # Errors
    /// A map is not there, or not of the kind that it should be.
    pub fn open(
        datapath: &mut Datapath,
        snat_ports: RangeInclusive<u16>,
    ) -> Result<Self, OpenError> {
        let wrong = |name| move |_: MapError| OpenError::Missing(name);
        Ok(Self {
            services: datapath
                .take_map("SERVICES")?
                .try_into()
                .map_err(wrong("SERVICES"))?,
            slots: datapath
                .take_map("SLOTS")?
                .try_into()
                .map_err(wrong("SLOTS"))?,
            slots_data: datapath.reopen_map("SLOTS")?,
            targets: datapath
                .take_map("TARGETS")?
                .try_into()
                .map_err(wrong("TARGETS"))?,
            generations: datapath
                .take_map("GENERATIONS")?
                .try_into()
                .map_err(wrong("GENERATIONS"))?,
            traffic: datapath.reopen("TARGET_TRAFFIC")?,
            counters: datapath.reopen("TARGET_COUNTERS")?,
            snat_ports,
        })
    }

    /// What the tables hold: empty after a first start.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_back(&self) -> Result<Installed, TableError> {
        let mut installed = Installed::default();
        for entry in self.services.iter() {
            let (listener, service) = entry.map_err(map("read SERVICES"))?;
            let listen = socket(listener.address, listener.port);
            let entry = ServiceEntry {
                id: service.id,
                first_slot: service.first_slot,
                slots: service.slots,
            };
            installed.services.insert(listen, entry);
            let slots = (service.first_slot..).take(service.slots as usize);
            let slots: Result<Vec<_>, _> = slots.map(|slot| self.slots.get(&slot, 0)).collect();
            installed
                .slots
                .insert(service.first_slot, slots.map_err(map("read SLOTS"))?);
        }
        for id in 1..TargetId::CAPACITY {
            let target = self.targets.get(&id, 0).map_err(map("read TARGETS"))?;
            if target.installed() {
                installed.targets.insert(TargetId(id), entry(&target));
            }
        }
        Ok(installed)
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
                let value = Service::new(service.id, service.first_slot, service.slots);
                self.services
                    .insert(listener(*listen)?, value, 0)
                    .map_err(map(&format!("set service {listen}")))
            }
            Op::RemoveService { listen } => self
                .services
                .remove(&listener(*listen)?)
                .map_err(map(&format!("remove service {listen}"))),
            Op::Cut { id } => self.cut(*id),
            Op::ClearTarget { id } => self
                .targets
                .set(id.0, Target::default(), 0)
                .map_err(map(&format!("clear target {}", id.0))),
        }
    }

    fn set_target(&mut self, id: TargetId, entry: &TargetEntry) -> Result<(), TableError> {
        let known = self.targets.get(&id.0, 0).map_err(map("read TARGETS"))?;
        if !known.installed() {
            self.forget_counters(id)?;
        }
        let (first, last) = (*self.snat_ports.start(), *self.snat_ports.end());
        let target = Target {
            server: ipv4(entry.server.ip())?,
            snat: ipv4(entry.snat)?,
            port: Port::new(entry.server.port()),
            snat_first: first,
            snat_count: last.saturating_sub(first).saturating_add(1),
            service: entry.service,
            hop: entry.hop,
        };
        self.targets
            .set(id.0, target, 0)
            .map_err(map(&format!("set target {}", id.0)))
    }

    /// Ids are given out again: the new target starts from zero.
    fn forget_counters(&mut self, id: TargetId) -> Result<(), TableError> {
        let failed = format!("reset the counters of target {}", id.0);
        for direction in [Direction::Forward, Direction::Reply] {
            let index = target_traffic(id, direction);
            self.traffic.set(index, zeros()?, 0).map_err(map(&failed))?;
        }
        self.counters.set(id.0, zeros()?, 0).map_err(map(&failed))
    }

    /// One slot is one aligned store, more are a range that no packet reads.
    fn set_slots(&mut self, first: u32, targets: &[TargetId]) -> Result<(), TableError> {
        if let [target] = targets {
            return self
                .slots
                .set(first, *target, 0)
                .map_err(map(&format!("set slot {first}")));
        }
        batch::store(self.slots_data.fd(), first, targets).map_err(|source| TableError::Slots {
            first,
            count: targets.len(),
            source,
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

fn entry(target: &Target<Ipv4>) -> TargetEntry {
    TargetEntry {
        service: target.service,
        server: socket(target.server, target.port),
        snat: IpAddr::V4(target.snat.into()),
        hop: target.hop,
    }
}

/// An address and a port as the standard library knows them.
#[must_use]
pub fn socket(address: Ipv4, port: Port) -> SocketAddr {
    (Ipv4Addr::from(address), port.number()).into()
}

fn listener(listen: SocketAddr) -> Result<Listener<Ipv4>, TableError> {
    Ok(Listener::new(ipv4(listen.ip())?, Port::new(listen.port())))
}

fn ipv4(address: IpAddr) -> Result<Ipv4, TableError> {
    match address {
        IpAddr::V4(address) => Ok(address.into()),
        IpAddr::V6(_) => Err(TableError::Family(address)),
    }
}
