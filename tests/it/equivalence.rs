//! The kernel program and the host's `process` are one: whatever the packet
//! and whatever the tables, they say and do the same.
//!
//! `LB_FUZZ_PACKETS`, `LB_FUZZ_SECONDS` and `LB_FUZZ_SEED` let it go further
//! than a test run does; `cargo xtask fuzz --minutes 10` sets them.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Reason;
use lb_tests::privileged;
use lb_tests::rows::family::Family;
use lb_tests::rows::frame::{ETH, checksum_partial, finish_tcp};
use lb_tests::rows::kernel::{Kernel, shown_at_tc};
use lb_tests::rows::random::{self, Random};
use lb_tests::rows::sane::{hex, sane};
use lb_tests::rows::{Hook, OUT_OF_REACH, Outcome, Passage, host};

/// How many packets a test run takes by XDP, in each mode and for each family: a
/// million in all. So many meet every reason.
const PACKETS: u64 = 250_000;
/// And how many at TC.
const PACKETS_AT_TC: u64 = 50_000;
/// How long they may take: several times what they do on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// How many packets meet the same state of the agent's tables.
const PACKETS_PER_WORLD: u64 = 20;
/// How many worlds follow from each other.
const WORLDS_PER_LIFE: u64 = 8;

/// How often each reason was met.
#[derive(Debug)]
struct Census([u64; Reason::COUNT]);

impl Default for Census {
    fn default() -> Self {
        Self([0; Reason::COUNT])
    }
}

/// When the tables of kernel and host are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compare {
    /// After every packet.
    Often,
    /// At the end of each world: what went wrong remains to be seen, and it
    /// takes a fraction of the time.
    Seldom,
}

/// Where packets meet the kernel program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// XDP, in the NIC's buffers.
    Native,
    /// XDP, in socket buffers.
    Generic,
    /// TC: three packets in four as they arrive, one as it leaves.
    Tc,
}

impl Mode {
    const fn partial(self) -> PartialChecksum {
        match self {
            Self::Native => PartialChecksum::Finish,
            Self::Generic | Self::Tc => PartialChecksum::Keep,
        }
    }

    const fn packets(self) -> u64 {
        match self {
            Self::Native | Self::Generic => PACKETS,
            Self::Tc => PACKETS_AT_TC,
        }
    }

    fn load(self) -> Result<Kernel> {
        match self {
            Self::Native | Self::Generic => Kernel::load(self.partial()),
            Self::Tc => Kernel::at_tc(),
        }
    }

    /// By which hook the next packet is met.
    fn hook(self, random: &mut Random) -> Hook {
        if self == Self::Tc && random.once_in(4) {
            Hook::Egress
        } else {
            Hook::Ingress
        }
    }

    /// `packet` as it can be shown to the program; none where it cannot.
    fn shown(self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        if self != Self::Tc {
            return Some(packet);
        }
        while let Some([0x81, 0x00] | [0x88, 0xa8]) = packet.get(12..14) {
            packet.drain(12..packet.len().min(16));
        }
        if checksum_partial(&packet) {
            finish_tcp(&mut packet);
        }
        shown_at_tc(&packet).then_some(packet)
    }
}

#[test]
fn kernel_and_host_are_one_over_ipv4_at_tc() {
    privileged!();
    fuzz::<Ipv4>(Mode::Tc).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv6_at_tc() {
    privileged!();
    fuzz::<Ipv6>(Mode::Tc).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv4_in_native_mode() {
    privileged!();
    fuzz::<Ipv4>(Mode::Native).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv4_in_generic_mode() {
    privileged!();
    fuzz::<Ipv4>(Mode::Generic).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv6_in_native_mode() {
    privileged!();
    fuzz::<Ipv6>(Mode::Native).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv6_in_generic_mode() {
    privileged!();
    fuzz::<Ipv6>(Mode::Generic).expect("they agree");
}

fn fuzz<A: Family>(mode: Mode) -> Result<()> {
    let asked = number("LB_FUZZ_PACKETS")?;
    let seconds = number("LB_FUZZ_SECONDS")?;
    let packets = asked.unwrap_or(if seconds.is_some() {
        u64::MAX
    } else {
        mode.packets()
    });
    let patience = match (asked, seconds) {
        (_, Some(seconds)) => Duration::from_secs(seconds),
        (Some(_), None) => Duration::MAX,
        (None, None) => PATIENCE,
    };
    let first_seed = number("LB_FUZZ_SEED")?.unwrap_or(1);
    let family = A::NAME;
    println!("{family}, {mode:?}: from LB_FUZZ_SEED={first_seed} on");
    let mut kernel = mode.load()?;
    let mut census = Census::default();
    let start = Instant::now();
    let mut seed = first_seed;
    while census.packets() < packets && start.elapsed() < patience {
        live::<A>(&mut kernel, mode, seed, &mut census).with_context(|| {
            format!("with LB_FUZZ_SEED={seed} LB_FUZZ_PACKETS=1 ({family}, {mode:?})")
        })?;
        seed = seed.wrapping_add(1);
    }
    let (all, took) = (census.packets(), start.elapsed().as_secs_f32());
    println!("{family}, {mode:?}: {all} packets in {took:.1} s agree; {census}");
    ensure!(
        seconds.is_some() || all >= packets,
        "{all} of {packets} packets ran in {took:.1} s"
    );
    if all < PACKETS || mode == Mode::Tc {
        return Ok(());
    }
    census.complete()
}

fn number(name: &str) -> Result<Option<u64>> {
    let Some(value) = env::var_os(name) else {
        return Ok(None);
    };
    let value = value.to_str().with_context(|| format!("read {name}"))?;
    let number = value.parse();
    Ok(Some(number.with_context(|| format!("read {name}"))?))
}

/// One seed's worlds and packets; where kernel and host differ, once more, to
/// find the packet.
fn live<A: Family>(kernel: &mut Kernel, mode: Mode, seed: u64, census: &mut Census) -> Result<()> {
    let Err(error) = live_once::<A>(kernel, mode, seed, census, Compare::Seldom) else {
        return Ok(());
    };
    let mut again = Census::default();
    live_once::<A>(kernel, mode, seed, &mut again, Compare::Often)?;
    Err(error)
}

fn live_once<A: Family>(
    kernel: &mut Kernel,
    mode: Mode,
    seed: u64,
    census: &mut Census,
    compare: Compare,
) -> Result<()> {
    let mut random = Random::new(seed);
    let mut world = random::world(&mut random).translated::<A>();
    for _ in 0..WORLDS_PER_LIFE {
        let tables = world.tables();
        kernel.install(&world)?;
        for _ in 0..PACKETS_PER_WORLD {
            let packet = random::packet(&mut random, &host::connections(&tables));
            let hook = mode.hook(&mut random);
            let Some(packet) = mode.shown(packet) else {
                continue;
            };
            let by_host = host::pass_by(&tables, hook, &packet, mode.partial());
            let sane = sane(&packet, &by_host, mode.partial());
            sane.with_context(|| format!("{} became {by_host:#?}", hex(&packet)))?;
            census.0[by_host.reason as usize] += 1;
            // BPF_PROG_TEST_RUN takes no less than an Ethernet header.
            if packet.len() < ETH {
                continue;
            }
            let by_kernel = match hook {
                Hook::Ingress => kernel.pass_as(&packet, by_host.reason),
                Hook::Egress => kernel.leave(&packet),
            };
            let by_kernel = by_kernel.with_context(|| hex(&packet))?;
            let by_host = match mode {
                Mode::Native | Mode::Generic => by_host,
                Mode::Tc => by_host.at_tc(),
            };
            let difference = by_kernel.difference(&by_host);
            if !difference.is_empty() {
                bail!("{}: the kernel's\n{difference}", hex(&packet));
            }
            if compare == Compare::Often {
                let of_host = host::connections(&tables);
                let difference = of_kernel::<A>(kernel, &by_host)?.difference(&Outcome {
                    passage: by_host,
                    connections: of_host,
                });
                if let Some(difference) = difference {
                    bail!("{}: the kernel's\n{difference}", hex(&packet));
                }
            }
        }
        let connections = host::connections(&tables);
        let by_kernel = kernel.connections()?;
        ensure!(by_kernel == connections, "the tables differ");
        world = random::next(&mut random, &world, connections);
    }
    Ok(())
}

/// The kernel's tables behind a passage that is the same.
fn of_kernel<A: Family>(kernel: &mut Kernel, passage: &Passage) -> Result<Outcome<A>> {
    Ok(Outcome {
        passage: passage.clone(),
        connections: kernel.connections()?,
    })
}

impl Census {
    fn packets(&self) -> u64 {
        self.0.iter().sum()
    }

    /// A fuzzer that misses what there is to be found finds nothing.
    fn complete(&self) -> Result<()> {
        for (reason, count) in Reason::ALL.iter().zip(self.0) {
            let out_of_reach = OUT_OF_REACH.contains(reason);
            ensure!(out_of_reach || count > 0, "no packet met {reason:?}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Census {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (reason, count) in Reason::ALL.iter().zip(self.0) {
            write!(out, "{} {count} ", reason.name())?;
        }
        Ok(())
    }
}
