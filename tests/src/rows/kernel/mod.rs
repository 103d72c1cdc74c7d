//! The data path in the kernel: the programs that a release ships, loaded for
//! themselves and run on single packets by BPF_PROG_TEST_RUN. Nothing is
//! attached.

mod run;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::addr::Ipv4;
use lb_common::counters::{TargetCounters, Traffic, service_verdict, target_traffic};
use lb_common::event::Event;
use lb_common::flow::{Direction, FlowKey, Tick};
use lb_common::layout::{bytes_of, read_from};
use lb_common::nat::PartialChecksum;
use lb_common::reaping::Candidate;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;
use lb_common::verdict::Reason;

use super::connections::Connections;
use super::maps::{Mapped, Maps, take};
use super::world::{CONNECTIONS_MAX, FLOWS_MAX, World};
use super::{Hook, Outcome, Passage};
use run::test_run;

pub use run::{FRAME_MAX, shown_at_tc};

/// Room for more handshakes, sources and affinities than a row makes: an LRU
/// map with little room left pushes entries out, and not always the oldest.
const LRU_MAX: u32 = 4096;

/// How much the tables take.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Entries in FLOWS.
    pub flows: u32,
    /// Entries in PENDING, SOURCES and AFFINITIES.
    pub lru: u32,
    /// Connections that may be open at once.
    pub connections: u32,
}

impl Room {
    /// As every row has it.
    pub const OF_A_ROW: Self = Self {
        flows: FLOWS_MAX as u32,
        lru: LRU_MAX,
        connections: CONNECTIONS_MAX,
    };
}

/// Bytes of metadata that leave nothing of the room in front of a packet: 256
/// without a `struct xdp_frame`.
const METADATA: usize = 216;

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

/// By which program packets arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entrance {
    Xdp,
    Tc,
}

/// The loaded programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    entrance: Entrance,
    maps: Maps,
    verdicts: PerCpuArray<MapData, Traffic>,
    service_verdicts: PerCpuArray<MapData, u64>,
    target_counters: PerCpuArray<MapData, TargetCounters>,
    target_traffic: PerCpuArray<MapData, Traffic>,
    events: RingBuf<MapData>,
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
        Self::with_room(partial, Room::OF_A_ROW)
    }

    /// Loads the programs; packets arrive at TC: those of which [`shown_at_tc`]
    /// holds.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn at_tc() -> Result<Self> {
        let kernel = Self::load(PartialChecksum::Keep)?;
        Ok(Self {
            entrance: Entrance::Tc,
            ..kernel
        })
    }

    /// As [`Self::load`], with tables of another size.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn with_room(partial: PartialChecksum, room: Room) -> Result<Self> {
        let Room {
            flows,
            lru,
            connections,
        } = room;
        let keep: u8 = match partial {
            PartialChecksum::Finish => 0,
            PartialChecksum::Keep => 1,
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("KEEP_PARTIAL_CHECKSUMS", &keep, true)
            .override_global("CONNECTIONS_MAX", &connections, true)
            .map_max_entries("FLOWS_V4", flows)
            .map_max_entries("FLOWS_V6", flows)
            .map_max_entries("PENDING_V4", lru)
            .map_max_entries("PENDING_V6", lru)
            .map_max_entries("SOURCES_V4", lru)
            .map_max_entries("SOURCES_V6", lru)
            .map_max_entries("AFFINITIES_V4", lru)
            .map_max_entries("AFFINITIES_V6", lru)
            .load_file(object()?)
            .context("load the kernel object")?;
        let refused = |name, error| anyhow::anyhow!("load the kernel program {name}: {error:#}");
        for name in ["lb", "lb_reap_v4"] {
            let xdp: &mut Xdp = program_mut(&mut ebpf, name)?;
            xdp.load().map_err(|error| refused(name, error))?;
        }
        for name in ["lb_tc", "lb_egress"] {
            let classifier: &mut SchedClassifier = program_mut(&mut ebpf, name)?;
            classifier.load().map_err(|error| refused(name, error))?;
        }
        let mut kernel = Self {
            maps: Maps::take(&mut ebpf)?,
            verdicts: take(&mut ebpf, "VERDICTS")?,
            service_verdicts: take(&mut ebpf, "SERVICE_VERDICTS")?,
            target_counters: take(&mut ebpf, "TARGET_COUNTERS")?,
            target_traffic: take(&mut ebpf, "TARGET_TRAFFIC")?,
            events: take(&mut ebpf, "EVENTS")?,
            ebpf,
            entrance: Entrance::Xdp,
            counted: Vec::new(),
        };
        kernel.counted = kernel.count()?;
        Ok(kernel)
    }

    /// The loaded program that steers what arrives by XDP.
    ///
    /// # Errors
    /// The object has none of its name.
    pub fn program(&self) -> Result<&Xdp> {
        program(&self.ebpf, "lb")
    }

    /// The programs, to be run on several CPUs at once, and the tables.
    ///
    /// # Errors
    /// The object has none of their names.
    pub fn split(&mut self) -> Result<(Programs<'_>, &mut Maps)> {
        let programs = Programs {
            lb: program(&self.ebpf, "lb")?,
            reaper: program(&self.ebpf, "lb_reap_v4")?,
        };
        Ok((programs, &mut self.maps))
    }

    /// How many packets were counted for `reason`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn packets(&self, reason: Reason) -> Result<u64> {
        Ok(total(&self.verdicts.get(&(reason as u32), 0)?).packets)
    }

    /// Puts `world` into the tables, and nothing else.
    ///
    /// # Errors
    /// A map refuses an entry.
    pub fn install<A: Mapped>(&mut self, world: &World<A>) -> Result<()> {
        self.maps.install(world)
    }

    /// What becomes of `packet`, of 14 to [`FRAME_MAX`] bytes. The tables keep
    /// what it leaves.
    ///
    /// # Errors
    /// The program gives no verdict of ours, or does not count it just once.
    pub fn run<A: Mapped>(&mut self, hook: Hook, packet: &[u8]) -> Result<Outcome<A>> {
        let passage = match hook {
            Hook::Ingress => self.pass(packet)?,
            Hook::Egress => self.leave(packet)?,
        };
        Ok(Outcome {
            passage,
            connections: self.connections()?,
        })
    }

    /// What becomes of `packet` alone, which leaves this host.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn leave(&mut self, packet: &[u8]) -> Result<Passage> {
        let program: &SchedClassifier = program(&self.ebpf, "lb_egress")?;
        let (action, frame) = test_run(program, packet)?;
        let changed = self.changed()?;
        let reason = match changed[..] {
            [] => Reason::NotOurs,
            _ => one_reason(&changed, packet.len())?,
        };
        run::passage_at_tc(action, frame, reason)
    }

    /// What becomes of `packet` alone, which arrives.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn pass(&mut self, packet: &[u8]) -> Result<Passage> {
        let (action, frame) = self.arrive(packet)?;
        let reason = self.reason(packet.len())?;
        self.passage(action, frame, reason)
    }

    /// What becomes of `packet` alone, which arrives in a buffer that has no room
    /// for another header in front of it.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn pass_without_room(&mut self, packet: &[u8]) -> Result<Passage> {
        let data = [&vec![0; METADATA][..], packet].concat();
        let mut frame = vec![0; data.len()];
        // struct xdp_md: where the packet begins and ends, and four words of 0.
        let mut context = [0; 24];
        context[..4].copy_from_slice(&(METADATA as u32).to_ne_bytes());
        context[4..8].copy_from_slice(&(data.len() as u32).to_ne_bytes());
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut frame),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        })?;
        let reason = self.reason(packet.len())?;
        run::passage(result.return_value, frame.split_off(METADATA), reason)
    }

    fn arrive(&self, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
        match self.entrance {
            Entrance::Xdp => test_run(self.program()?, packet),
            Entrance::Tc => {
                let program: &SchedClassifier = program(&self.ebpf, "lb_tc")?;
                test_run(program, packet)
            }
        }
    }

    fn passage(&self, action: u32, frame: Vec<u8>, reason: Reason) -> Result<Passage> {
        match self.entrance {
            Entrance::Xdp => run::passage(action, frame, reason),
            Entrance::Tc => run::passage_at_tc(action, frame, reason),
        }
    }

    /// What becomes of `packet` if its verdict is that of `expected`: a tenth of
    /// the time that [`Self::pass`] takes, which looks for the verdict's reason.
    ///
    /// # Errors
    /// As for [`Self::run`], and where it is another verdict.
    pub fn pass_as(&mut self, packet: &[u8], expected: Reason) -> Result<Passage> {
        let (action, frame) = self.arrive(packet)?;
        let number = expected as u32;
        let after = total(&self.verdicts.get(&number, 0)?);
        let before = &mut self.counted[expected as usize];
        let one_more = after.packets == before.packets + 1;
        *before = after;
        if !one_more {
            let reason = self.reason(packet.len());
            bail!("verdict {reason:?}, expected {expected:?}");
        }
        self.passage(action, frame, expected)
    }

    /// What the tables hold of connections.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn connections<A: Mapped>(&mut self) -> Result<Connections<A>> {
        self.maps.connections()
    }

    /// When the last segment of the flow under `key` passed.
    ///
    /// # Errors
    /// There is no such flow.
    pub fn last_seen<A: Mapped>(&mut self, key: &FlowKey<A>) -> Result<Tick> {
        A::maps(&mut self.maps).last_seen(key)
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
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(bytes) = self.events.next() {
            events.extend(read_from::<Event>(&bytes));
        }
        events
    }

    /// The one reason that was counted since the last packet, which had
    /// `length` bytes.
    fn reason(&mut self, length: usize) -> Result<Reason> {
        one_reason(&self.changed()?, length)
    }

    /// The reasons that were counted since the last call, the packets and the
    /// bytes.
    fn changed(&mut self) -> Result<Vec<(Reason, u64, u64)>> {
        let before = std::mem::take(&mut self.counted);
        self.counted = self.count()?;
        let both = Reason::ALL.iter().zip(before).zip(&self.counted);
        Ok(both
            .map(|((reason, before), after)| {
                let bytes = after.bytes - before.bytes;
                (*reason, after.packets - before.packets, bytes)
            })
            .filter(|(_, packets, bytes)| *packets > 0 || *bytes > 0)
            .collect())
    }

    fn count(&self) -> Result<Vec<Traffic>> {
        (0..Reason::COUNT as u32)
            .map(|number| Ok(total(&self.verdicts.get(&number, 0)?)))
            .collect()
    }
}

/// The loaded programs. They may be run on several CPUs at once.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    lb: &'a Xdp,
    reaper: &'a Xdp,
}

impl Programs<'_> {
    /// The frame as which `packet` goes on, or as which it comes back; none
    /// where it goes nowhere.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn send(&self, packet: &[u8]) -> Result<Option<Vec<u8>>> {
        let (action, frame) = test_run(self.lb, packet)?;
        Ok((action == run::XDP_TX).then_some(frame))
    }

    /// Has the reaper take out those of `candidates`, at most
    /// [`lb_common::reaping::MAX`], that it finds fit for it: how many.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn reap(&self, candidates: &[Candidate<Ipv4>]) -> Result<u32> {
        let list: Vec<u8> = candidates.iter().flat_map(bytes_of).copied().collect();
        Ok(test_run(self.reaper, &list)?.0)
    }
}

/// The reason of the one packet, of `length` bytes, for which this was counted.
fn one_reason(counted: &[(Reason, u64, u64)], length: usize) -> Result<Reason> {
    match *counted {
        [(reason, 1, bytes)] if bytes as usize + super::frame::ETH == length => Ok(reason),
        _ => bail!("a frame of {length} bytes was counted as {counted:?}"),
    }
}

/// What all CPUs counted together.
fn total(per_cpu: &[Traffic]) -> Traffic {
    per_cpu.iter().fold(Traffic::default(), |sum, cpu| Traffic {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}

fn program<'a, P>(ebpf: &'a Ebpf, name: &str) -> Result<&'a P>
where
    &'a P: TryFrom<&'a Program, Error = ProgramError>,
{
    let program = ebpf.program(name);
    let program = program.with_context(|| format!("no program `{name}`"))?;
    Ok(program.try_into()?)
}

fn program_mut<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("no program `{name}`"))?;
    Ok(program.try_into()?)
}
