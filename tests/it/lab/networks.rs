//! Labs of more than one network.

use std::net::IpAddr;
use std::process::Command;

use lb_tests::fake::Server;
use lb_tests::lab::address::{Family, Host, Network};
use lb_tests::lab::{BACK_NIC, Lab, Namespace, Spec};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::{SECOND, at, connects, lab_with_echo};

const MTU: u16 = 1400;

#[test]
fn a_remote_host_is_reached_by_whoever_learns_how_narrow_the_path_is() {
    privileged!();
    let spec = || Spec::for_test(1).remote_host(MTU);
    for spec in [spec(), spec().checksums_verified()] {
        let (lab, _servers) = lab_with_echo(spec).unwrap();
        must_learn(&lab);
    }
}

fn must_learn(lab: &Lab) {
    for family in Family::BOTH {
        let (node, remote) = (family.node(1), family.remote());
        assert_eq!(path_mtu(lab.remote(), node), None);
        assert_eq!(path_mtu(lab.node(1), remote), None);
        // There and back: both ends send more than fits into one packet.
        bulk::echo(lab.remote(), at(node), 1 << 20, 1).unwrap();
        assert_eq!(path_mtu(lab.remote(), node), Some(MTU), "{family:?}");
        assert_eq!(path_mtu(lab.node(1), remote), Some(MTU), "{family:?}");
        // It also serves, and everybody has a way to it.
        let _server = Server::echo(lab.remote(), at(remote)).unwrap();
        for from in [lab.balancer(), lab.client()] {
            bulk::echo(from, at(remote), 1 << 20, 1).unwrap();
        }
    }
}

/// The path MTU that `namespace` has learned on the way to `to`.
pub fn path_mtu(namespace: &Namespace, to: IpAddr) -> Option<u16> {
    let shown = Command::new("ip")
        .args(["-n", namespace.name(), "route", "get", &to.to_string()])
        .output()
        .unwrap();
    assert!(shown.status.success(), "no route to {to}");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let mut words = shown.split_whitespace().skip_while(|&word| word != "mtu");
    words.nth(1).map(|mtu| mtu.parse().unwrap())
}

#[test]
fn two_arms_keep_clients_and_nodes_apart() {
    privileged!();
    let (lab, _servers) = lab_with_echo(Spec::for_test(2).two_arms()).unwrap();
    for family in Family::BOTH {
        let node = lab.node_address(family, 1);
        assert_eq!(node, Network::Back.address(family, Host::Node(1)));
        assert!(!lab.client().enter(|| connects(node)));
        assert!(lab.node(2).enter(|| connects(node)));
        bulk::echo(lab.balancer(), at(node), 1 << 20, 1).unwrap();
        // The balancer has an address on either side.
        let front = Server::echo(lab.balancer(), at(family.balancer())).unwrap();
        assert!(lab.client().enter(|| connects(family.balancer())));
        assert!(!lab.node(1).enter(|| connects(family.balancer())));
        drop(front);

        lab.isolate(1).unwrap();
        assert!(!lab.node(2).enter(|| connects(node)));
        assert!(lab.balancer().enter(|| connects(node)));
        lab.rejoin(1).unwrap();
    }
    let has_program = |port: &str| {
        let shown = Command::new("ip")
            .args(["-n", lab.switch().name(), "link", "show", port])
            .output()
            .unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
    };
    let shown = || has_program("balancer") && has_program("balancer-back");
    assert!(wait_until(SECOND, shown));
    assert!(lab.balancer().enter(|| {
        std::fs::read_to_string("/proc/thread-self/net/dev")
            .is_ok_and(|devices| devices.contains(BACK_NIC))
    }));
}
