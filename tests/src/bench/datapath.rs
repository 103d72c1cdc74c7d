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
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::{
    ProgramFd, SchedClassifier, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use lb_common::counters::Traffic;
use lb_common::flow::{Direction, Flow, FlowKey, Owner, Tick};
use lb_common::target::Hop;
use lb_common::verdict::Reason;

use super::measured::{Bare, Measured, Order, Packets, Place, Program};
use crate::rows::connections::Entry;
use crate::rows::kernel;
use crate::rows::maps::{Maps, take};
use crate::rows::world::{CLIENT_MAC, NIC, SERVER, SLOT, TARGET, VIP, World, hop, key};

/// Entries that PENDING has room for, two a handshake: the agent's default.
pub(super) const PENDING_MAX: u32 = 32_768;
/// Live frames in one batch of the kernel's generator.
const FRAMES_AT_ONCE: u32 = 64;
/// 64-bit words of the harness' `Round`: the template, and behind it state,
/// flows, order, side, first address, whether rounds wait for each other.
const ROUND_WORDS: usize = TEMPLATE_WORDS + 6;
const TEMPLATE_WORDS: usize = 10;
/// Connections that are stored at a time.
const CHUNK: u32 = 10_000;
/// The first address of the clients that have connections, and of those that
/// have none yet.
const ESTABLISHED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
const NEW: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// The loaded programs and the tables that a benchmark fills.
pub struct DataPath<A: Measured> {
    lb: Ebpf,
    bench: Ebpf,
    /// What was installed at first.
    world: World,
    maps: Maps,
    bare: Box<dyn Bare<A>>,
    verdicts: PerCpuArray<MapData, Traffic>,
    measured: [ProgramArray<MapData>; 2],
    round: Array<MapData, [u64; ROUND_WORDS]>,
    swallowed: PerCpuArray<MapData, u64>,
    connections_max: u32,
    connections: u32,
}

impl<A: Measured> DataPath<A> {
    /// Loads the programs, with room for `connections_max` connections, and
    /// one service with one target.
    pub fn load(connections_max: u32) -> Result<Self> {
        Self::load_for(connections_max, NIC)
    }

    /// The same for packets that leave by the interface of this number.
    pub fn load_for(connections_max: u32, interface: u32) -> Result<Self> {
        let mut world = World::new();
        for target in world.targets.values_mut() {
            target.hop.ifindex = interface;
        }
        let room = connections_max.max(1) * 2;
        let map = |name: &str| format!("{name}_{}", A::SUFFIX.to_uppercase());
        let mut lb = EbpfLoader::new()
            .map_max_entries(&map("FLOWS"), room)
            .map_max_entries(&map("PENDING"), PENDING_MAX)
            .load_file(kernel::object()?)
            .context("load the kernel object")?;
        let mut bench = EbpfLoader::new()
            .map_max_entries(&map("BARE"), room)
            .load_file(object()?)
            .context("load the benchmarks' kernel object")?;
        for place in Place::ALL {
            load(&mut lb, &Program::Lb.name(place, A::SUFFIX))?;
            load(&mut bench, &place.harness(A::SUFFIX))?;
            for program in [Program::Pass, Program::Swap] {
                load(&mut bench, &program.name(place, A::SUFFIX))?;
            }
        }
        for program in [Program::Lookup, Program::LookupUsed] {
            load(&mut bench, &program.name(Place::Xdp, A::SUFFIX))?;
        }
        load(&mut bench, "bench_drop")?;
        let mut maps = Maps::take(&mut lb)?;
        maps.install(&world.translated::<A>())?;
        Ok(Self {
            world,
            maps,
            verdicts: take(&mut lb, "VERDICTS")?,
            bare: A::bare(&mut bench)?,
            measured: [
                take(&mut bench, "MEASURED")?,
                take(&mut bench, "MEASURED_TC")?,
            ],
            round: take(&mut bench, "ROUND")?,
            swallowed: take(&mut bench, "SWALLOWED")?,
            connections_max: connections_max.max(1),
            connections: 0,
            lb,
            bench,
        })
    }

    /// Adds established connections until there are `connections`: both flows
    /// of each, in the program's table and in the bare one.
    pub fn fill(&mut self, connections: u32) -> Result<()> {
        while self.connections < connections {
            let end = connections.min(self.connections + CHUNK);
            let mut world = World::<A>::empty();
            let flows = (self.connections..end).flat_map(|number| pair(&self.world, number));
            world.connections.flows.extend(flows);
            for (key, flow) in &world.connections.flows {
                self.bare.insert(&(*key, *flow))?;
            }
            self.maps.add(&world)?;
            self.connections = end;
        }
        Ok(())
    }

    /// Takes all unfinished handshakes out of the program's table.
    pub fn forget_handshakes(&mut self) -> Result<()> {
        A::maps(&mut self.maps).forget_handshakes()
    }

    /// Nanoseconds a packet, the harness included: the mean of `repeat` in one
    /// call.
    ///
    /// # Errors
    /// The kernel does not run it; or our program has not said of the packets
    /// what it should, so that something else was measured.
    pub fn time(
        &mut self,
        place: Place,
        program: Program,
        packets: Packets,
        order: Order,
        repeat: u32,
    ) -> Result<f64> {
        self.prepare(place, program, packets, order)?;
        let reason = packets.reason();
        let before = self.counted()?;
        let frame = packets.frame::<A>();
        let run = test_run(&self.bench, &place.harness(A::SUFFIX), &frame, repeat)?;
        ensure!(run.0 != 0, "{program:?} aborted");
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
                "{} at {}, {order:?}: of {repeat} packets that were to be {reason:?}: {counted:?}",
                A::NAME,
                place.name()
            );
        }
        Ok(run.1)
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
        self.prepare(Place::Xdp, program, packets, order)?;
        let frame = packets.frame::<A>();
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex,
        // rx_queue_index, egress_ifindex.
        let words = [0, u32::try_from(frame.len())?, 0, ingress, 0, 0];
        let context: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let before = self.swallowed()?;
        let name = Place::Xdp.harness(A::SUFFIX);
        let harness: &Xdp = self
            .bench
            .program(&name)
            .context("no harness")?
            .try_into()?;
        harness.test_run(TestRunOptions {
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
                && field("key_size:") == Some(size_of::<FlowKey<A>>() as u64)
                && field("value_size:") == Some(size_of::<Flow<A>>() as u64)
                && field("max_entries:") == Some(u64::from(entries));
            if let (true, Some(bytes)) = (found, field("memlock:")) {
                return Ok((bytes, self.connections_max));
            }
        }
        bail!("the kernel does not say what a map takes")
    }

    /// Nanoseconds a packet of `program` without the harness: of one that does
    /// not mind its own output, and needs no table.
    pub fn time_alone(
        &self,
        place: Place,
        program: Program,
        packets: Packets,
        repeat: u32,
    ) -> Result<f64> {
        let name = program.name(place, A::SUFFIX);
        let (_, nanoseconds) = test_run(&self.bench, &name, &packets.frame::<A>(), repeat)?;
        Ok(nanoseconds)
    }

    fn prepare(
        &mut self,
        place: Place,
        program: Program,
        packets: Packets,
        order: Order,
    ) -> Result<()> {
        let object = match program {
            Program::Lb => &self.lb,
            Program::Pass | Program::Swap | Program::Lookup | Program::LookupUsed => &self.bench,
        };
        let fd = fd(object, &program.name(place, A::SUFFIX))?;
        self.measured[place as usize].set(0, &fd, 0)?;
        let target = match packets {
            Packets::SynRefused => lb_common::target::TargetId::NONE,
            _ => TARGET,
        };
        self.maps.set_slot(SLOT, target)?;
        let mut template = packets.frame::<A>();
        template.truncate(A::HEADERS);
        template.resize(TEMPLATE_WORDS * 8, 0);
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
        let state = self.round.get(&0, 0)?[TEMPLATE_WORDS];
        let at_destination = u64::from(packets == Packets::Reply);
        let first = match packets {
            Packets::Syn | Packets::SynRefused => NEW,
            Packets::Forward | Packets::Reply | Packets::NoService | Packets::Foreign => {
                ESTABLISHED
            }
        };
        round[TEMPLATE_WORDS..].copy_from_slice(&[
            state,
            u64::from(flows),
            in_order,
            at_destination,
            u64::from(first.to_bits()),
            u64::from(matches!(order, Order::Random(2..))),
        ]);
        self.round.set(0, round, 0)?;
        Ok(())
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

/// The name of each of our programs, and how many instructions the verifier
/// goes through when it is loaded.
pub fn verified() -> Result<Vec<(String, u32)>> {
    let mut lb = Ebpf::load_file(kernel::object()?).context("load the kernel object")?;
    let mut names: Vec<String> = lb.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    let count = |name: String| {
        load(&mut lb, &name)?;
        let info = match lb.program(&name).context("it was there")? {
            aya::programs::Program::Xdp(program) => program.info()?,
            aya::programs::Program::SchedClassifier(program) => program.info()?,
            other => bail!("{name} is of an unknown type: {:?}", other.prog_type()),
        };
        let count = info.verified_instruction_count();
        let count = count.context("this kernel counts no verified instructions")?;
        Ok((name, count))
    };
    names.into_iter().map(count).collect()
}

/// The two flows of an established connection: that of the client whose end
/// [`varied`] tells. The server sees that end too, for one SNAT address has not
/// ports enough for a million.
fn pair<A: Measured>(world: &World, number: u32) -> [Entry<A>; 2] {
    let (address, port) = varied(number);
    let client = (address.into(), port);
    let (forward, reply) = (key::<A>(client, VIP), key::<A>(SERVER, client));
    let target = &world.targets[&TARGET];
    let owner = Owner {
        target: TARGET,
        generation: world.generations[&TARGET],
    };
    let flow = |key: &FlowKey<A>, rewrite: FlowKey<A>, direction, hop| {
        Flow::new(key, &rewrite, direction, owner, hop, Tick(0))
    };
    let to_client = Hop {
        ifindex: target.hop.ifindex,
        ..hop(CLIENT_MAC)
    };
    let (there, back) = (reply.reversed(), forward.reversed());
    let there = flow(&forward, there, Direction::Forward, Hop::default());
    let back = flow(&reply, back, Direction::Reply, to_client);
    [(forward, there), (reply, back)]
}

/// The end that is number `flow`'s alone: as the harness has it.
fn varied(flow: u32) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::from_bits(ESTABLISHED.to_bits() + (flow >> 14));
    (address, 1024 + (flow & 0x3fff) as u16)
}

/// The benchmarks' kernel object. Its place is fixed.
pub fn object() -> Result<PathBuf> {
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
    let loaded = match ebpf.program_mut(name) {
        Some(aya::programs::Program::Xdp(program)) => program.load(),
        Some(aya::programs::Program::SchedClassifier(program)) => program.load(),
        _ => bail!("no program `{name}`"),
    };
    loaded.map_err(|error| anyhow::anyhow!("load the kernel program {name}: {error:#}"))
}

fn fd(ebpf: &Ebpf, name: &str) -> Result<ProgramFd> {
    let program = ebpf.program(name);
    let program = program.with_context(|| format!("no program `{name}`"))?;
    Ok(program.fd()?.try_clone()?)
}

/// What the program of this name returned at last, and the nanoseconds that
/// each of `repeat` rounds took.
fn test_run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat,
        ..TestRunOptions::new()
    };
    let program = ebpf.program(name);
    let run = match program.with_context(|| format!("no program `{name}`"))? {
        aya::programs::Program::SchedClassifier(program) => {
            let program: &SchedClassifier = program;
            program.test_run(options)?
        }
        program => <&Xdp>::try_from(program)?.test_run(options)?,
    };
    Ok((run.return_value, run.duration.as_nanos() as f64))
}
