//! `examples/bird-ecmp`: both balancers announce the VIP, and a router spreads
//! connections over those that do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lb_tests::lab::address::Family;
use lb_tests::lab::{Namespace, Process, Spec, address};
use lb_tests::traffic::Failure;
use lb_tests::{binaries, privileged};

use super::PATIENCE;
use super::stage::{Clients, Pair, example, has_vip, wait};
use crate::dataplane::Call;

const EXAMPLE: &str = "bird-ecmp";
/// What fits the path to the clients, which are behind the router.
const MTU: u16 = 1400;
const ROUNDS: usize = 3;
/// So many that each balancer has some of them (but for one time in 2^23).
const CONNECTIONS: usize = 24;

/// A pair whose balancers tell a router of the VIP.
struct Routed {
    // In the order in which they are dropped.
    /// `vip-while-ready.sh` on each balancer.
    announcers: Vec<Process>,
    _daemons: Vec<Process>,
    pair: Pair,
}

impl Routed {
    /// Returns when the router knows both ways.
    fn start() -> Option<Self> {
        let spec = Spec::for_test(3).remote_host(MTU);
        let pair = Pair::start(EXAMPLE, spec, &["bird"])?;
        let router = pair.lab.router();
        router
            .set_sysctl("ipv4/fib_multipath_hash_policy", "1")
            .unwrap();
        let mut daemons = vec![bird(&pair, router, "router.conf")];
        for number in [1, 2] {
            daemons.push(bird(&pair, pair.namespace(number), "balancer.conf"));
        }
        let announcers = [1, 2].map(|number| announcer(&pair, number));
        let it = Self {
            announcers: announcers.into(),
            _daemons: daemons,
            pair,
        };
        it.wait_for_ways(&[1, 2]);
        Some(it)
    }

    /// Waits until the router sends connections to these balancers.
    fn wait_for_ways(&self, numbers: &[usize]) {
        let expected: BTreeSet<String> = numbers
            .iter()
            .map(|&number| Family::V4.balancer_of(number).to_string())
            .collect();
        wait(&format!("ways through {expected:?}"), || {
            self.ways() == expected
        });
    }

    /// The next hops of the router's route to the VIP.
    fn ways(&self) -> BTreeSet<String> {
        let vip = format!("{}/32", address::VIP);
        let mut command = Command::new("ip");
        command.args(["-n", self.pair.lab.router().name(), "route", "show", &vip]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs = words.windows(2).filter(|pair| pair[0] == "via");
        pairs.map(|pair| pair[1].to_owned()).collect()
    }

    /// Connections to the read service, from behind the router.
    fn calls(&self) -> Vec<Call> {
        let from = SocketAddr::new(Family::V4.unspecified(), 0);
        let call = || Call::connect(from, Family::V4.read()).unwrap();
        let client = self.pair.lab.remote();
        client.enter(|| (0..CONNECTIONS).map(|_| call()).collect())
    }

    /// The clients' ends of the connections that go through a balancer.
    fn through(&self, number: usize) -> BTreeSet<String> {
        let flows = self.pair.balancers[number - 1].flows().unwrap();
        flows.flows.into_iter().map(|flow| flow.client).collect()
    }

    /// How many connections a balancer refused because nobody led.
    fn without_leader(&self, number: usize) -> u64 {
        let stats = self.pair.balancers[number - 1].stats().unwrap();
        stats.packets("no_target")
    }

    fn leave(mut self) {
        for announcer in &mut self.announcers {
            announcer.terminate(PATIENCE).unwrap();
        }
        self.pair.leave();
    }
}

/// BIRD in `namespace`, by a file of the example.
fn bird(pair: &Pair, namespace: &Namespace, file: &str) -> Process {
    let path = |end: &str| {
        let name = format!("{}{end}", namespace.name());
        pair.lab.run_directory().join(name)
    };
    let mut command = Command::new("bird");
    command.arg("-f").arg("-c").arg(example(EXAMPLE, file));
    command.arg("-s").arg(path(".ctl"));
    command.arg("-P").arg(path(".pid"));
    namespace.spawn(command, &path("-bird.log")).unwrap()
}

/// The example's script beside the balancer `number`.
fn announcer(pair: &Pair, number: usize) -> Process {
    let mut command = Command::new(example(EXAMPLE, "vip-while-ready.sh"));
    let lb = binaries::find("lb").unwrap();
    let ours = lb.parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = ours.into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(directories).unwrap());
    command.env("LB_SOCKET", pair.balancers[number - 1].socket());
    let log = format!("vip-while-ready{number}.log");
    let log = pair.lab.run_directory().join(log);
    pair.namespace(number).spawn(command, &log).unwrap()
}

/// Which of the connections still work, and that the others were reset.
fn survivors(calls: &mut [Call]) -> BTreeSet<String> {
    let mut survivors = BTreeSet::new();
    for call in calls {
        match call.ping() {
            Ok(()) => drop(survivors.insert(call.client())),
            Err(failure) => assert_eq!(failure, Failure::Reset),
        }
    }
    survivors
}

#[test]
fn a_dead_balancer_costs_its_own_connections_and_its_return_some_of_the_others() {
    privileged!();
    let Some(it) = Routed::start() else { return };
    let mut calls = it.calls();
    let shares = [1, 2].map(|number| it.through(number));
    let all: BTreeSet<String> = calls.iter().map(Call::client).collect();
    assert!(shares.iter().all(|share| !share.is_empty()), "{shares:?}");
    assert_eq!(shares[0].len() + shares[1].len(), all.len());

    let cut = Instant::now();
    it.pair.lab.unplug_balancer(1).unwrap();
    it.wait_for_ways(&[2]);
    println!(
        "a cut link: BFD, BGP and the router's route took {:?}",
        cut.elapsed()
    );
    assert_eq!(survivors(&mut calls), shares[1]);

    // A second way takes connections from the first: the kernel's router
    // computes the way from the ports and the number of ways.
    let mut calls = it.calls();
    it.pair.lab.plug_balancer(1).unwrap();
    it.wait_for_ways(&[1, 2]);
    let left = survivors(&mut calls).len();
    println!("a balancer came back: {left} of {CONNECTIONS} connections stayed where they were");
    assert!(left < CONNECTIONS, "no connection took the new way");
    it.leave();
}

#[test]
fn a_balancer_that_withdraws_first_refuses_nobody() {
    privileged!();
    let Some(mut it) = Routed::start() else {
        return;
    };
    let client = it.pair.lab.remote().clone();
    let clients = Clients::start(&client);
    it.pair.must_go_on(&clients);

    // As planned: first the announcement, then lb.
    it.announcers[0].terminate(PATIENCE).unwrap();
    it.wait_for_ways(&[2]);
    let without_leader = it.without_leader(1);
    assert!(it.pair.balancer(1).terminate().unwrap().success());
    it.pair.must_go_on(&clients);
    let seen = clients.stop();
    // While nobody leads, on a busy machine, clients are refused by right.
    if without_leader + it.without_leader(2) == 0 {
        let mut failures = seen.hasty.failures().chain(seen.patient.failures());
        assert!(failures.all(|(_, how)| *how != Failure::Refused));
    }

    // Not planned: the agent stops, and the script finds out.
    it.pair.balancer(1).start_again().unwrap();
    it.announcers[0] = announcer(&it.pair, 1);
    it.wait_for_ways(&[1, 2]);
    assert!(it.pair.balancer(2).terminate().unwrap().success());
    let took = wait("the VIP withdrawn", || !has_vip(it.pair.namespace(2)));
    println!("lb stopped without notice: the VIP was withdrawn after {took:?}");
    it.wait_for_ways(&[1]);
    drop(it.calls());
    it.leave();
}

#[test]
fn how_long_writes_are_out_when_one_of_two_ways_is_cut_off() {
    privileged!();
    let Some(it) = Routed::start() else { return };
    let client = it.pair.lab.remote().clone();
    for round in 0..ROUNDS {
        let number = 1 + round % 2;
        let clients = Clients::start(&client);
        it.pair.must_go_on(&clients);
        let cut = Instant::now();
        it.pair.lab.unplug_balancer(number).unwrap();
        it.wait_for_ways(&[3 - number]);
        it.pair.must_go_on(&clients);
        println!("BFD 3 × 50 ms: {}", clients.stop().outage(cut));
        it.pair.lab.plug_balancer(number).unwrap();
        it.wait_for_ways(&[1, 2]);
    }
    it.leave();
}
