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
use lb_tests::rows::frame::ETH;
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::random::{self, Random};
use lb_tests::rows::sane::{hex, sane};
use lb_tests::rows::{OUT_OF_REACH, Outcome, Passage, host};

/// How many packets a test run takes, in each mode and for each family: a
/// million in all.
const PACKETS: u64 = 250_000;
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

#[test]
fn kernel_and_host_are_one_over_ipv4_in_native_mode() {
    privileged!();
    fuzz::<Ipv4>(PartialChecksum::Finish).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv4_in_generic_mode() {
    privileged!();
    fuzz::<Ipv4>(PartialChecksum::Keep).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv6_in_native_mode() {
    privileged!();
    fuzz::<Ipv6>(PartialChecksum::Finish).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_over_ipv6_in_generic_mode() {
    privileged!();
    fuzz::<Ipv6>(PartialChecksum::Keep).expect("they agree");
}

fn fuzz<A: Family>(partial: PartialChecksum) -> Result<()> {
    let asked = number("LB_FUZZ_PACKETS")?;
    let seconds = number("LB_FUZZ_SECONDS")?;
    let packets = asked.unwrap_or(if seconds.is_some() { u64::MAX } else { PACKETS });
    let patience = match (asked, seconds) {
        (_, Some(seconds)) => Duration::from_secs(seconds),
        (Some(_), None) => Duration::MAX,
        (None, None) => PATIENCE,
    };
    let first_seed = number("LB_FUZZ_SEED")?.unwrap_or(1);
    let family = A::NAME;
    println!("{family}, {partial:?}: from LB_FUZZ_SEED={first_seed} on");
    let mut kernel = Kernel::load(partial)?;
    let mut census = Census::default();
    let start = Instant::now();
    let mut seed = first_seed;
    while census.packets() < packets && start.elapsed() < patience {
        live::<A>(&mut kernel, partial, seed, &mut census).with_context(|| {
            format!("with LB_FUZZ_SEED={seed} LB_FUZZ_PACKETS=1 ({family}, {partial:?})")
        })?;
        seed = seed.wrapping_add(1);
    }
    let (all, took) = (census.packets(), start.elapsed().as_secs_f32());
    println!("{family}, {partial:?}: {all} packets in {took:.1} s agree; {census}");
    ensure!(
        seconds.is_some() || all >= packets,
        "{all} of {packets} packets ran in {took:.1} s"
    );
    if all < PACKETS {
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
fn live<A: Family>(
    kernel: &mut Kernel,
    partial: PartialChecksum,
    seed: u64,
    census: &mut Census,
) -> Result<()> {
    let Err(error) = live_once::<A>(kernel, partial, seed, census, Compare::Seldom) else {
        return Ok(());
    };
    let mut again = Census::default();
    live_once::<A>(kernel, partial, seed, &mut again, Compare::Often)?;
    Err(error)
}

fn live_once<A: Family>(
    kernel: &mut Kernel,
    partial: PartialChecksum,
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
            let by_host = host::pass(&tables, &packet, partial);
            let sane = sane(&packet, &by_host, partial);
            sane.with_context(|| format!("{} became {by_host:#?}", hex(&packet)))?;
            census.0[by_host.reason as usize] += 1;
            // BPF_PROG_TEST_RUN takes no less than an Ethernet header.
            if packet.len() < ETH {
                continue;
            }
            let by_kernel = kernel.pass_as(&packet, by_host.reason);
            let by_kernel = by_kernel.with_context(|| hex(&packet))?;
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
