//! Every hook carries every kind of traffic, where endpoints verify checksums
//! and where they leave them to each other.

use std::collections::BTreeMap;

use lb_tests::balancer::{Balancer, Configuration, Hook, READ_SERVICE};
use lb_tests::lab::Lab;
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::bulk;
use lb_tests::traffic::connections::who_answers;

use crate::connections::{PATIENCE, Site, spec_for};

const READS: usize = 300;

#[test]
fn bytes_and_connections_get_through_every_hook() {
    privileged!();
    for hook in Hook::ALL {
        for family in Family::BOTH {
            for spec in [spec_for(hook), spec_for(hook).checksums_verified()] {
                let site = Site::in_family(family, &spec, hook, |_| {});
                bulk::echo(site.client(), family.write(), 2_000_000, 3).unwrap();
                let answers = who_answers(site.client(), family.read(), READS, 2);
                let what = format!("{hook:?} {family:?}");
                assert_eq!(answers.failures, BTreeMap::new(), "{what}");
                let service = site.balancer.stats().unwrap().service(READ_SERVICE);
                assert_eq!(service.connections, READS as u64, "{what}");
                let mut open = site.connect().unwrap();
                open.ping().unwrap();
                open.abort();
            }
        }
    }
}

#[test]
fn auto_takes_tc_on_a_virtual_link_and_says_why() {
    privileged!();
    let lab = Lab::new(&spec_for(Hook::Tc)).unwrap();
    let toml = Configuration::for_nodes(&lab).to_toml();
    let toml = toml.replacen("\"xdp-native\"", "\"auto\"", 1);
    let mut balancer = Balancer::with_configuration(&lab, &toml).unwrap();
    balancer.start_again().unwrap();
    let up = wait_until(PATIENCE, || balancer.output().contains("is attached"));
    let output = balancer.output();
    assert!(up, "{output}");
    assert!(output.contains("hook=tc"), "{output}");
    assert!(output.contains("virtual link (veth)"), "{output}");
}
