//! The lab itself: what the other tests stand on.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use lb_tests::fake::{Claim, FakeNode, Server};
use lb_tests::lab::{Lab, NIC, Namespace, Spec, address, clean_up};
use lb_tests::patience::wait_until;
use lb_tests::traffic::bulk;
use lb_tests::traffic::connections::{who_answers, who_answers_port};
use lb_tests::{binaries, cluster, http, privileged};

use crate::footprint::footprint;

const PORT: u16 = 7000;
const SECOND: Duration = Duration::from_secs(1);

/// A lab of two nodes, an echo server on each.
fn lab_with_echo(spec: Spec) -> Result<(Lab, [Server; 2])> {
    let lab = Lab::new(&spec)?;
    let echo = |id| Server::echo(lab.node(id), at(address::node(id)));
    let servers = [echo(1)?, echo(2)?];
    Ok((lab, servers))
}

fn at(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, PORT)
}

fn connects(target: Ipv4Addr) -> bool {
    TcpStream::connect_timeout(&at(target).into(), SECOND / 2).is_ok()
}

#[test]
fn everybody_reaches_everybody() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2).clients(2)).unwrap();
    let members = [lab.client(), &lab.clients()[1], lab.balancer(), lab.node(2)];
    for from in members {
        assert!(
            from.enter(|| connects(address::node(1))),
            "{} does not reach node 1",
            from.name()
        );
    }
    bulk::echo(lab.client(), at(address::node(2)), 1 << 20, 1).unwrap();
}

#[test]
fn endpoints_that_verify_checksums_reach_each_other_too() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2).checksums_verified()).unwrap();
    bulk::echo(lab.client(), at(address::node(1)), 1 << 20, 2).unwrap();
    bulk::echo(lab.balancer(), at(address::node(2)), 1 << 20, 3).unwrap();
}

#[test]
fn endpoints_that_verify_checksums_catch_a_wrong_one() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1).checksums_verified()).unwrap();
    let correct = datagram_checksum();
    assert!(datagram_arrives(&lab, correct));
    assert!(!datagram_arrives(&lab, correct ^ 0x0101));
    assert!(datagram_arrives(&lab, correct));
    // That datagram was sent finished. So that all are, no port may offer to
    // finish them: the next one would take an unfinished checksum on trust.
    assert!(!offloads_checksums(lab.client(), NIC));
    assert!(!offloads_checksums(lab.switch(), "n1"));
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    assert!(offloads_checksums(lab.client(), NIC));
}

fn offloads_checksums(namespace: &Namespace, port: &str) -> bool {
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-k", port]);
    let features = namespace.enter(move || ethtool.output()).unwrap().stdout;
    String::from_utf8_lossy(&features).contains("tx-checksumming: on")
}

const DATAGRAM_PORTS: (u16, u16) = (7001, 7002);

/// Sends an empty UDP datagram with this checksum from the client to node 1;
/// whether it gets there.
fn datagram_arrives(lab: &Lab, checksum: u16) -> bool {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

    let (from, to) = DATAGRAM_PORTS;
    let receiver = lab
        .node(1)
        .enter(|| std::net::UdpSocket::bind((address::node(1), to)).unwrap());
    receiver.set_read_timeout(Some(SECOND / 2)).unwrap();
    // Version and header length, no options; the kernel fills in the rest.
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(address::client(1).octets());
    packet.extend(address::node(1).octets());
    for word in [from, to, 8, checksum] {
        packet.extend(word.to_be_bytes());
    }
    lab.client().enter(|| {
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        let target = SocketAddrV4::new(address::node(1), 0);
        sendto(&raw, &packet, SendFlags::empty(), &target).unwrap();
    });
    receiver.recv(&mut [0; 16]).is_ok()
}

/// The right one: over the pseudo-header and the UDP header (RFC 768).
fn datagram_checksum() -> u16 {
    let (from, to) = DATAGRAM_PORTS;
    let half = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]))
    };
    let mut sum = half(address::client(1)) + half(address::node(1)) + 17 + 8;
    sum += u32::from(from) + u32::from(to) + 8;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn an_isolated_node_is_cut_off_from_nodes_only_and_both_ways() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2)).unwrap();
    let (one, two) = (address::node(1), address::node(2));
    // An open connection must be cut as well as a new one.
    let mut open = lab.node(2).enter(|| TcpStream::connect(at(one)).unwrap());
    assert!(echoes(&mut open));

    lab.isolate(1).unwrap();
    assert!(!lab.node(1).enter(|| connects(two)));
    assert!(!lab.node(2).enter(|| connects(one)));
    assert!(!echoes(&mut open));
    let received = received_bytes(&lab, 1);
    assert!(lab.client().enter(|| connects(one)));
    assert!(lab.balancer().enter(|| connects(one)));
    assert!(received_bytes(&lab, 1) > received);

    lab.rejoin(1).unwrap();
    assert!(lab.node(1).enter(|| connects(two)));
    assert!(lab.node(2).enter(|| connects(one)));
}

/// Whether an echo server answers on `stream` within half a second.
fn echoes(stream: &mut TcpStream) -> bool {
    use std::io::{Read as _, Write as _};
    stream.set_read_timeout(Some(SECOND / 2)).unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

fn received_bytes(lab: &Lab, id: usize) -> u64 {
    let devices = lab
        .node(id)
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
        .unwrap();
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{NIC}:")))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
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
