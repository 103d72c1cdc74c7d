//! The tables for addresses of one family: SERVICES, TARGETS, SNATS, PREFIXES.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData};
use ipnet::IpNet;
use lb_common::addr::{Address, Port};
use lb_common::service::{Listener, Prefix, Rule, Service, ServiceId};
use lb_common::target::{SNATS_CAPACITY, Snat, Target, TargetId};

use super::convert;
use super::{TableError, map};
use crate::config::{Access, Mode};
use crate::engine::{Installed, ServiceEntry, TargetEntry};
use crate::shell::load::{Datapath, OpenError};

/// An address family: its kernel type, and the names of its maps.
pub trait Family: Address {
    /// FLOWS.
    const FLOWS: &'static str;
    /// PENDING.
    const PENDING: &'static str;
    /// SERVICES.
    const SERVICES: &'static str;
    /// TARGETS.
    const TARGETS: &'static str;
    /// SNATS.
    const SNATS: &'static str;
    /// PREFIXES.
    const PREFIXES: &'static str;
    /// The program that takes connections out of FLOWS.
    const REAPER: &'static str;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
}

macro_rules! family {
    ($address:ty, $variant:ident, $suffix:literal, $reaper:literal) => {
        impl Family for $address {
            const FLOWS: &'static str = concat!("FLOWS_", $suffix);
            const PENDING: &'static str = concat!("PENDING_", $suffix);
            const SERVICES: &'static str = concat!("SERVICES_", $suffix);
            const TARGETS: &'static str = concat!("TARGETS_", $suffix);
            const SNATS: &'static str = concat!("SNATS_", $suffix);
            const PREFIXES: &'static str = concat!("PREFIXES_", $suffix);
            const REAPER: &'static str = $reaper;

            fn from_ip(address: IpAddr) -> Option<Self> {
                match address {
                    IpAddr::$variant(address) => Some(address.into()),
                    _ => None,
                }
            }
        }
    };
}

family!(lb_common::addr::Ipv4, V4, "V4", "lb_reap_v4");
family!(lb_common::addr::Ipv6, V6, "V6", "lb_reap_v6");

/// The addresses and ports that servers see, as configured.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The addresses; none of a family: what the way to the server says.
    pub addresses: Vec<IpAddr>,
    /// The ports of each.
    pub ports: RangeInclusive<u16>,
}

/// The maps of one family.
pub(super) struct FamilyTables<A: Family> {
    services: HashMap<MapData, Listener<A>, Service>,
    targets: Array<MapData, Target<A>>,
    snats: Array<MapData, Snat<A>>,
    prefixes: LpmTrie<MapData, Prefix<A>, Rule>,
    /// What SNATS holds.
    known_snats: Vec<Snat<A>>,
    /// How many of them are the configured ones, at the beginning.
    configured: u16,
    ports: RangeInclusive<u16>,
}

impl<A: Family> FamilyTables<A> {
    pub(super) fn open(datapath: &mut Datapath, sources: &Sources) -> Result<Self, OpenError> {
        let addresses = sources.addresses.iter().copied();
        let configured: Vec<A> = addresses.filter_map(A::from_ip).collect();
        Ok(Self {
            services: datapath.take(A::SERVICES)?,
            targets: datapath.take(A::TARGETS)?,
            snats: datapath.take(A::SNATS)?,
            prefixes: datapath.take(A::PREFIXES)?,
            known_snats: configured
                .iter()
                .map(|&address| snat(address, &sources.ports))
                .collect(),
            configured: configured.len() as u16,
            ports: sources.ports.clone(),
        })
    }

    /// Stores the source addresses.
    pub(super) fn store_sources(&mut self) -> Result<(), TableError> {
        for (index, snat) in (0..).zip(&self.known_snats) {
            let stored = self.snats.set(index, *snat, 0);
            stored.map_err(map("set a source address"))?;
        }
        Ok(())
    }

    /// The source addresses that stand in SNATS, or are to.
    pub(super) fn sources(&self) -> &[Snat<A>] {
        &self.known_snats
    }

    /// Where `server` answers to once `entry` is a target of this family; none
    /// where it is a source address of the configuration, or not our business.
    pub(super) fn answered_at(
        &self,
        server: A,
        entry: &TargetEntry,
    ) -> Result<Option<Snat<A>>, TableError> {
        Ok(match entry.mode {
            Mode::Nat if self.configured > 0 => None,
            Mode::Nat => Some(snat(of_family(entry.way.snat)?, &self.ports)),
            // Its answers are looked at where they leave, whatever the port.
            Mode::Local => Some(Snat {
                address: server,
                ..Snat::default()
            }),
            Mode::Dsr | Mode::Ipip => None,
        })
    }

    /// What the tables hold, but for the slots.
    pub(super) fn read_back(&self, installed: &mut Installed) -> Result<(), TableError> {
        for entry in self.services.iter() {
            let (listener, service) = entry.map_err(map("read the services"))?;
            let listen = socket(listener.address, listener.port);
            installed.services.insert(
                listen,
                ServiceEntry {
                    id: service.id,
                    first_slot: service.first_slot,
                    slots: service.slots,
                    members: service.members,
                    settings: convert::settings(&service),
                },
            );
        }
        for id in 1..TargetId::CAPACITY {
            let target = self.targets.get(&id, 0);
            let target = target.map_err(map("read the targets"))?;
            if !target.installed() {
                continue;
            }
            let snat = self.snats.get(&u32::from(target.first_snat), 0);
            let snat = snat.map_err(map("read the source addresses"))?;
            installed
                .targets
                .insert(TargetId(id), convert::target_entry(&target, snat.address));
        }
        for rule in self.prefixes.iter() {
            let (key, rule) = rule.map_err(map("read the rules"))?;
            if let Some((service, prefix)) = convert::prefix(key.data(), key.prefix_len()) {
                let access = if rule == Rule::ALLOW {
                    Access::Allow
                } else {
                    Access::Deny
                };
                installed.rules.insert((service, prefix), access);
            }
        }
        Ok(())
    }

    pub(super) fn set_service(
        &mut self,
        listen: SocketAddr,
        address: A,
        entry: &ServiceEntry,
    ) -> Result<(), TableError> {
        let listener = Listener::new(address, Port::new(listen.port()));
        self.services
            .insert(listener, convert::service(entry), 0)
            .map_err(map(&format!("set service {listen}")))
    }

    pub(super) fn remove_service(
        &mut self,
        listen: SocketAddr,
        address: A,
    ) -> Result<(), TableError> {
        self.services
            .remove(&Listener::new(address, Port::new(listen.port())))
            .map_err(map(&format!("remove service {listen}")))
    }

    pub(super) fn is_installed(&self, id: TargetId) -> Result<bool, TableError> {
        let target = self.targets.get(&id.0, 0);
        Ok(target.map_err(map("read the targets"))?.installed())
    }

    /// Stores a target. Gives the address that is new to be ours, if there is
    /// one.
    pub(super) fn set_target(
        &mut self,
        id: TargetId,
        address: A,
        entry: &TargetEntry,
    ) -> Result<(), TableError> {
        let (own, vip) = (of_family(entry.way.snat)?, of_family(entry.listen.ip())?);
        let (first_snat, snats) = match entry.mode {
            Mode::Nat if self.configured > 0 => (0, self.configured),
            Mode::Nat => (self.snat_index(own)?, 1),
            Mode::Local | Mode::Dsr | Mode::Ipip => (0, 0),
        };
        let target = convert::target(entry, address, vip, own, first_snat, snats);
        let stored = self.targets.set(id.0, target, 0);
        stored.map_err(map(&format!("set target {}", id.0)))
    }

    pub(super) fn clear_target(&mut self, id: TargetId) -> Result<(), TableError> {
        let cleared = self.targets.set(id.0, Target::default(), 0);
        cleared.map_err(map(&format!("clear target {}", id.0)))
    }

    /// Where in SNATS an address stands.
    fn snat_index(&mut self, address: A) -> Result<u16, TableError> {
        let known = self.known_snats.iter();
        if let Some(index) = known.clone().position(|snat| snat.address == address) {
            return Ok(index as u16);
        }
        let index = self.known_snats.len() as u32;
        if index >= SNATS_CAPACITY {
            return Err(TableError::Snats);
        }
        let snat = snat(address, &self.ports);
        let stored = self.snats.set(index, snat, 0);
        stored.map_err(map("set a source address"))?;
        self.known_snats.push(snat);
        Ok(index as u16)
    }

    pub(super) fn set_rule(
        &mut self,
        service: ServiceId,
        address: A,
        prefix: IpNet,
        access: Access,
    ) -> Result<(), TableError> {
        let rule = match access {
            Access::Allow => Rule::ALLOW,
            Access::Deny => Rule::DENY,
        };
        self.prefixes
            .insert(&key(service, address, prefix), rule, 0)
            .map_err(map(&format!("set the rule for {prefix}")))
    }

    pub(super) fn remove_rule(
        &mut self,
        service: ServiceId,
        address: A,
        prefix: IpNet,
    ) -> Result<(), TableError> {
        self.prefixes
            .remove(&key(service, address, prefix))
            .map_err(map(&format!("remove the rule for {prefix}")))
    }
}

fn key<A: Address>(service: ServiceId, address: A, prefix: IpNet) -> Key<Prefix<A>> {
    let bits = Prefix::<A>::bits(prefix.prefix_len().into());
    Key::new(bits, Prefix::new(service, address))
}

fn of_family<A: Family>(address: IpAddr) -> Result<A, TableError> {
    A::from_ip(address).ok_or(TableError::Family(address))
}

fn snat<A>(address: A, ports: &RangeInclusive<u16>) -> Snat<A> {
    let (first, last) = (*ports.start(), *ports.end());
    Snat {
        address,
        first,
        count: last.saturating_sub(first).saturating_add(1),
    }
}

/// An address and a port as the standard library knows them.
#[must_use]
pub fn socket<A: Address>(address: A, port: Port) -> SocketAddr {
    (address.into(), port.number()).into()
}
