//! A path that takes less than either end believes: its router's complaint
//! reaches the end that it is meant for, whichever side that is on.

use lb_tests::balancer::Balancer;
use lb_tests::balancer::{Configuration, Entry, Hook, Status, WRITE_SERVICE};
use lb_tests::cluster::API_PORT;
use lb_tests::fake::{Claim, FakeNode, echo};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Spec};
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::{PATIENCE, in_every_way};
use crate::connections::Site;
use crate::lab::path_mtu;

const MTU: u16 = 1400;
const BYTES: usize = 1 << 20;

fn spec(hook: Hook, nodes: usize) -> Spec {
    hook.lab(Spec::for_test(nodes).remote_host(MTU).checksums_verified())
}

#[test]
fn a_server_learns_how_narrow_the_path_to_a_client_is() {
    privileged!();
    in_every_way(|hook, family, what| {
        let site = Site::in_family(family, &spec(hook, 3), hook, |_| {});
        let client = site.lab.remote();
        let outcome = bulk::echo(client, family.write(), BYTES, 1);
        let stats = site.balancer.stats().unwrap();
        assert!(outcome.is_ok(), "{what}: {outcome:?}\n{stats:?}");
        assert!(stats.packets("icmp_translated") > 0, "{what}: {stats:?}");
        // Its peer is the balancer.
        let learned = path_mtu(site.lab.node(1), family.balancer());
        assert_eq!(learned, Some(MTU), "{what}");
    });
}

#[test]
fn a_client_learns_how_narrow_the_path_to_a_server_is() {
    privileged!();
    in_every_way(to_a_remote_server);
}

fn to_a_remote_server(hook: Hook, family: Family, what: &str) {
    let lab = Lab::new(&spec(hook, 1)).unwrap();
    let server = family.remote();
    let _node = FakeNode::serving(lab.remote(), 1, server, Claim::leader(1), echo).unwrap();
    let mut configuration = Configuration::in_family(&lab, family);
    configuration.hook = hook;
    configuration.servers = vec![Entry::new("n1", (server, API_PORT))];
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    let serving = |status: &Status| status.targets(WRITE_SERVICE) == ["n1"];
    balancer
        .wait_for_status("waiting for the server", PATIENCE, serving)
        .unwrap();
    let outcome = bulk::echo(lab.client(), family.write(), BYTES, 2);
    let stats = balancer.stats().unwrap();
    assert!(outcome.is_ok(), "{what}: {outcome:?}\n{stats:?}");
    assert!(stats.packets("icmp_translated") > 0, "{what}: {stats:?}");
    let learned = path_mtu(lab.client(), family.vip());
    assert_eq!(learned, Some(MTU), "{what}");
}
