//! A SYN flood: SYNs whose senders do not exist, so that nobody finishes the
//! handshake and nobody resets it. Bounded in rate, in number and in time.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::frames::{FrameSender, mac_address};
use crate::lab::{NIC, Namespace, joined};
use crate::rows::frame::MacAddress;
use crate::rows::random::Random;

/// No flood goes on for longer, whatever its plan says.
const DURATION_MAX: Duration = Duration::from_secs(60);
/// Frames that are handed to the kernel at a time.
const BATCH: usize = 64;
/// Between two batches when ahead of the rate.
const PAUSE: Duration = Duration::from_micros(200);

const ETH: usize = 14;
const TCP: usize = 20;
const TCP_PROTOCOL: u8 = 6;
const SYN: u8 = 0x02;

/// What a flood consists of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the SYNs go.
    pub target: SocketAddr,
    /// SYNs a second on average; fewer where the machine is too slow for that.
    pub rate: u32,
    /// SYNs in all.
    pub count_max: u64,
    /// The longest that it takes.
    pub duration_max: Duration,
    /// Decides the senders, their ports and their sequence numbers.
    pub seed: u64,
}

/// What became of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// SYNs that were sent.
    pub sent: u64,
    /// How long that took.
    pub took: Duration,
}

impl Account {
    /// SYNs a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }
}

/// A flood that goes on until its plan is over, or it is stopped or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    work: Option<JoinHandle<Result<Account>>>,
}

impl Flood {
    /// Starts it on the NIC of `from`. The frames go to the NIC of `to`, which
    /// is on the same link.
    pub fn start(from: &Namespace, to: &Namespace, plan: &Plan) -> Result<Self> {
        let sender = FrameSender::open(from, NIC)?;
        let mut syns = Syns::new(mac_address(from)?, mac_address(to)?, plan);
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let plan = plan.clone();
        let work = thread::spawn(move || run(&sender, &mut syns, &plan, &stopped, &counter));
        Ok(Self {
            stop,
            sent,
            work: Some(work),
        })
    }

    /// SYNs that were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until the plan is over.
    pub fn wait(mut self) -> Result<Account> {
        self.join()
    }

    /// Ends it now.
    pub fn stop(mut self) -> Result<Account> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(&mut self) -> Result<Account> {
        let work = self.work.take().context("it is over already")?;
        joined(work.join())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(
    sender: &FrameSender,
    syns: &mut Syns,
    plan: &Plan,
    stopped: &AtomicBool,
    counter: &AtomicU64,
) -> Result<Account> {
    let begun = Instant::now();
    let end = plan.duration_max.min(DURATION_MAX);
    let mut sent = 0;
    loop {
        let took = begun.elapsed();
        if sent >= plan.count_max || took >= end || stopped.load(Ordering::Relaxed) {
            return Ok(Account { sent, took });
        }
        let due = (took.as_secs_f64() * f64::from(plan.rate)) as u64;
        let batch = due.min(plan.count_max).saturating_sub(sent) as usize;
        if batch == 0 {
            thread::sleep(PAUSE);
            continue;
        }
        let frames = syns.next(batch.min(BATCH));
        sent += sender.send_many(frames).context("cannot send SYNs")? as u64;
        counter.store(sent, Ordering::Relaxed);
    }
}

/// Makes SYNs, each from another sender.
struct Syns {
    random: Random,
    target: SocketAddr,
    frames: Vec<Vec<u8>>,
}

impl Syns {
    fn new(from: MacAddress, to: MacAddress, plan: &Plan) -> Self {
        let frame = template(from, to, plan.target);
        Self {
            random: Random::new(plan.seed),
            target: plan.target,
            frames: vec![frame; BATCH],
        }
    }

    /// The next ones; at most [`BATCH`].
    fn next(&mut self, count: usize) -> &[Vec<u8>] {
        for frame in &mut self.frames[..count] {
            personalise(frame, self.target, &mut self.random);
        }
        &self.frames[..count]
    }
}

/// A frame without a sender's address and port, a sequence number, and
/// checksums.
fn template(from: MacAddress, to: MacAddress, target: SocketAddr) -> Vec<u8> {
    let mut frame = [to, from].concat();
    match target.ip() {
        IpAddr::V4(ip) => {
            frame.extend([0x08, 0x00]);
            // Version and length of the header, 40 bytes in all, "do not
            // fragment", time to live.
            frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP_PROTOCOL, 0, 0]);
            frame.extend([0; 4]);
            frame.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            frame.extend([0x86, 0xdd]);
            // Version, 20 bytes of payload, hop limit.
            frame.extend([0x60, 0, 0, 0, 0, TCP as u8, TCP_PROTOCOL, 64]);
            frame.extend([0; 16]);
            frame.extend(ip.octets());
        }
    }
    frame.extend([0, 0]);
    frame.extend(target.port().to_be_bytes());
    frame.extend([0; 8]);
    // Five words of header; a window.
    frame.extend([0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// Fills in a sender, and what depends on it.
fn personalise(frame: &mut [u8], target: SocketAddr, random: &mut Random) {
    let tcp = frame.len() - TCP;
    let number = random.number();
    match target {
        SocketAddr::V4(_) => {
            frame[ETH + 12..ETH + 16].copy_from_slice(&nobody_v4(number));
            frame[ETH + 10..ETH + 12].fill(0);
            let header = checksum(words(&frame[ETH..tcp]));
            frame[ETH + 10..ETH + 12].copy_from_slice(&header.to_be_bytes());
        }
        SocketAddr::V6(_) => {
            let sender = nobody_v6(number).octets();
            frame[ETH + 8..ETH + 24].copy_from_slice(&sender);
        }
    }
    let number = random.number();
    let port = 1024 + (number >> 32) as u16 % (u16::MAX - 1024);
    frame[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
    frame[tcp + 4..tcp + 8].copy_from_slice(&(number as u32).to_be_bytes());
    frame[tcp + 16..tcp + 18].fill(0);
    let addresses = match target {
        SocketAddr::V4(_) => tcp - 8,
        SocketAddr::V6(_) => tcp - 32,
    };
    let pseudo = u32::from(TCP_PROTOCOL) + TCP as u32;
    let sum = checksum(words(&frame[addresses..]) + pseudo);
    frame[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
}

/// One of 198.18.0.0/15, which is set aside for measurements (RFC 2544): no
/// lab has a route there.
fn nobody_v4(number: u64) -> [u8; 4] {
    let number = number as u32 & 0x0001_ffff;
    (0xc612_0000 | number).to_be_bytes()
}

/// One of 2001:2::/48, likewise (RFC 5180).
fn nobody_v6(number: u64) -> Ipv6Addr {
    let prefix = 0x2001_0002_0000_0000_u128 << 64;
    Ipv6Addr::from(prefix | u128::from(number))
}

/// The sum of all 16-bit words.
fn words(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

/// The Internet checksum (RFC 1071) of what has this sum.
fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::address::Family;

    const MACS: [MacAddress; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

    fn syns(target: SocketAddr) -> Syns {
        let plan = Plan {
            target,
            rate: 1,
            count_max: 1,
            duration_max: Duration::ZERO,
            seed: 1,
        };
        Syns::new(MACS[0], MACS[1], &plan)
    }

    #[test]
    fn every_syn_has_a_sender_of_its_own_that_does_not_exist() {
        for family in Family::BOTH {
            let target = SocketAddr::new(family.vip(), 8080);
            let mut syns = syns(target);
            let frames: Vec<Vec<u8>> = (0..4).flat_map(|_| syns.next(BATCH).to_vec()).collect();
            let source = |frame: &[u8]| match family {
                Family::V4 => frame[ETH + 12..ETH + 16].to_vec(),
                Family::V6 => frame[ETH + 8..ETH + 24].to_vec(),
            };
            let known: &[u8] = match family {
                Family::V4 => &[198],
                Family::V6 => &[0x20, 0x01, 0, 2, 0, 0],
            };
            assert!(frames.iter().all(|frame| source(frame).starts_with(known)));
            let sources: BTreeSet<Vec<u8>> = frames.iter().map(|frame| source(frame)).collect();
            assert!(sources.len() > frames.len() * 9 / 10, "{}", sources.len());
        }
    }

    #[test]
    fn the_sums_of_a_syn_come_to_nothing() {
        for (family, addresses) in [(Family::V4, ETH + 12), (Family::V6, ETH + 8)] {
            let mut syns = syns(SocketAddr::new(family.vip(), 8080));
            // Twice: nothing may remain of the one before.
            for frame in [syns.next(1).to_vec(), syns.next(1).to_vec()].concat() {
                let pseudo = u32::from(TCP_PROTOCOL) + TCP as u32;
                assert_eq!(checksum(words(&frame[addresses..]) + pseudo), 0);
                if family == Family::V4 {
                    assert_eq!(checksum(words(&frame[ETH..ETH + 20])), 0);
                }
            }
        }
    }
}
