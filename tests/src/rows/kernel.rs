//! The data path in the kernel: the program that a release ships, loaded for
//! itself and run on single packets by BPF_PROG_TEST_RUN. Nothing is attached.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::counters::{TargetCounters, Traffic, service_verdict, target_traffic};
use lb_common::event::Event;
use lb_common::flow::{Direction, FlowKey, Tick};
use lb_common::layout::read_from;
use lb_common::nat::PartialChecksum;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;
use lb_common::verdict::{Fate, Reason};

use super::connections::Connections;
use super::maps::{Mapped, Maps, take};
use super::world::{CONNECTIONS_MAX, FLOWS_MAX, World};
use super::{Outcome, Passage, Way};

/// Room for more handshakes, sources and affinities than a test makes: an LRU
/// map with little room left pushes entries out, and not always the oldest.
const LRU_MAX: u32 = 4096;

/// What the longest frame may be that BPF_PROG_TEST_RUN takes for a program
/// that does not know of fragments: a page less headroom and tailroom.
pub const FRAME_MAX: usize = 3520;

const XDP_ABORTED: u32 = 0;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

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
        let keep: u8 = match partial {
            PartialChecksum::Finish => 0,
            PartialChecksum::Keep => 1,
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("KEEP_PARTIAL_CHECKSUMS", &keep, true)
            .override_global("CONNECTIONS_MAX", &CONNECTIONS_MAX, true)
            .map_max_entries("FLOWS_V4", FLOWS_MAX as u32)
            .map_max_entries("FLOWS_V6", FLOWS_MAX as u32)
            .map_max_entries("PENDING_V4", LRU_MAX)
            .map_max_entries("PENDING_V6", LRU_MAX)
            .map_max_entries("SOURCES_V4", LRU_MAX)
            .map_max_entries("SOURCES_V6", LRU_MAX)
            .map_max_entries("AFFINITIES_V4", LRU_MAX)
            .map_max_entries("AFFINITIES_V6", LRU_MAX)
            .load_file(object()?)
            .context("load the kernel object")?;
        program_mut(&mut ebpf)?
            .load()
            .map_err(|error| anyhow::anyhow!("load the kernel program: {error:#}"))?;
        let mut kernel = Self {
            maps: Maps::take(&mut ebpf)?,
            verdicts: take(&mut ebpf, "VERDICTS")?,
            service_verdicts: take(&mut ebpf, "SERVICE_VERDICTS")?,
            target_counters: take(&mut ebpf, "TARGET_COUNTERS")?,
            target_traffic: take(&mut ebpf, "TARGET_TRAFFIC")?,
            events: take(&mut ebpf, "EVENTS")?,
            ebpf,
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
    pub fn install<A: Mapped>(&mut self, world: &World<A>) -> Result<()> {
        self.maps.install(world)
    }

    /// What becomes of `packet`, of 14 to [`FRAME_MAX`] bytes. The tables keep
    /// what it leaves.
    ///
    /// # Errors
    /// The program gives no verdict of ours, or does not count it just once.
    pub fn run<A: Mapped>(&mut self, packet: &[u8]) -> Result<Outcome<A>> {
        let passage = self.pass(packet)?;
        Ok(Outcome {
            passage,
            connections: self.connections()?,
        })
    }

    /// What becomes of `packet` alone.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn pass(&mut self, packet: &[u8]) -> Result<Passage> {
        let (action, frame) = self.test_run(packet)?;
        let reason = self.reason(packet.len())?;
        passage(action, frame, reason)
    }

    /// What becomes of `packet` if its verdict is that of `expected`: a tenth of
    /// the time that [`Self::pass`] takes, which looks for the verdict's reason.
    ///
    /// # Errors
    /// As for [`Self::run`], and where it is another verdict.
    pub fn pass_as(&mut self, packet: &[u8], expected: Reason) -> Result<Passage> {
        let (action, frame) = self.test_run(packet)?;
        let number = expected as u32;
        let after = total(&self.verdicts.get(&number, 0)?);
        let before = &mut self.counted[expected as usize];
        let one_more = after.packets == before.packets + 1;
        *before = after;
        if !one_more {
            let reason = self.reason(packet.len());
            bail!("verdict {reason:?}, expected {expected:?}");
        }
        passage(action, frame, expected)
    }

    fn test_run(&self, packet: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut frame = vec![0; packet.len()];
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut frame),
            ..TestRunOptions::new()
        })?;
        frame.truncate(result.data_size_out as usize);
        Ok((result.return_value, frame))
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

/// What the program's `action` for `reason` means.
fn passage(action: u32, frame: Vec<u8>, reason: Reason) -> Result<Passage> {
    let (fate, way) = match action {
        XDP_PASS if reason.fate() != Fate::Pass => (Fate::Deliver, Way::None),
        XDP_PASS => (Fate::Pass, Way::None),
        XDP_TX if reason.fate() == Fate::Reset => (Fate::Reset, Way::Back),
        XDP_TX => (Fate::Transmit, Way::Back),
        XDP_REDIRECT if reason.fate() == Fate::Reset => (Fate::Reset, Way::Across),
        XDP_REDIRECT => (Fate::Transmit, Way::Across),
        XDP_DROP => (Fate::Drop, Way::None),
        XDP_ABORTED => bail!("the program aborted, and counted {reason:?}"),
        other => bail!("the program returned {other}, and counted {reason:?}"),
    };
    Ok(Passage {
        reason,
        fate,
        way,
        frame: (fate != Fate::Drop).then_some(frame),
    })
}
