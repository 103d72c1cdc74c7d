//! Clients on one NIC, servers on another.

use std::collections::BTreeMap;

use lb_tests::balancer::READ_SERVICE;
use lb_tests::lab::address::Family;
use lb_tests::lab::{BACK_NIC, NIC, Spec};
use lb_tests::privileged;
use lb_tests::traffic::ping::ping;

use super::Stage;

#[test]
fn clients_in_front_reach_servers_behind() {
    privileged!();
    for family in Family::BOTH {
        for spec in [
            Spec::for_test(2).two_arms(),
            Spec::for_test(2).two_arms().checksums_verified(),
        ] {
            let stage = Stage::with(&spec, family, |configuration| {
                configuration.interfaces = vec![NIC, BACK_NIC];
                configuration.read_service = r#"algorithm = "round-robin""#.to_owned();
            });
            assert_eq!(stage.shares(40), BTreeMap::from([(1, 20), (2, 20)]));
            let mut call = stage.call().unwrap();
            for _ in 0..100 {
                call.ping().unwrap();
            }
            let flows = stage.balancer.flows().unwrap().flows;
            let flow = flows.iter().find(|flow| flow.client == call.client());
            let flow = flow.expect("a flow of the open connection");
            // What the host itself would use towards the server.
            let back = stage.lab.node_address(family, 1).to_string();
            let network = back.trim_end_matches("11");
            assert!(flow.snat.contains(network), "{}", flow.snat);
            ping(stage.client(), family.vip(), 56).unwrap();
            drop(call);
            stage.wait_until_none_is_open();
            let service = stage.balancer.stats().unwrap().service(READ_SERVICE);
            assert_eq!((service.connections, service.refused), (41, 0));
        }
    }
}
