//! That what is sent arrives: many bytes on one connection, and a few on each
//! of many.

use std::collections::BTreeMap;
use std::fs;

use lb_tests::balancer::Hook;
use lb_tests::lab::{Namespace, Spec, address};
use lb_tests::privileged;
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::{Failure, bulk};

use super::{Site, spec_for};

const MEGABYTE: usize = 1_000_000;
const CONNECTIONS: usize = 20_000;
const CLIENTS: usize = 8;

#[test]
fn five_megabytes_arrive_both_ways_with_native_xdp() {
    privileged!();
    transfer(&spec_for(Hook::Native), Hook::Native);
}

#[test]
fn five_megabytes_arrive_both_ways_with_native_xdp_at_endpoints_that_verify_checksums() {
    privileged!();
    transfer(&spec_for(Hook::Native).checksums_verified(), Hook::Native);
}

#[test]
fn five_megabytes_arrive_both_ways_with_generic_xdp() {
    privileged!();
    transfer(&spec_for(Hook::Generic), Hook::Generic);
}

#[test]
fn five_megabytes_arrive_both_ways_with_generic_xdp_at_endpoints_that_verify_checksums() {
    privileged!();
    transfer(&spec_for(Hook::Generic).checksums_verified(), Hook::Generic);
}

fn transfer(spec: &Spec, hook: Hook) {
    let site = Site::with(spec, hook, |_| {});
    let took = bulk::echo(site.client(), address::WRITE, 5 * MEGABYTE, 5).unwrap();
    let wrong = total(&site, "Tcp:InCsumErrors");
    println!("5 MB there and back in {took:?}, {wrong} wrong checksums");
    // One finished checksum in 65536 looks like an unfinished one, and with
    // generic XDP nothing tells them apart: its segment is lost and sent again
    // with another time stamp. Of some 15000 segments, that is one at times.
    let by_chance = match hook {
        Hook::Native => 0,
        Hook::Generic | Hook::Tc => 4,
    };
    assert!(wrong <= by_chance, "endpoints met {wrong} wrong checksums");
}

#[test]
fn twenty_thousand_short_connections_succeed_with_native_xdp() {
    privileged!();
    short_connections(&Site::with(&spec_for(Hook::Native), Hook::Native, |_| {}));
}

#[test]
fn twenty_thousand_short_connections_succeed_with_generic_xdp() {
    privileged!();
    short_connections(&Site::with(&spec_for(Hook::Generic), Hook::Generic, |_| {}));
}

fn short_connections(site: &Site) {
    let answers = who_answers(site.client(), address::READ, CONNECTIONS, CLIENTS);
    println!("{CONNECTIONS} connections, {} stalled", answers.stalled);
    let endpoints = [site.client(), site.lab.node(2), site.lab.node(3)];
    for name in STALL_SIGNS {
        let counts = endpoints.map(|endpoint| counter(endpoint, name));
        println!("{name} at the client and at both servers: {counts:?}");
    }
    let counted = site.balancer.stats().unwrap();
    let log = site.balancer.output();
    // Of some hundred thousand connections a server's own kernel resets one, on a
    // machine that has more to do. That is the server's to say, and is passed on.
    let mut failures = answers.failures.clone();
    let resets = failures.remove(&Failure::Reset).unwrap_or_default();
    let sent = endpoints[1..].iter();
    let sent: u64 = sent
        .map(|server| counter(server, "Tcp:OutRsts").unwrap())
        .sum();
    let relayed = counted.packets("reset_relayed");
    assert!(
        resets <= 1 && resets as u64 <= sent.min(relayed),
        "{resets} resets, {sent} sent, {relayed} relayed\n{log}"
    );
    assert_eq!(failures, BTreeMap::new(), "{log}");
    assert_eq!(answers.total(), CONNECTIONS);
    assert_eq!(counted.packets("established"), CONNECTIONS as u64);
    assert_eq!(counted.packets("unknown_flow"), 0);
}

/// What an endpoint counts when a connection waits for something to be sent
/// again: to see why, where one was.
const STALL_SIGNS: [&str; 6] = [
    "Tcp:RetransSegs",
    "Tcp:OutRsts",
    "TcpExt:TCPTimeouts",
    "TcpExt:TCPSynRetrans",
    "TcpExt:PAWSTimewait",
    "TcpExt:ListenDrops",
];

/// What the client and all nodes count under `name`.
fn total(site: &Site, name: &str) -> u64 {
    let endpoints = [site.client()].into_iter().chain(site.lab.nodes());
    endpoints
        .map(|endpoint| counter(endpoint, name).unwrap())
        .sum()
}

/// A counter of a namespace's TCP, by its name in `/proc/net/snmp` or
/// `/proc/net/netstat`: `Tcp:InErrs`. None where this kernel has none such.
fn counter(namespace: &Namespace, name: &str) -> Option<u64> {
    let (table, name) = name.split_once(':').unwrap();
    namespace.enter(|| {
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        let text = read("snmp") + &read("netstat");
        let mut rows = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(of, _)| *of == table)
            .map(|(_, row)| row.split(' '));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let mut pairs = names.zip(values);
        let (_, value) = pairs.find(|(present, _)| *present == name)?;
        Some(value.parse().unwrap())
    })
}
