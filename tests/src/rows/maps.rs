//! The kernel program's maps: a [`World`] goes into them, and what they hold
//! of connections comes out.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::{Key as PrefixKey, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::{Ebpf, Pod};
use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::filter::Filter;
use lb_common::flow::{Flow, FlowKey, Pending, Tick};
use lb_common::limit::SourceState;
use lb_common::service::{Listener, Prefix, Rule, Service, ServiceId, SourceKey};
use lb_common::tables::Affinity;
use lb_common::target::{Generation, Load, Snat, Target, TargetId};

use super::connections::{Connections, Entry};
use super::world::World;

/// A family of addresses that the kernel program has maps for.
pub trait Mapped: Address {
    /// The maps of this family.
    fn maps(maps: &mut Maps) -> &mut dyn FamilyMaps<Self>;
}

/// The maps of one family.
pub trait FamilyMaps<A: Address> {
    /// Takes everything out, but for what [`Maps`] knows the places of.
    ///
    /// # Errors
    /// A map cannot be changed.
    fn clear(&mut self, targets: &BTreeSet<TargetId>) -> Result<()>;

    /// Puts `world` into empty maps.
    ///
    /// # Errors
    /// A map refuses an entry.
    fn fill(&mut self, world: &World<A>) -> Result<()>;

    /// Takes everything out of PENDING.
    ///
    /// # Errors
    /// The map cannot be changed.
    fn forget_handshakes(&mut self) -> Result<()>;

    /// What FLOWS, PENDING, SOURCES and AFFINITIES hold.
    ///
    /// # Errors
    /// A map cannot be read.
    fn connections(&self) -> Result<Connections<A>>;

    /// FLOWS, as it stands: while programs run, what comes and goes may be
    /// missing, or be there twice.
    ///
    /// # Errors
    /// The map cannot be read.
    fn flows(&self) -> Result<Vec<Entry<A>>>;

    /// When the last segment of the flow under `key` passed.
    ///
    /// # Errors
    /// There is no such flow.
    fn last_seen(&self, key: &FlowKey<A>) -> Result<Tick>;
}

macro_rules! family_maps {
    ($maps:ident, $field:ident, $address:ty, $suffix:literal) => {
        struct $maps {
            flows: HashMap<MapData, FlowKey<$address>, Flow<$address>>,
            pending: HashMap<MapData, FlowKey<$address>, Pending<$address>>,
            services: HashMap<MapData, Listener<$address>, Service>,
            targets: Array<MapData, Target<$address>>,
            snats: Array<MapData, Snat<$address>>,
            prefixes: LpmTrie<MapData, Prefix<$address>, Rule>,
            sources: HashMap<MapData, SourceKey<$address>, SourceState>,
            affinities: HashMap<MapData, SourceKey<$address>, Affinity>,
        }

        impl $maps {
            fn take(ebpf: &mut Ebpf) -> Result<Self> {
                Ok(Self {
                    flows: take(ebpf, concat!("FLOWS_", $suffix))?,
                    pending: take(ebpf, concat!("PENDING_", $suffix))?,
                    services: take(ebpf, concat!("SERVICES_", $suffix))?,
                    targets: take(ebpf, concat!("TARGETS_", $suffix))?,
                    snats: take(ebpf, concat!("SNATS_", $suffix))?,
                    prefixes: take(ebpf, concat!("PREFIXES_", $suffix))?,
                    sources: take(ebpf, concat!("SOURCES_", $suffix))?,
                    affinities: take(ebpf, concat!("AFFINITIES_", $suffix))?,
                })
            }
        }

        impl FamilyMaps<$address> for $maps {
            fn clear(&mut self, targets: &BTreeSet<TargetId>) -> Result<()> {
                for id in targets {
                    self.targets.set(id.0, Target::default(), 0)?;
                }
                for key in keys(self.prefixes.keys())? {
                    self.prefixes.remove(&key)?;
                }
                empty(&mut self.flows)?;
                empty(&mut self.pending)?;
                empty(&mut self.services)?;
                empty(&mut self.sources)?;
                empty(&mut self.affinities)
            }

            fn fill(&mut self, world: &World<$address>) -> Result<()> {
                let connections = &world.connections;
                for (id, target) in &world.targets {
                    self.targets.set(id.0, *target, 0)?;
                }
                for (index, snat) in (0..).zip(&world.snats) {
                    self.snats.set(index, *snat, 0)?;
                }
                for ((service, address), rule) in &world.rules {
                    let prefix = Prefix::new(*service, *address);
                    let key = PrefixKey::new(Prefix::<$address>::HOST_BITS, prefix);
                    self.prefixes.insert(&key, *rule, 0)?;
                }
                fill(&mut self.services, &world.services)?;
                fill(&mut self.flows, &connections.flows)?;
                fill(&mut self.pending, &connections.pending)?;
                fill(&mut self.sources, &connections.sources)?;
                fill(&mut self.affinities, &connections.affinities)
            }

            fn forget_handshakes(&mut self) -> Result<()> {
                empty(&mut self.pending)
            }

            fn connections(&self) -> Result<Connections<$address>> {
                Ok(Connections {
                    flows: self.flows.iter().collect::<Result<_, _>>()?,
                    pending: self.pending.iter().collect::<Result<_, _>>()?,
                    sources: self.sources.iter().collect::<Result<_, _>>()?,
                    affinities: self.affinities.iter().collect::<Result<_, _>>()?,
                    ..Connections::default()
                })
            }

            fn flows(&self) -> Result<Vec<Entry<$address>>> {
                // An entry may go before it is read.
                let there =
                    |found: &Result<_, MapError>| !matches!(found, Err(MapError::KeyNotFound));
                let found = self.flows.iter().filter(there);
                Ok(found.collect::<Result<_, _>>()?)
            }

            fn last_seen(&self, key: &FlowKey<$address>) -> Result<Tick> {
                Ok(self.flows.get(key, 0)?.last_seen)
            }
        }

        impl Mapped for $address {
            fn maps(maps: &mut Maps) -> &mut dyn FamilyMaps<Self> {
                &mut maps.$field
            }
        }
    };
}

family_maps!(Ipv4Maps, ipv4, Ipv4, "V4");
family_maps!(Ipv6Maps, ipv6, Ipv6, "V6");

/// The maps that steering reads and writes.
pub struct Maps {
    ipv4: Ipv4Maps,
    ipv6: Ipv6Maps,
    addresses: Array<MapData, Filter>,
    /// What ADDRESSES holds.
    filter: Filter,
    slots: Array<MapData, TargetId>,
    generations: Array<MapData, Generation>,
    load: Array<MapData, Load>,
    service_load: Array<MapData, u32>,
    turns: Array<MapData, u32>,
    /// What there is something for in the arrays.
    places: Places,
}

#[derive(Default)]
struct Places {
    slots: BTreeSet<u32>,
    targets: BTreeSet<TargetId>,
    services: BTreeSet<ServiceId>,
}

impl Maps {
    /// The maps of a loaded program.
    ///
    /// # Errors
    /// One of them is missing, or of another kind.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            ipv4: Ipv4Maps::take(ebpf)?,
            ipv6: Ipv6Maps::take(ebpf)?,
            addresses: take(ebpf, "ADDRESSES")?,
            filter: Filter::EMPTY,
            slots: take(ebpf, "SLOTS")?,
            generations: take(ebpf, "GENERATIONS")?,
            load: take(ebpf, "LOAD")?,
            service_load: take(ebpf, "SERVICE_LOAD")?,
            turns: take(ebpf, "TURNS")?,
            places: Places::default(),
        })
    }

    /// Puts `world` into the maps, and nothing else.
    ///
    /// # Errors
    /// A map refuses an entry.
    pub fn install<A: Mapped>(&mut self, world: &World<A>) -> Result<()> {
        self.clear()?;
        self.filter = Filter::EMPTY;
        self.note_ours(world)?;
        for (slot, target) in &world.slots {
            self.slots.set(*slot, *target, 0)?;
        }
        for (id, generation) in &world.generations {
            self.generations.set(id.0, *generation, 0)?;
        }
        for (id, turn) in &world.turns {
            self.turns.set(u32::from(id.0), *turn, 0)?;
        }
        let counted = world.connections.clone().counted(&world.targets);
        for (id, open) in counted.open {
            let load = Load { open, latency: 0 };
            self.load.set(id.0, load, 0)?;
        }
        for (id, open) in counted.open_of_services {
            self.service_load.set(u32::from(id.0), open, 0)?;
        }
        let targets = world.targets.keys().copied();
        let services = world.services.values().map(|service| service.id);
        let bearers = world.targets.values().map(|target| target.service);
        self.places = Places {
            slots: world.slots.keys().copied().collect(),
            targets: targets.chain([TargetId::NONE]).collect(),
            services: services.chain(bearers).collect(),
        };
        A::maps(self).fill(world)
    }

    /// Adds the connections of `world` to what the maps hold already; what is
    /// open is not counted.
    ///
    /// # Errors
    /// A map refuses an entry.
    pub fn add<A: Mapped>(&mut self, world: &World<A>) -> Result<()> {
        self.note_ours(world)?;
        A::maps(self).fill(world)
    }

    /// Has `slot` lead to `target`.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn set_slot(&mut self, slot: u32, target: TargetId) -> Result<()> {
        Ok(self.slots.set(slot, target, 0)?)
    }

    /// Cuts `target` off.
    ///
    /// # Errors
    /// There is no such target.
    pub fn cut(&mut self, TargetId(id): TargetId) -> Result<()> {
        let Generation(generation) = self.generations.get(&id, 0)?;
        Ok(self.generations.set(id, Generation(generation + 1), 0)?)
    }

    /// FLOWS, see [`FamilyMaps::flows`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flows<A: Mapped>(&mut self) -> Result<Vec<Entry<A>>> {
        A::maps(self).flows()
    }

    fn note_ours<A: Mapped>(&mut self, world: &World<A>) -> Result<()> {
        world.note_ours(&mut self.filter);
        Ok(self.addresses.set(0, self.filter, 0)?)
    }

    fn clear(&mut self) -> Result<()> {
        let Places {
            slots,
            targets,
            services,
        } = std::mem::take(&mut self.places);
        self.ipv4.clear(&targets)?;
        self.ipv6.clear(&targets)?;
        for slot in slots {
            self.slots.set(slot, TargetId::NONE, 0)?;
        }
        for TargetId(id) in targets {
            self.generations.set(id, Generation::default(), 0)?;
            self.load.set(id, Load::default(), 0)?;
        }
        for ServiceId(id) in services {
            self.turns.set(u32::from(id), 0, 0)?;
            self.service_load.set(u32::from(id), 0, 0)?;
        }
        Ok(())
    }

    /// What the maps hold of connections, without moments.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn connections<A: Mapped>(&mut self) -> Result<Connections<A>> {
        let mut connections = A::maps(self).connections()?;
        for id in &self.places.targets {
            let open = self.load.get(&id.0, 0)?.open;
            connections.open.insert(*id, open);
        }
        for id in &self.places.services {
            let open = self.service_load.get(&u32::from(id.0), 0)?;
            connections.open_of_services.insert(*id, open);
        }
        Ok(connections.timeless())
    }
}

/// A map of a loaded program.
///
/// # Errors
/// There is none of this name, or it is of another kind.
pub fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("no map {name}"))?;
    Ok(map.try_into()?)
}

fn keys<K>(keys: impl Iterator<Item = Result<K, MapError>>) -> Result<Vec<K>> {
    Ok(keys.collect::<Result<_, _>>()?)
}

fn empty<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    for key in keys(map.keys())? {
        map.remove(&key)?;
    }
    Ok(())
}

fn fill<'a, K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    entries: impl IntoIterator<Item = (&'a K, &'a V)>,
) -> Result<()> {
    for (key, value) in entries {
        map.insert(key, value, 0)?;
    }
    Ok(())
}
