//! The data path in the kernel: the program that a release ships, loaded for
//! itself and run on single packets by BPF_PROG_TEST_RUN. Nothing is attached.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::addr::Ipv4;
use lb_common::counters::{TargetCounters, Traffic, service_verdict, target_traffic};
use lb_common::event::Event;
use lb_common::flow::{Direction, Flow, Pending, Tick};
use lb_common::layout::read_from;
use lb_common::nat::PartialChecksum;
use lb_common::service::{Listener, Service, ServiceId};
use lb_common::target::{Generation, Target, TargetId};
use lb_common::verdict::{Fate, Reason};

use super::Outcome;
use super::connections::{Connections, Key};
use super::world::{FLOWS_MAX, World};

/// Room for more handshakes than a test makes: an LRU map with little room
/// left pushes entries out, and not always the oldest.
const PENDING_MAX: u32 = 4096;

/// What the longest frame may be that BPF_PROG_TEST_RUN takes for a program
/// that does not know of fragments: a page less headroom and tailroom.
pub const FRAME_MAX: usize = 3520;

const XDP_ABORTED: u32 = 0;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The kernel object. Its place is fixed: `<workspace>/target/bpf`.
pub fn object() -> Result<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/lb.o"));
    ensure!(
        path.is_file(),
        "there is no {}; run: cargo xtask build",
        path.display()
    );
    Ok(path)
}

/// The loaded program and its maps.
pub struct Kernel {
    ebpf: Ebpf,
    flows: HashMap<MapData, Key, Flow<Ipv4>>,
    pending: HashMap<MapData, Key, Pending<Ipv4>>,
    services: HashMap<MapData, Listener<Ipv4>, Service>,
    slots: Array<MapData, TargetId>,
    targets: Array<MapData, Target<Ipv4>>,
    generations: Array<MapData, Generation>,
    verdicts: PerCpuArray<MapData, Traffic>,
    service_verdicts: PerCpuArray<MapData, u64>,
    target_counters: PerCpuArray<MapData, TargetCounters>,
    target_traffic: PerCpuArray<MapData, Traffic>,
    events: RingBuf<MapData>,
    /// The world that the maps were filled from.
    world: World,
    /// What VERDICTS held after the last packet.
    counted: Vec<Traffic>,
}

impl Kernel {
    /// Loads the program for a hook that treats partial checksums like
    /// `partial`. All tables are empty.
    ///
    /// # Errors
    /// The object is not there, or the kernel refuses it: the verifier's last
    /// words are in the error.
    pub fn load(partial: PartialChecksum) -> Result<Self> {
        let keep: u8 = match partial {
            PartialChecksum::Finish => 0,
            PartialChecksum::Keep => 1,
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("KEEP_PARTIAL_CHECKSUMS", &keep, true)
            .map_max_entries("FLOWS", FLOWS_MAX as u32)
            .map_max_entries("PENDING", PENDING_MAX)
            .load_file(object()?)
            .context("load the kernel object")?;
        program_mut(&mut ebpf)?
            .load()
            .map_err(|error| anyhow::anyhow!("load the kernel program: {error:#}"))?;
        let mut kernel = Self {
            flows: take(&mut ebpf, "FLOWS")?,
            pending: take(&mut ebpf, "PENDING")?,
            services: take(&mut ebpf, "SERVICES")?,
            slots: take(&mut ebpf, "SLOTS")?,
            targets: take(&mut ebpf, "TARGETS")?,
            generations: take(&mut ebpf, "GENERATIONS")?,
            verdicts: take(&mut ebpf, "VERDICTS")?,
            service_verdicts: take(&mut ebpf, "SERVICE_VERDICTS")?,
            target_counters: take(&mut ebpf, "TARGET_COUNTERS")?,
            target_traffic: take(&mut ebpf, "TARGET_TRAFFIC")?,
            events: take(&mut ebpf, "EVENTS")?,
            ebpf,
            world: World::empty(),
            counted: Vec::new(),
        };
        kernel.counted = kernel.count()?;
        Ok(kernel)
    }

    /// The loaded program.
    ///
    /// # Errors
    /// The object has none of its name.
    pub fn program(&self) -> Result<&Xdp> {
        let program = self.ebpf.program("lb").context("no program `lb`")?;
        Ok(program.try_into()?)
    }

    /// Puts `world` into the tables, and nothing else.
    ///
    /// # Errors
    /// A map refuses an entry.
    pub fn install(&mut self, world: &World) -> Result<()> {
        let old = std::mem::replace(&mut self.world, world.clone());
        for listener in old.services.keys() {
            self.services.remove(listener)?;
        }
        for slot in old.slots.keys() {
            self.slots.set(*slot, TargetId::NONE, 0)?;
        }
        for id in old.targets.keys() {
            self.targets.set(id.0, Target::default(), 0)?;
        }
        for id in old.generations.keys() {
            self.generations.set(id.0, Generation::default(), 0)?;
        }
        clear(&mut self.flows)?;
        clear(&mut self.pending)?;

        for (listener, service) in &world.services {
            self.services.insert(listener, service, 0)?;
        }
        for (slot, target) in &world.slots {
            self.slots.set(*slot, *target, 0)?;
        }
        for (id, target) in &world.targets {
            self.targets.set(id.0, *target, 0)?;
        }
        for (id, generation) in &world.generations {
            self.generations.set(id.0, *generation, 0)?;
        }
        for (key, flow) in &world.connections.flows {
            self.flows.insert(key, flow, 0)?;
        }
        for (key, pending) in &world.connections.pending {
            self.pending.insert(key, pending, 0)?;
        }
        Ok(())
    }

    /// What becomes of `packet`, of 14 to [`FRAME_MAX`] bytes. The tables keep
    /// what it leaves.
    ///
    /// # Errors
    /// The program gives no verdict of ours, or does not count it just once.
    pub fn run(&mut self, packet: &[u8]) -> Result<Outcome> {
        let mut buffer = vec![0; packet.len()];
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut buffer),
            ..TestRunOptions::new()
        })?;
        buffer.truncate(result.data_size_out as usize);
        let reason = self.reason(packet.len())?;
        let fate = match result.return_value {
            XDP_PASS => Fate::Pass,
            XDP_TX if reason.fate() == Fate::Reset => Fate::Reset,
            XDP_TX => Fate::Transmit,
            XDP_DROP => Fate::Drop,
            XDP_ABORTED => bail!("the program aborted, and counted {reason:?}"),
            other => bail!("the program returned {other}, and counted {reason:?}"),
        };
        Ok(Outcome {
            reason,
            fate,
            frame: (fate != Fate::Drop).then_some(buffer),
            connections: self.connections()?,
        })
    }

    /// How long the program takes for `packet`, which is run `repeat` times on
    /// its own output.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn time(&self, packet: &[u8], repeat: u32) -> Result<Duration> {
        Ok(self
            .program()?
            .test_run(TestRunOptions {
                data_in: Some(packet),
                repeat,
                ..TestRunOptions::new()
            })?
            .duration)
    }

    /// What FLOWS and PENDING hold.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn connections(&self) -> Result<Connections> {
        let flows: Vec<_> = self.flows.iter().collect::<Result<_, _>>()?;
        let pending: Vec<_> = self.pending.iter().collect::<Result<_, _>>()?;
        Ok(Connections::new(flows, pending))
    }

    /// When the last segment of the flow under `key` passed.
    ///
    /// # Errors
    /// There is no such flow.
    pub fn last_seen(&self, key: &Key) -> Result<Tick> {
        Ok(self.flows.get(key, 0)?.last_seen)
    }

    /// How many packets of `service` were counted for `reason`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn service_packets(&self, service: ServiceId, reason: Reason) -> Result<u64> {
        let index = service_verdict(service, reason);
        Ok(self.service_verdicts.get(&index, 0)?.iter().sum())
    }

    /// What each CPU counted of `target`'s connections.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn target_counters(&self, target: TargetId) -> Result<Vec<TargetCounters>> {
        Ok(self.target_counters.get(&target.0, 0)?.to_vec())
    }

    /// The packets and bytes of `target` in one direction.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn target_traffic(&self, target: TargetId, direction: Direction) -> Result<Traffic> {
        let index = target_traffic(target, direction);
        Ok(total(&self.target_traffic.get(&index, 0)?))
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event<Ipv4>> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.extend(read_from::<Event<Ipv4>>(&bytes));
        }
        events
    }

    /// The one reason that was counted since the last packet, which had
    /// `length` bytes.
    fn reason(&mut self, length: usize) -> Result<Reason> {
        let before = std::mem::take(&mut self.counted);
        self.counted = self.count()?;
        let mut changed = Vec::new();
        for ((reason, before), after) in Reason::ALL.iter().zip(before).zip(&self.counted) {
            let packets = after.packets - before.packets;
            let bytes = after.bytes - before.bytes;
            if packets > 0 || bytes > 0 {
                changed.push((*reason, packets, bytes));
            }
        }
        match changed[..] {
            [(reason, 1, bytes)] if bytes as usize + super::frame::ETH == length => Ok(reason),
            _ => bail!("a frame of {length} bytes was counted as {changed:?}"),
        }
    }

    fn count(&self) -> Result<Vec<Traffic>> {
        (0..Reason::COUNT as u32)
            .map(|number| Ok(total(&self.verdicts.get(&number, 0)?)))
            .collect()
    }
}

/// What all CPUs counted together.
fn total(per_cpu: &[Traffic]) -> Traffic {
    per_cpu.iter().fold(Traffic::default(), |sum, cpu| Traffic {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}

fn program_mut(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut("lb").context("no program `lb`")?;
    Ok(program.try_into()?)
}

fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("no map {name}"))?;
    Ok(map.try_into()?)
}

fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) -> Result<()> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}
