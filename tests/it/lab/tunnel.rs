//! Nodes that take what is not addressed to them alone: packets in a tunnel,
//! and packets to the VIP.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use lb_tests::fake::Server;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Spec};
use lb_tests::privileged;
use lb_tests::traffic::bulk;
use lb_tests::traffic::frames::mac_address;

use super::datagram::{Datagram, send};
use super::{SECOND, at, connects};

#[test]
fn a_node_that_decapsulates_receives_what_comes_in_a_tunnel() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1).checksums_verified()).unwrap();
    lab.own_vips(1).unwrap();
    for family in Family::BOTH {
        assert!(!arrives(&lab, family), "{family:?}, without the program");
        let program = lab.decapsulate(1).unwrap();
        assert!(arrives(&lab, family), "{family:?}");
        // What comes without a tunnel is none of the program's business.
        let server = Server::echo(lab.node(1), at(family.node(1))).unwrap();
        bulk::echo(lab.client(), at(family.node(1)), 1 << 20, 1).unwrap();
        drop(server);
        drop(program);
        assert!(!arrives(&lab, family), "{family:?}, after the program");
    }
}

/// Sends a datagram from the client to the VIP, in a tunnel from the balancer
/// to node 1; whether it gets there.
fn arrives(lab: &Lab, family: Family) -> bool {
    let datagram = Datagram::new(family.client(1), family.vip());
    let target = SocketAddr::new(family.vip(), datagram.port());
    let receiver = lab.node(1).enter(|| UdpSocket::bind(target).unwrap());
    receiver.set_read_timeout(Some(SECOND / 2)).unwrap();
    let (from, to) = (family.balancer(), family.node(1));
    send(lab.balancer(), &datagram.tunnelled(from, to), to);
    let received = receiver.recv_from(&mut [0; 16]);
    received.is_ok_and(|(_, sender)| sender.ip() == family.client(1))
}

#[test]
fn a_node_serves_the_vip_but_tells_nobody_that_it_has_it() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    lab.own_vips(1).unwrap();
    for family in Family::BOTH {
        let vip = family.vip();
        let _server = Server::echo(lab.node(1), at(vip)).unwrap();
        assert!(
            !lab.client().enter(|| connects(vip)),
            "{family:?}: somebody answered who has {vip}"
        );
        // Whoever is sent there all the same, is served, from the VIP itself.
        let node = mac_address(lab.node(1)).unwrap();
        let node = node.map(|octet| format!("{octet:02x}")).join(":");
        let status = Command::new("ip")
            .args(["-n", lab.client().name(), "neigh", "replace"])
            .args([&vip.to_string(), "lladdr", &node, "dev", NIC])
            .status();
        assert!(status.unwrap().success());
        bulk::echo(lab.client(), at(vip), 1 << 20, 1).unwrap();
    }
}
