//! What the servers see as their client: several addresses, ranges of ports,
//! and what happens when these run out.

use std::collections::BTreeSet;
use std::process::Command;

use lb_tests::balancer::READ_SERVICE;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Spec};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::Failure;

use super::{Call, PATIENCE, Stage};

/// Two addresses of the balancer beside its own.
fn addresses(family: Family) -> [String; 2] {
    match family {
        Family::V4 => ["10.87.0.201", "10.87.0.202"].map(str::to_owned),
        Family::V6 => ["fd87::201", "fd87::202"].map(str::to_owned),
    }
}

fn lab_with_addresses(family: Family) -> Lab {
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    for address in addresses(family) {
        let address = format!("{address}/{}", family.prefix());
        let mut command = Command::new("ip");
        command.args(["-n", lab.balancer().name(), "addr", "add", &address]);
        command.args(["dev", NIC]);
        if family == Family::V6 {
            command.arg("nodad");
        }
        assert!(command.status().unwrap().success());
    }
    lab
}

#[test]
fn every_source_address_is_used() {
    privileged!();
    for family in Family::BOTH {
        let addresses = addresses(family);
        let lab = lab_with_addresses(family);
        let stage = Stage::prepared(lab, family, |configuration| {
            configuration.top = format!("snat = {{ addresses = {addresses:?} }}");
        });
        let mut held: Vec<Call> = (0..40).map(|_| stage.call().unwrap()).collect();
        assert!(held.iter_mut().all(|call| call.ping().is_ok()));
        let flows = stage.balancer.flows().unwrap().flows;
        let seen: BTreeSet<String> = flows
            .iter()
            .map(|flow| {
                let address: std::net::SocketAddr = flow.snat.parse().unwrap();
                address.ip().to_string()
            })
            .collect();
        assert_eq!(seen, BTreeSet::from(addresses));
    }
}

#[test]
fn exhausted_ports_are_a_counted_refusal_and_come_back_when_they_have_rested() {
    privileged!();
    const PORTS: usize = 8;
    let stage = Stage::with(&Spec::for_test(1), Family::V4, |configuration| {
        configuration.top = "snat = { ports = \"20000-20007\" }\n\
                             timeouts = { fin = \"1s\", reset = \"1s\", rest = \"1s\" }"
            .to_owned();
    });
    let mut counted = 0;
    for end in [Call::abort, drop] {
        // Each client port meets a source port of its own, at the first try.
        let from = |port| stage.call_from(stage.client(), Family::V4.unspecified(), port);
        let mut held = Vec::new();
        for port in 0..PORTS as u16 {
            held.push(from(30_000 + port).unwrap());
        }
        for _ in 0..3 {
            assert_eq!(from(30_100).unwrap_err(), Failure::Refused);
            counted += 1;
            let stats = stage.balancer.stats().unwrap();
            assert_eq!(stats.packets("ports_exhausted"), counted);
            assert_eq!(stats.service(READ_SERVICE).refused, counted);
        }
        assert!(held.iter_mut().all(|call| call.ping().is_ok()));
        held.into_iter().for_each(end);
        stage.wait_until_none_is_open();
        // The table is empty when all of them have rested: no port leaked.
        let rested = wait_until(PATIENCE, || stage.balancer.flows().unwrap().total == 0);
        assert!(rested, "{:?}", stage.balancer.flows());
    }
}
