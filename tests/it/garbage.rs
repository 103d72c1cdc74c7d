//! Frames that no honest sender sends, on the wire: the balancer passes or
//! drops them as it should, counts each under its reason, and goes on.

use std::collections::BTreeMap;

use lb_tests::balancer::{Hook, Stats};
use lb_tests::lab::{NIC, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::rows::family::ipv6_like;
use lb_tests::rows::frame::{
    self, ACK, ETH, HEADERS, IP, Leg, MacAddress, RST, SYN, finish_ip, segment,
};
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::frames::{FrameSender, mac_address};

use crate::connections::{PATIENCE, Site, spec_for};

/// Of each kind.
const EACH: u64 = 1000;
/// Of random bytes.
const RANDOM: u64 = 6000;

#[test]
fn garbage_is_counted_by_its_reason_and_harms_nobody_with_native_xdp() {
    privileged!();
    let site = Site::with(&spec_for(Hook::Native), Hook::Native, |_| {});
    send_every_kind(&site);
    send_random_bytes(&site);
    // The driver counts what the program aborts as a drop, and we do not.
    let (driver, ours) = (driver_drops(&site), drops(&site.balancer.stats().unwrap()));
    assert_eq!(driver, ours, "a frame was dropped for no reason of ours");
}

#[test]
fn garbage_is_counted_by_its_reason_and_harms_nobody_with_generic_xdp() {
    privileged!();
    let site = Site::with(&spec_for(Hook::Generic), Hook::Generic, |_| {});
    send_every_kind(&site);
    send_random_bytes(&site);
}

/// Sends [`EACH`] of each kind in turns; then each reason has as many.
fn send_every_kind(site: &Site) {
    let mut open = site.connect().unwrap();
    let kinds = kinds(site);
    let before = site.balancer.stats().unwrap();
    let sender = FrameSender::open(site.lab.switch(), "balancer").unwrap();
    for _ in 0..EACH {
        for (_, frame) in &kinds {
            sender.send(frame).unwrap();
        }
    }
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, _) in &kinds {
        *expected.entry(reason).or_default() += EACH;
    }
    let counted = |stats: &Stats, reason| stats.packets(reason) - before.packets(reason);
    let all = wait_until(PATIENCE, || {
        let now = site.balancer.stats().unwrap();
        let mut reasons = expected.iter();
        reasons.all(|(reason, count)| counted(&now, reason) >= *count)
    });
    let now = site.balancer.stats().unwrap();
    let found: BTreeMap<_, _> = expected
        .keys()
        .map(|reason| (*reason, counted(&now, reason)))
        .collect();
    assert!(all, "expected {expected:?}, found {found:?}");
    for (reason, count) in &expected {
        // ARP and the probes' answers come besides.
        let others = if ["not_ip", "not_ours"].contains(reason) {
            2000
        } else {
            0
        };
        assert!(found[reason] <= count + others, "{expected:?}, {found:?}");
    }
    open.ping().unwrap();
    still_serves(site);
}

/// Sends random bytes behind addresses that bring them to the balancer, and
/// behind headers that are right up to some point.
fn send_random_bytes(site: &Site) {
    let mut open = site.connect().unwrap();
    let total = |stats: &Stats| stats.verdicts.iter().map(|one| one.packets).sum::<u64>();
    let before = total(&site.balancer.stats().unwrap());
    let sender = FrameSender::open(site.lab.switch(), "balancer").unwrap();
    let mut random = Random(0x1b_5eed);
    let whole = segment(leg(site), SYN).payload(&[7; 1400]).build();
    for _ in 0..RANDOM {
        let length = 14 + random.below(whole.len() - 14);
        let right = 12 + random.below(60);
        let mut frame = whole[..length].to_vec();
        for byte in frame.iter_mut().skip(right) {
            *byte = random.next() as u8;
        }
        sender.send(&frame).unwrap();
    }
    let all = wait_until(PATIENCE, || {
        total(&site.balancer.stats().unwrap()) >= before + RANDOM
    });
    assert!(all, "frames got lost, or were not counted");
    open.ping().unwrap();
    still_serves(site);
}

fn still_serves(site: &Site) {
    let answers = who_answers(site.client(), address::READ, 200, 4);
    assert_eq!(answers.failures, BTreeMap::new());
}

/// From the client to the write service.
fn leg(site: &Site) -> Leg {
    Leg {
        from: mac_address(site.client()).unwrap(),
        to: mac_address(site.lab.balancer()).unwrap(),
        source: (address::client(1).into(), 9000),
        destination: (address::VIP.into(), 8080),
    }
}

/// One frame of each kind, and the reason that it is counted under.
fn kinds(site: &Site) -> Vec<(&'static str, Vec<u8>)> {
    let leg = leg(site);
    let syn = segment(leg, SYN).build();
    // Long enough for an IPv6 header in the place of the IPv4 one.
    let mut guise = segment(leg, SYN).payload(&[7; 40]).build();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        frame
    };
    let ip = |change: &dyn Fn(&mut [u8])| {
        let mut frame = syn.clone();
        change(&mut frame[ETH..]);
        finish_ip(&mut frame);
        frame
    };
    let to_host = Leg {
        destination: (address::BALANCER.into(), 9),
        ..leg
    };
    let options = with(&|frame| {
        // Four no-operations behind a header that is longer by a word.
        frame[ETH] = 0x46;
        frame.splice(ETH + IP..ETH + IP, [1, 1, 1, 1]);
    });
    guise[12..14].copy_from_slice(&[0x86, 0xdd]);
    vec![
        ("truncated", with(&|frame| frame.truncate(ETH))),
        ("truncated", with(&|frame| frame.truncate(ETH + 1))),
        ("truncated", with(&|frame| frame.truncate(ETH + IP))),
        ("truncated", with(&|frame| frame.truncate(HEADERS - 1))),
        (
            "not_ip",
            with(&|frame| frame[12..14].copy_from_slice(&[0x88, 0xb5])),
        ),
        ("not_ip", vlan(&vlan(&vlan(&syn)))),
        ("options", options),
        ("options", ip(&|ip| ip[0] = 0x44)),
        ("options", ip(&|ip| ip[0] = 0x65)),
        ("fragment", ip(&|ip| ip[6] = 0x20)),
        ("fragment", ip(&|ip| ip[7] = 0x10)),
        ("not_tcp", ip(&|ip| ip[9] = 17)),
        ("not_tcp", ip(&|ip| ip[9] = 255)),
        ("malformed", guise),
        ("not_tcp", over_ipv6(&syn, 17)),
        ("options", over_ipv6(&syn, 0)),
        ("options", over_ipv6(&syn, 60)),
        ("fragment", over_ipv6(&syn, 44)),
        ("not_ours", over_ipv6(&syn, 6)),
        // It claims to be longer than the frame, shorter than its headers,
        (
            "malformed",
            ip(&|ip| ip[2..4].copy_from_slice(&41_u16.to_be_bytes())),
        ),
        (
            "malformed",
            ip(&|ip| ip[2..4].copy_from_slice(&[0xff, 0xff])),
        ),
        (
            "malformed",
            ip(&|ip| ip[2..4].copy_from_slice(&39_u16.to_be_bytes())),
        ),
        ("malformed", ip(&|ip| ip[2..4].copy_from_slice(&[0, 0]))),
        // and so does its TCP header.
        ("malformed", with(&|frame| frame[ETH + IP + 12] = 0xf0)),
        ("malformed", with(&|frame| frame[ETH + IP + 12] = 0x40)),
        ("unknown_flow", segment(leg, ACK).build()),
        ("unknown_flow", segment(leg, 0).build()),
        ("unknown_flow", segment(leg, !RST).build()),
        ("stray_reset", segment(leg, RST).build()),
        ("stray_reset", segment(leg, 0xff).build()),
        ("not_ours", segment(to_host, ACK).build()),
    ]
}

/// The same segment over IPv6, with another protocol's number.
fn over_ipv6(frame: &[u8], protocol: u8) -> Vec<u8> {
    let mut frame = frame::over_ipv6(frame, ipv6_like, |port| port);
    frame[ETH + 6] = protocol;
    frame
}

/// The same frame with a VLAN tag (802.1Q).
fn vlan(frame: &[u8]) -> Vec<u8> {
    let addresses = 2 * size_of::<MacAddress>();
    let mut tagged = frame.to_vec();
    tagged.splice(addresses..addresses, [0x81, 0x00, 0x00, 0x05]);
    tagged
}

fn drops(stats: &Stats) -> u64 {
    let dropped = stats.verdicts.iter().filter(|one| one.action == "drop");
    dropped.map(|one| one.packets).sum()
}

/// What the balancer's NIC says that XDP dropped, on all queues.
fn driver_drops(site: &Site) -> u64 {
    let shown = site.nic("ethtool", &["-S"]);
    let counts = shown.lines().filter_map(|line| {
        let (name, count) = line.trim().split_once(": ")?;
        let drops = name.starts_with("rx_queue_") && name.ends_with("xdp_drops");
        drops.then(|| count.parse::<u64>().unwrap())
    });
    let counts: Vec<u64> = counts.collect();
    assert!(!counts.is_empty(), "{NIC} counts no drops: {shown}");
    counts.iter().sum()
}

/// SplitMix64: the same bytes each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
