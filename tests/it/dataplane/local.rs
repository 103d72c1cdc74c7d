//! Servers on the balancer's own host.

use lb_tests::balancer::{Balancer, Configuration, Entry, Hook, READ_SERVICE, WRITE_SERVICE};
use lb_tests::cluster::API_PORT;
use lb_tests::fake::{Claim, FakeNode, echo};
use lb_tests::lab::address::Family;
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::{PATIENCE, in_every_way, strict_lab};

#[test]
fn a_server_on_the_balancers_own_host_sees_the_client_itself() {
    privileged!();
    in_every_way(through);
}

fn through(hook: Hook, family: Family, what: &str) {
    let lab = strict_lab(hook);
    let client = family.client(1);
    let serve = move |stream: std::net::TcpStream| {
        assert_eq!(stream.peer_addr()?.ip(), client);
        echo(stream)
    };
    let (host, own) = (lab.balancer(), family.balancer());
    let _node = FakeNode::serving(host, 1, own, Claim::leader(1), serve).unwrap();
    let mut configuration = Configuration::in_family(&lab, family);
    configuration.hook = hook;
    configuration.servers = vec![Entry::new("n1", (own, API_PORT))];
    configuration.write_service = "mode = \"local\"".to_owned();
    configuration.read_service = "mode = \"local\"".to_owned();
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    balancer.wait_until_serving(PATIENCE).unwrap();
    for seed in 0..4 {
        let outcome = bulk::echo(lab.client(), family.write(), 500_000, seed);
        let log = balancer.output();
        let stats = balancer.stats();
        assert!(outcome.is_ok(), "{what}: {outcome:?}\n{stats:?}\n{log}");
    }
    let stats = balancer.stats().unwrap();
    assert_eq!(stats.service(WRITE_SERVICE).connections, 4, "{what}");
    assert_eq!(stats.service(READ_SERVICE).connections, 0, "{what}");
    assert!(balancer.terminate().unwrap().success());
}
