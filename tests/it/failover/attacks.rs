//! Whatever else can go wrong at a bad moment. What must hold is the same as
//! ever: see [`Trial::conclude`].

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lb_tests::balancer::{READ_SERVICE, WRITE_SERVICE};
use lb_tests::cluster::Role;
use lb_tests::lab::{NIC, address};
use lb_tests::patience::{pause, wait_until};
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::connections::{who_answers, who_is_at};
use rustix::process::Signal;

use super::trial::{Trial, name};
use super::{PATIENCE, ip};

#[test]
fn writes_go_on_when_the_agent_is_killed_together_with_the_leader() {
    privileged!();
    let mut trial = Trial::start();
    for round in 0..4 {
        let old = trial.strike(|it, leader| {
            it.balancer.kill().unwrap();
            it.cluster.kill(leader).unwrap();
            // Restarted into the election, or after it: tables that name a
            // dead leader in both cases.
            if round % 2 == 0 {
                it.cluster.wait_for_leader(Some(leader), PATIENCE).unwrap();
            }
            it.balancer.start_again().unwrap();
        });
        trial.deployment.cluster.start_node(old).unwrap();
    }
    trial.conclude().print_outages("SIGKILL of leader and lb");
}

#[test]
fn an_agent_that_slept_through_a_change_of_the_leader_follows_it() {
    privileged!();
    let mut trial = Trial::start();
    let old = trial.strike(|it, leader| {
        it.balancer.signal(Signal::STOP).unwrap();
        it.cluster.kill(leader).unwrap();
        it.cluster.wait_for_leader(Some(leader), PATIENCE).unwrap();
        // The old leader is back before lb is, as a replica.
        it.cluster.start_node(leader).unwrap();
        let back = wait_until(PATIENCE, || it.cluster.roles()[&leader] == Role::Replica);
        assert!(back, "n{leader} does not come back");
        it.balancer.signal(Signal::CONT).unwrap();
    });
    trial.must_go_on();
    let conclusion = trial.conclude();
    let turns = conclusion.testimony.turns();
    assert_eq!(turns.last().map(|&id| id != old as u64), Some(true));
    conclusion.print_outages("lb asleep");
}

#[test]
fn a_leader_that_only_the_balancer_cannot_reach_leaves_no_writer_until_it_can() {
    privileged!();
    let mut trial = Trial::start();
    let leader = trial.settled();
    let it = &mut trial.deployment;
    let node = it.lab.node(leader).clone();
    // What the node sends to the balancer; by reverse path, what it hears too.
    let blackhole = format!("blackhole {}/32", address::BALANCER);
    ip(&node, &format!("route add {blackhole}"));
    it.balancer
        .wait_for_status("that the leader loses the writes", PATIENCE, |status| {
            status.targets(WRITE_SERVICE).is_empty()
        })
        .unwrap();
    // It still leads; nobody else may have the writes.
    assert_eq!(it.cluster.roles()[&leader], Role::Leader);
    let refused = it.lab.client().enter(|| who_is_at(address::WRITE));
    assert_eq!(refused, Err(Failure::Refused));
    ip(&node, &format!("route del {blackhole}"));
    it.balancer
        .wait_for_status("that it has them again", PATIENCE, |status| {
            status.targets(WRITE_SERVICE) == [name(leader)]
        })
        .unwrap();
    trial.must_go_on();
    let conclusion = trial.conclude();
    assert_eq!(conclusion.testimony.turns(), [leader as u64]);
}

#[test]
fn a_leader_whose_link_flaps_is_followed_in_order() {
    privileged!();
    let mut trial = Trial::start();
    let leader = trial.settled();
    let it = &mut trial.deployment;
    // Shorter than a check, than an election, and longer than both.
    for down in [20, 50, 100, 200, 300, 400, 600, 800] {
        ip(it.lab.switch(), &format!("link set {} down", name(leader)));
        pause(Duration::from_millis(down));
        ip(it.lab.switch(), &format!("link set {} up", name(leader)));
        pause(Duration::from_millis(100));
    }
    trial.must_go_on();
    trial.conclude();
}

#[test]
fn writes_go_on_after_the_balancer_itself_was_cut_off() {
    privileged!();
    let mut trial = Trial::start();
    trial.settled();
    let it = &mut trial.deployment;
    ip(it.lab.switch(), "link set balancer down");
    it.balancer
        .wait_for_status("that it knows nobody", PATIENCE, |status| {
            let services = [WRITE_SERVICE, READ_SERVICE];
            services.iter().all(|name| status.targets(name).is_empty())
        })
        .unwrap();
    ip(it.lab.switch(), "link set balancer up");
    trial.must_go_on();
    trial.conclude();
}

#[test]
fn a_node_that_comes_back_with_another_mac_address_is_found() {
    privileged!();
    let mut trial = Trial::start();
    let old = trial.strike(|it, leader| {
        it.cluster.kill(leader).unwrap();
        let node = it.lab.node(leader);
        // As whoever takes an address over does: it tells the others at once.
        let announce = format!("ipv4/conf/{NIC}/arp_notify");
        node.set_sysctl(&announce, "1").unwrap();
        let address = "02:00:00:00:77:01";
        ip(node, &format!("link set {NIC} address {address}"));
    });
    trial.deployment.cluster.start_node(old).unwrap();
    trial.settled();
    let client = trial.deployment.lab.client();
    let answers = who_answers(client, address::READ, 100, 4);
    assert_eq!(answers.failures, BTreeMap::new());
    assert!(answers.by_node.contains_key(&(old as u64)), "{answers:?}");
    trial.conclude();
}

#[test]
fn a_node_that_lost_its_data_comes_back_as_a_replica_and_no_write_is_lost() {
    privileged!();
    let mut trial = Trial::start();
    let leader = trial.settled();
    let it = &mut trial.deployment;
    let lost = it.cluster.ids().find(|&id| id != leader).unwrap();
    it.cluster.kill(lost).unwrap();
    fs::remove_dir_all(it.lab.data_directory().join(name(lost))).unwrap();
    it.cluster.start_node(lost).unwrap();
    trial.must_go_on();
    trial.settled();
    // It has all by now: a majority of it and one other is enough.
    let old = trial.strike(|it, leader| it.cluster.kill(leader).unwrap());
    trial.deployment.cluster.start_node(old).unwrap();
    trial.conclude().print_outages("after a loss of data");
}

#[test]
fn starved_of_cpu_it_may_be_slow_but_not_wrong() {
    privileged!();
    let mut trial = Trial::start();
    trial.settled();
    {
        let _load = Load::start(6);
        // Long enough for several elections, were there to be any.
        pause(Duration::from_secs(3));
        let old = trial.strike(|it, leader| it.cluster.freeze(leader).unwrap());
        trial.deployment.cluster.thaw(old).unwrap();
    }
    trial.must_go_on();
    trial.conclude().print_outages("starved of CPU");
}

/// Threads that take all the time they get, until dropped.
struct Load {
    stop: &'static AtomicBool,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(threads: usize) -> Self {
        let stop: &AtomicBool = Box::leak(Box::default());
        let spin = move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        Self {
            stop,
            threads: (0..threads).map(|_| thread::spawn(spin)).collect(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
