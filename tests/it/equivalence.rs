//! The kernel program and the host's `process` are one: whatever the packet
//! and whatever the tables, they say and do the same.
//!
//! `LB_FUZZ_PACKETS` and `LB_FUZZ_SEED` let it go further than a test run
//! does: `LB_FUZZ_PACKETS=5000000 cargo xtask test equivalence`.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason};
use lb_tests::privileged;
use lb_tests::rows::frame::{ETH, checksum_partial, checksums_valid, ip_checksum_valid};
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::random::{self, Random};
use lb_tests::rows::{Outcome, host};

/// How many packets a test run takes, in each mode.
const PACKETS: u64 = 20_000;
/// And how long at most, unless the environment asks for more packets.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many packets meet the same state of the agent's tables.
const PACKETS_PER_WORLD: u64 = 20;
/// How many worlds follow from each other.
const WORLDS_PER_LIFE: u64 = 8;

/// How often each reason was met.
#[derive(Debug, Default)]
struct Census([u64; Reason::COUNT]);

#[test]
fn kernel_and_host_are_one_in_native_mode() {
    privileged!();
    fuzz(PartialChecksum::Finish).expect("they agree");
}

#[test]
fn kernel_and_host_are_one_in_generic_mode() {
    privileged!();
    fuzz(PartialChecksum::Keep).expect("they agree");
}

fn fuzz(partial: PartialChecksum) -> Result<()> {
    let asked = number("LB_FUZZ_PACKETS")?;
    let packets = asked.unwrap_or(PACKETS);
    let first_seed = number("LB_FUZZ_SEED")?.unwrap_or(1);
    let mut kernel = Kernel::load(partial)?;
    let mut census = Census::default();
    let start = Instant::now();
    let mut lives = 0;
    while lives * WORLDS_PER_LIFE * PACKETS_PER_WORLD < packets {
        if asked.is_none() && start.elapsed() > PATIENCE {
            break;
        }
        let seed = first_seed + lives;
        live(&mut kernel, partial, seed, &mut census)
            .with_context(|| format!("with LB_FUZZ_SEED={seed} ({partial:?})"))?;
        lives += 1;
    }
    let seconds = start.elapsed().as_secs_f32();
    println!("{partial:?}: {lives} lives in {seconds:.1} s; {census}");
    if packets < PACKETS {
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

/// One seed's worlds and packets.
fn live(
    kernel: &mut Kernel,
    partial: PartialChecksum,
    seed: u64,
    census: &mut Census,
) -> Result<()> {
    let mut random = Random::new(seed);
    let mut world = random::world(&mut random);
    for _ in 0..WORLDS_PER_LIFE {
        let tables = world.tables();
        kernel.install(&world)?;
        for _ in 0..PACKETS_PER_WORLD {
            let packet = random::packet(&mut random, &host::connections(&tables));
            let by_host = host::run(&tables, &packet, partial);
            let sane = sane(&packet, &by_host, partial);
            sane.with_context(|| format!("{} became {by_host:#?}", hex(&packet)))?;
            census.0[by_host.reason as usize] += 1;
            // BPF_PROG_TEST_RUN takes no less than an Ethernet header.
            if packet.len() < ETH {
                continue;
            }
            let by_kernel = kernel.run(&packet)?;
            if let Some(difference) = by_kernel.difference(&by_host) {
                anyhow::bail!("{}: the kernel's\n{difference}", hex(&packet));
            }
        }
        world = random::next(&mut random, &world, host::connections(&tables));
    }
    Ok(())
}

/// What holds of every packet.
fn sane(packet: &[u8], outcome: &Outcome, partial: PartialChecksum) -> Result<()> {
    let Outcome { fate, frame, .. } = outcome;
    let (Some(frame), Fate::Transmit | Fate::Reset) = (frame, fate) else {
        let untouched = frame.as_ref().is_none_or(|frame| frame == packet);
        ensure!(untouched, "a packet that passes is not touched");
        return Ok(());
    };
    ensure!(
        ip_checksum_valid(frame) || !ip_checksum_valid(packet),
        "the IP checksum is as right as before"
    );
    if checksum_partial(packet) && partial == PartialChecksum::Keep {
        ensure!(checksum_partial(frame), "a partial checksum stays partial");
    } else if *fate == Fate::Reset {
        ensure!(checksums_valid(frame), "the checksums of a RST are right");
    } else if checksum_partial(packet) && ip_checksum_valid(packet) || checksums_valid(packet) {
        ensure!(checksums_valid(frame), "the checksums are right");
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Census {
    /// A fuzzer that misses what there is to be found finds nothing.
    fn complete(&self) -> Result<()> {
        for (reason, count) in Reason::ALL.iter().zip(self.0) {
            // Two CPUs at once, and frames of more than a page.
            let out_of_reach = matches!(reason, Reason::SynLost | Reason::Unfinished);
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
