//! The lab itself: what the other tests stand on.

mod checksums;
mod datagram;
mod flood;
mod networks;
mod tunnel;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use lb_tests::fake::{Claim, FakeNode, Server};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Namespace, Spec, address, clean_up};
use lb_tests::patience::wait_until;
use lb_tests::traffic::bulk;
use lb_tests::traffic::connections::{who_answers, who_answers_port};
use lb_tests::traffic::steady::Steady;
use lb_tests::{binaries, cluster, http, privileged};

pub use self::networks::path_mtu;
use crate::footprint::footprint;

const PORT: u16 = 7000;
const SECOND: Duration = Duration::from_secs(1);

/// A lab with an echo server on each node, for both families.
fn lab_with_echo(spec: Spec) -> Result<(Lab, Vec<Server>)> {
    let lab = Lab::new(&spec)?;
    let mut servers = Vec::new();
    for (id, node) in (1..).zip(lab.nodes()) {
        for family in Family::BOTH {
            servers.push(Server::echo(node, at(lab.node_address(family, id)))?);
        }
    }
    Ok((lab, servers))
}

fn at(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, PORT)
}

fn connects(target: IpAddr) -> bool {
    TcpStream::connect_timeout(&at(target), SECOND / 2).is_ok()
}

#[test]
fn everybody_reaches_everybody() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2).clients(2)).unwrap();
    let members = [lab.client(), &lab.clients()[1], lab.balancer(), lab.node(2)];
    for family in Family::BOTH {
        for from in members {
            assert!(
                from.enter(|| connects(family.node(1))),
                "{} does not reach node 1 by {family:?}",
                from.name()
            );
        }
        bulk::echo(lab.client(), at(family.node(2)), 1 << 20, 1).unwrap();
    }
}

#[test]
fn an_isolated_node_is_cut_off_from_nodes_only_and_both_ways() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2)).unwrap();
    for family in Family::BOTH {
        let (one, two) = (family.node(1), family.node(2));
        // An open connection must be cut as well as a new one.
        let mut open = lab.node(2).enter(|| TcpStream::connect(at(one)).unwrap());
        assert!(echoes(&mut open));

        lab.isolate(1).unwrap();
        let before = received_frames(&lab, 1);
        assert!(!lab.node(1).enter(|| connects(two)));
        assert!(!lab.node(2).enter(|| connects(one)));
        assert!(!echoes(&mut open));
        // Not even heard, let alone answered; but for a question who has
        // which address.
        assert!(received_frames(&lab, 1) <= before + 2);
        assert!(lab.client().enter(|| connects(one)));
        assert!(lab.balancer().enter(|| connects(one)));

        lab.rejoin(1).unwrap();
        assert!(lab.node(1).enter(|| connects(two)));
        assert!(lab.node(2).enter(|| connects(one)));
    }
}

#[test]
fn two_isolated_nodes_rejoin_one_by_one() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(3)).unwrap();
    let reaches =
        |from, to| Family::BOTH.map(|family| lab.node(from).enter(|| connects(family.node(to))));
    lab.isolate(1).unwrap();
    lab.isolate(2).unwrap();
    lab.rejoin(1).unwrap();
    assert_eq!(reaches(3, 1), [true; 2]);
    assert_eq!(reaches(1, 2), [false; 2]);
    lab.rejoin(2).unwrap();
    assert_eq!(reaches(1, 2), [true; 2]);
}

/// Whether an echo server answers on `stream` within half a second.
fn echoes(stream: &mut TcpStream) -> bool {
    use std::io::{Read as _, Write as _};
    stream.set_read_timeout(Some(SECOND / 2)).unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Frames that the NIC of node `id` has received.
fn received_frames(lab: &Lab, id: usize) -> u64 {
    received_by(lab.node(id), NIC)
}

/// Frames that `nic` of `namespace` has received.
fn received_by(namespace: &Namespace, nic: &str) -> u64 {
    let devices = namespace
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
        .unwrap();
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{nic}:")))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_fake_node_says_what_it_is_told() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let node = FakeNode::start(lab.node(1), 7, address::node(1), Claim::leader(3)).unwrap();
    let ask = |path| {
        let answer = lab
            .client()
            .enter(|| http::get(cluster::health(1), path, SECOND).unwrap());
        (answer.status, answer.json()["term"].as_u64())
    };
    assert_eq!(ask("/primary"), (200, Some(3)));
    assert_eq!(ask("/replica"), (503, Some(3)));
    node.claim(Claim::replica(4));
    assert_eq!(ask("/primary"), (503, Some(4)));
    assert_eq!(ask("/replica"), (200, Some(4)));
    node.claim(Claim::none());
    assert_eq!(ask("/primary"), (503, None));
    assert_eq!(ask("/replica"), (503, None));
    let answers = who_answers(lab.client(), cluster::api(1), 10, 2);
    assert_eq!(answers.by_node, BTreeMap::from([(7, 10)]));
    let port = 20_000;
    for _ in 0..3 {
        let node = lab
            .client()
            .enter(|| who_answers_port(cluster::api(1), port));
        assert_eq!(node, Ok(7));
    }
}

#[test]
fn a_fake_node_and_its_clients_speak_ipv6_too() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let address = Family::V6.node(1);
    let _node = FakeNode::start(lab.node(1), 6, address, Claim::leader(3)).unwrap();
    let health = SocketAddr::new(address, cluster::HEALTH_PORT);
    let answer = lab.client().enter(|| http::get(health, "/primary", SECOND));
    assert_eq!(answer.unwrap().status, 200);
    let api = SocketAddr::new(address, cluster::API_PORT);
    let answers = who_answers(lab.client(), api, 10, 2);
    assert_eq!(answers.by_node, BTreeMap::from([(6, 10)]));
    let steady = Steady::start(lab.client(), api, 1);
    assert!(steady.wait_for_more(3, SECOND));
    assert_eq!(steady.stop().failures, BTreeMap::new());
    for _ in 0..3 {
        let node = lab.client().enter(|| who_answers_port(api, 20_000));
        assert_eq!(node, Ok(6));
    }
}

#[test]
fn nobody_speaks_in_a_lab_unless_told_to() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(2)).unwrap();
    // What a new link has to say, it says in its first moments.
    std::thread::sleep(SECOND / 10);
    let before = received_by(lab.balancer(), NIC);
    std::thread::sleep(3 * SECOND);
    assert_eq!(received_by(lab.balancer(), NIC), before);
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    privileged!();
    assert_eq!(left_by(std::process::id()), Vec::<String>::new());
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let process = lab
        .node(1)
        .spawn(sleep, &lab.run_directory().join("sleep.log"))
        .unwrap();
    for part in ["switch", "bpf", "sleep", ".json", "/var/tmp"] {
        // A child that was started a moment ago has no environment yet that
        // others could read.
        let left = || left_by(std::process::id());
        let is_there = || left().iter().any(|entry| entry.contains(part));
        assert!(wait_until(SECOND, is_there), "no {part}: {:?}", left());
    }
    drop(process);
    drop(lab);
    assert_eq!(left_by(std::process::id()), Vec::<String>::new());
}

#[test]
fn a_server_that_wiped_its_environment_goes_with_its_lab() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "env -i sleep 1000 & echo $!"]);
    let log = lab.run_directory().join("shell.log");
    let shell = lab.node(1).spawn(shell, &log).unwrap();
    assert!(wait_until(SECOND, || shell.output().ends_with('\n')));
    let command_line = format!("/proc/{}/cmdline", shell.output().trim());
    // Empty on its way from one program to the next, and once it has ended.
    let runs = || fs::read(&command_line).is_ok_and(|line| line.starts_with(b"sleep"));
    assert!(wait_until(SECOND, runs));
    drop(shell);
    assert!(runs());
    drop(lab);
    assert!(!runs());
}

#[test]
fn what_a_killed_owner_left_is_cleaned_up_by_the_next_one() {
    privileged!();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lab::a_lab_for_another_test_to_orphan",
            "--ignored",
        ])
        .env(ORPHAN, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = owner.id();
    let has_sleeper = || left_by(pid).iter().any(|entry| entry.contains("sleep"));
    let made = wait_until(10 * SECOND, has_sleeper);
    // As long as it lives, its lab is its own.
    clean_up().unwrap();
    let kept = has_sleeper();
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(made, "the other process made no lab");
    assert!(kept, "a living owner's lab was removed");

    clean_up().unwrap();
    assert_eq!(left_by(pid), Vec::<String>::new());
}

/// What the labs of the test process `pid` have left.
fn left_by(pid: u32) -> Vec<String> {
    footprint(|lab| lab.starts_with(&format!("lbt{pid}x")))
}

const ORPHAN: &str = "LB_TEST_ORPHAN";

#[test]
#[ignore = "started by the test above, which kills it"]
fn a_lab_for_another_test_to_orphan() {
    if std::env::var_os(ORPHAN).is_none() {
        return;
    }
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let _process = lab
        .node(1)
        .spawn(sleep, &lab.run_directory().join("sleep.log"))
        .unwrap();
    std::thread::sleep(60 * SECOND);
}

#[test]
fn a_lab_that_runs_is_not_started_twice() {
    privileged!();
    let spec = Spec::for_test(1);
    let lab = Lab::new(&spec).unwrap();
    let error = Lab::new(&spec).unwrap_err().to_string();
    assert!(error.contains("is running already"), "{error}");
    assert!(lab.node(1).path().exists());
}

#[test]
fn the_peer_program_is_attached_where_it_is_needed() {
    privileged!();
    assert!(binaries::lab_object().is_ok());
    let has_program = |spec: Spec| {
        let lab = Lab::new(&spec).unwrap();
        let shown = Command::new("ip")
            .args(["-n", lab.switch().name(), "link", "show", "balancer"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
    };
    assert!(has_program(Spec::for_test(1)));
    assert!(!has_program(Spec::for_test(1).without_peer_program()));
}
