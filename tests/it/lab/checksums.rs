//! Labs in which every checksum is finished by its sender and verified by its
//! receiver.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Namespace, Spec};
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::datagram::{Datagram, send};
use super::{SECOND, at, lab_with_echo};

#[test]
fn endpoints_that_verify_checksums_reach_each_other_too() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2).checksums_verified()).unwrap();
    for family in Family::BOTH {
        bulk::echo(lab.client(), at(family.node(1)), 1 << 20, 2).unwrap();
        bulk::echo(lab.balancer(), at(family.node(2)), 1 << 20, 3).unwrap();
    }
}

#[test]
fn endpoints_that_verify_checksums_catch_a_wrong_one() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1).checksums_verified()).unwrap();
    for family in Family::BOTH {
        assert!(datagram_arrives(&lab, family, 0));
        assert!(!datagram_arrives(&lab, family, 0x0101));
        assert!(datagram_arrives(&lab, family, 0));
    }
    // Those datagrams were sent finished. So that all are, no port may offer
    // to finish them: the next one would take an unfinished checksum on trust.
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

/// Sends a datagram whose checksum differs from the right one by `error` from
/// the client to node 1; whether it gets there.
fn datagram_arrives(lab: &Lab, family: Family, error: u16) -> bool {
    let (from, to): (IpAddr, IpAddr) = (family.client(1), family.node(1));
    let datagram = Datagram::new(from, to);
    let receiver = lab
        .node(1)
        .enter(|| UdpSocket::bind(SocketAddr::new(to, datagram.port())).unwrap());
    receiver.set_read_timeout(Some(SECOND / 2)).unwrap();
    send(lab.client(), &datagram.packet(error), to);
    receiver.recv(&mut [0; 16]).is_ok()
}
