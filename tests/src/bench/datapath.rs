//! The kernel program on a bench: loaded with tables of any size, and run by
//! BPF_PROG_TEST_RUN on packets of any of their flows. All that the benchmarks
//! know of the kernel's types stands here.
//!
//! The harness is `lb-ebpf/src/bin/bench.rs`: it writes the headers anew
//! before each round, so that no round sees the output of the one before.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::addr::Ipv4;
use lb_common::counters::Traffic;
use lb_common::filter::Filter;
use lb_common::flow::{Flow, FlowKey};
use lb_common::service::{Listener, Service};
use lb_common::verdict::Reason;

use crate::rows::frame::{ACK, HEADERS, Leg, SYN, segment};
use crate::rows::kernel;
use crate::rows::world::{FROM_CLIENT, FROM_SERVER, SLOT, TARGET, VIP, World};

/// Handshakes that PENDING has room for: the agent's default.
const PENDING_MAX: u32 = 32_768;
/// Live frames in one batch of the kernel's generator.
const FRAMES_AT_ONCE: u32 = 64;
/// Bytes of payload in a segment of an established connection.
const PAYLOAD: usize = 100;
/// 64-bit words of the harness' `Round`: template, state, flows, order, side,
/// first address.
const ROUND_WORDS: usize = 12;
/// The first address of the clients that have connections, and of those that
/// have none yet.
const ESTABLISHED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
const NEW: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// What is run behind the harness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Nothing but XDP_PASS.
    Pass,
    /// MAC addresses swapped, and XDP_TX.
    Swap,
    /// One look-up of the packet's flow in a hash map.
    Lookup,
    /// Ours.
    Lb,
}

/// Which packets are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// From clients, of established connections.
    Forward,
    /// From servers, of established connections.
    Reply,
    /// SYNs, each of another client, to a service with a target.
    Syn,
    /// SYNs to a service that has none.
    SynRefused,
    /// To the VIP's host, but no service.
    NotOurs,
}

/// Whose packets are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One at random each time, of so many.
    Random(u32),
    /// One after the other, of so many.
    Sequence(u32),
}

impl Packets {
    fn frame(self) -> Vec<u8> {
        let elsewhere = Leg {
            destination: (VIP.0, 22),
            ..FROM_CLIENT
        };
        let (leg, flags) = match self {
            Self::Forward => (FROM_CLIENT, ACK),
            Self::Reply => (FROM_SERVER, ACK),
            Self::Syn | Self::SynRefused => (FROM_CLIENT, SYN),
            Self::NotOurs => (elsewhere, ACK),
        };
        let payload = if flags == SYN { 0 } else { PAYLOAD };
        segment(leg, flags)
            .numbers(1001, 5001)
            .payload(&vec![7; payload])
            .build()
    }

    /// What the program has to say of nearly all of them.
    fn reason(self) -> Reason {
        match self {
            Self::Forward => Reason::Forward,
            Self::Reply => Reason::Reply,
            Self::Syn => Reason::Opened,
            Self::SynRefused => Reason::NoTarget,
            Self::NotOurs => Reason::NotOurs,
        }
    }
}

/// The loaded programs and the tables that a benchmark fills.
pub struct DataPath {
    lb: Ebpf,
    bench: Ebpf,
    flows: HashMap<MapData, FlowKey<Ipv4>, Flow<Ipv4>>,
    bare: HashMap<MapData, FlowKey<Ipv4>, Flow<Ipv4>>,
    slots: Array<MapData, lb_common::target::TargetId>,
    addresses: Array<MapData, Filter>,
    filter: Filter,
    verdicts: PerCpuArray<MapData, Traffic>,
    measured: ProgramArray<MapData>,
    round: Array<MapData, [u64; ROUND_WORDS]>,
    swallowed: PerCpuArray<MapData, u64>,
    connections_max: u32,
    connections: u32,
}

impl DataPath {
    /// Loads the programs, with room for `connections_max` connections, and
    /// one service with one target.
    pub fn load(connections_max: u32) -> Result<Self> {
        let room = connections_max.max(1) * 2;
        let mut lb = EbpfLoader::new()
            .map_max_entries("FLOWS_V4", room)
            .map_max_entries("PENDING_V4", PENDING_MAX)
            .load_file(kernel::object()?)
            .context("load the kernel object")?;
        load(&mut lb, "lb")?;
        let mut bench = EbpfLoader::new()
            .map_max_entries("BARE", room)
            .load_file(object()?)
            .context("load the benchmarks' kernel object")?;
        for name in [
            "bench_round",
            "bench_pass",
            "bench_swap",
            "bench_lookup",
            "bench_drop",
        ] {
            load(&mut bench, name)?;
        }
        let mut path = Self {
            flows: take(&mut lb, "FLOWS_V4")?,
            slots: take(&mut lb, "SLOTS")?,
            addresses: take(&mut lb, "ADDRESSES")?,
            filter: Filter::EMPTY,
            verdicts: take(&mut lb, "VERDICTS")?,
            bare: take(&mut bench, "BARE")?,
            measured: take(&mut bench, "MEASURED")?,
            round: take(&mut bench, "ROUND")?,
            swallowed: take(&mut bench, "SWALLOWED")?,
            connections_max: connections_max.max(1),
            connections: 0,
            lb,
            bench,
        };
        path.install(&World::new())?;
        Ok(path)
    }

    fn install(&mut self, world: &World) -> Result<()> {
        let mut services: HashMap<MapData, Listener<Ipv4>, Service> =
            take(&mut self.lb, "SERVICES_V4")?;
        for (listener, service) in &world.services {
            services.insert(listener, service, 0)?;
        }
        let mut targets: Array<MapData, _> = take(&mut self.lb, "TARGETS_V4")?;
        for (id, target) in &world.targets {
            targets.set(id.0, *target, 0)?;
        }
        let mut generations: Array<MapData, _> = take(&mut self.lb, "GENERATIONS")?;
        for (id, generation) in &world.generations {
            generations.set(id.0, *generation, 0)?;
        }
        let mut snats: Array<MapData, _> = take(&mut self.lb, "SNATS_V4")?;
        for (index, snat) in (0..).zip(&world.snats) {
            snats.set(index, *snat, 0)?;
            self.filter.add(snat.address);
        }
        for listener in world.services.keys() {
            self.filter.add(listener.address);
        }
        self.addresses.set(0, self.filter, 0)?;
        self.slots.set(SLOT, TARGET, 0)?;
        Ok(())
    }

    /// Adds established connections until there are `connections`: both flows
    /// of each, in the program's table and in the bare one.
    pub fn fill(&mut self, connections: u32) -> Result<()> {
        let world = World::new();
        for number in self.connections..connections {
            let end = varied(number);
            let (mut forward, mut reply) = world.pair_of(TARGET, (end.0.into(), end.1), end.1);
            // One SNAT address has not ports enough for a million.
            reply.0.destination = end.0.into();
            self.filter.add(reply.0.destination);
            forward.1.rewrite = reply.0.reversed();
            for (key, flow) in [forward, reply] {
                self.flows.insert(key, flow, 0)?;
                self.bare.insert(key, flow, 0)?;
            }
        }
        self.addresses.set(0, self.filter, 0)?;
        self.connections = self.connections.max(connections);
        Ok(())
    }

    /// Nanoseconds a packet, the harness included: the mean of `repeat` in one
    /// call.
    ///
    /// # Errors
    /// The kernel does not run it; or our program has not said of the packets
    /// what it should, so that something else was measured.
    pub fn time(
        &mut self,
        program: Program,
        packets: Packets,
        order: Order,
        repeat: u32,
    ) -> Result<f64> {
        self.prepare(program, packets, order)?;
        let reason = packets.reason();
        let before = self.counted()?;
        let run = xdp(&self.bench, "bench_round")?.test_run(TestRunOptions {
            data_in: Some(&packets.frame()),
            repeat,
            ..TestRunOptions::new()
        })?;
        ensure!(run.return_value != 0, "{program:?} aborted");
        if program == Program::Lb {
            let mut counted = self.counted()?;
            counted
                .iter_mut()
                .zip(before)
                .for_each(|(now, then)| now.1 -= then.1);
            counted.retain(|(_, packets)| *packets > 0);
            // Now and then all ports that are tried for a SYN are taken.
            let expected = |&(is, packets): &(Reason, u64)| {
                is == reason && packets >= u64::from(repeat) * 99 / 100
            };
            ensure!(
                counted.iter().any(expected),
                "of {repeat} packets that were to be {reason:?}: {counted:?}"
            );
        }
        Ok(run.duration.as_nanos() as f64)
    }

    /// Prepares an interface for [`Self::send`], in the namespace of the
    /// calling thread: the near end of a veth.
    pub fn attach_near(&mut self, interface: &str) -> Result<()> {
        self.attach("bench_pass", interface)
    }

    /// Has the far end of the veth swallow all that is sent, and count it.
    pub fn attach_far(&mut self, interface: &str) -> Result<()> {
        self.attach("bench_drop", interface)
    }

    fn attach(&mut self, name: &str, interface: &str) -> Result<()> {
        let program: &mut Xdp = self
            .bench
            .program_mut(name)
            .with_context(|| format!("no program `{name}`"))?
            .try_into()?;
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("cannot attach {name} to {interface}"))?;
        Ok(())
    }

    /// Has `repeat` live frames come in at the interface number `ingress` of
    /// the calling thread's namespace; they leave by it. How many came out at
    /// the far end.
    pub fn send(
        &mut self,
        program: Program,
        packets: Packets,
        order: Order,
        repeat: u32,
        ingress: u32,
    ) -> Result<u64> {
        self.prepare(program, packets, order)?;
        let frame = packets.frame();
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex,
        // rx_queue_index, egress_ifindex.
        let words = [0, u32::try_from(frame.len())?, 0, ingress, 0, 0];
        let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let before = self.swallowed()?;
        xdp(&self.bench, "bench_round")?.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(FRAMES_AT_ONCE),
            ..TestRunOptions::new()
        })?;
        Ok(self.swallowed()? - before)
    }

    fn swallowed(&self) -> Result<u64> {
        Ok(self.swallowed.get(&0, 0)?.iter().sum())
    }

    /// What the kernel says the program's table of flows takes, in bytes, and
    /// for how many connections that is.
    pub fn memory(&self) -> Result<(u64, u32)> {
        let entries = self.connections_max * 2;
        for entry in fs::read_dir("/proc/self/fdinfo")? {
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            let field = |name: &str| {
                let mut lines = text.lines();
                let value = lines.find_map(|line| line.strip_prefix(name))?;
                value.trim().parse::<u64>().ok()
            };
            // BARE is one of the same size, and so as good.
            let found = field("map_type:") == Some(1)
                && field("key_size:") == Some(size_of::<FlowKey<Ipv4>>() as u64)
                && field("max_entries:") == Some(u64::from(entries));
            if let (true, Some(bytes)) = (found, field("memlock:")) {
                return Ok((bytes, self.connections_max));
            }
        }
        bail!("the kernel does not say what a map takes")
    }

    /// Nanoseconds a packet of `program` without the harness: of one that does
    /// not mind its own output, and needs no table.
    pub fn time_alone(&self, program: Program, packets: Packets, repeat: u32) -> Result<f64> {
        let run = self.xdp(program)?.test_run(TestRunOptions {
            data_in: Some(&packets.frame()),
            repeat,
            ..TestRunOptions::new()
        })?;
        Ok(run.duration.as_nanos() as f64)
    }

    fn prepare(&mut self, program: Program, packets: Packets, order: Order) -> Result<()> {
        let fd = self.xdp(program)?.fd()?.try_clone()?;
        self.measured.set(0, &fd, 0)?;
        let target = match packets {
            Packets::SynRefused => lb_common::target::TargetId::NONE,
            _ => TARGET,
        };
        self.slots.set(SLOT, target, 0)?;
        let mut template = packets.frame();
        template.truncate(HEADERS);
        template.resize(HEADERS.next_multiple_of(8), 0);
        let (words, _) = template.as_chunks::<8>();
        let (flows, in_order) = match order {
            Order::Random(flows) => (flows, 0),
            Order::Sequence(flows) => (flows, 1),
        };
        let mut round = [0; ROUND_WORDS];
        for (to, from) in round.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(*from);
        }
        // The sequence goes on where it was: see `Order::Sequence`.
        let state = self.round.get(&0, 0)?[7];
        let at_destination = u64::from(packets == Packets::Reply);
        let first = match packets {
            Packets::Syn | Packets::SynRefused => NEW,
            Packets::Forward | Packets::Reply | Packets::NotOurs => ESTABLISHED,
        };
        round[7..].copy_from_slice(&[
            state,
            u64::from(flows),
            in_order,
            at_destination,
            u64::from(first.to_bits()),
        ]);
        self.round.set(0, round, 0)?;
        Ok(())
    }

    /// The name of each of our programs that is loaded, and how many
    /// instructions the verifier went through.
    pub fn verified(&self) -> Result<Vec<(String, u32)>> {
        let program = self.xdp(Program::Lb)?;
        let info = program.info().context("a loaded program has an info")?;
        let name = info.name_as_str().unwrap_or("lb").to_owned();
        let verified = info.verified_instruction_count();
        let verified = verified.context("this kernel counts no verified instructions")?;
        Ok(vec![(name, verified)])
    }

    fn xdp(&self, program: Program) -> Result<&Xdp> {
        match program {
            Program::Pass => xdp(&self.bench, "bench_pass"),
            Program::Swap => xdp(&self.bench, "bench_swap"),
            Program::Lookup => xdp(&self.bench, "bench_lookup"),
            Program::Lb => xdp(&self.lb, "lb"),
        }
    }

    /// How many packets each reason was counted for.
    fn counted(&self) -> Result<Vec<(Reason, u64)>> {
        let packets = |reason: &Reason| {
            let counted = self.verdicts.get(&(*reason as u32), 0)?;
            Ok((*reason, counted.iter().map(|traffic| traffic.packets).sum()))
        };
        Reason::ALL.iter().map(packets).collect()
    }
}

/// The end that is number `flow`'s alone: as the harness has it.
fn varied(flow: u32) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::from_bits(ESTABLISHED.to_bits() + (flow >> 14));
    (address, 1024 + (flow & 0x3fff) as u16)
}

/// The benchmarks' kernel object. Its place is fixed.
fn object() -> Result<PathBuf> {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/bpf/bench.o"
    ));
    ensure!(
        path.is_file(),
        "there is no {}; run: cargo xtask build",
        path.display()
    );
    Ok(path)
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .with_context(|| format!("no program `{name}`"))?
        .try_into()?;
    program
        .load()
        .map_err(|error| anyhow::anyhow!("load the kernel program {name}: {error:#}"))
}

fn xdp<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = ebpf
        .program(name)
        .with_context(|| format!("no program `{name}`"))?;
    Ok(program.try_into()?)
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("no map {name}"))?;
    Ok(map.try_into()?)
}
