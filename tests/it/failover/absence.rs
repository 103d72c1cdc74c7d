//! Services without servers: refused at once, and served as soon as possible.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use lb_tests::balancer::{Balancer, Configuration, READ_SERVICE, WRITE_SERVICE};
use lb_tests::cluster::RaftCluster;
use lb_tests::deployment::Deployment;
use lb_tests::lab::{Lab, Spec, address};
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::connections::who_is_at;
use lb_tests::traffic::writes::{Plan, WriteStream};

use super::trial::name;
use super::{PATIENCE, ip};

/// A client whose first SYN is lost tries again after a second: whatever is
/// faster was refused by an answer to that SYN.
const AT_ONCE: Duration = Duration::from_millis(900);

#[test]
fn with_no_server_connections_are_refused_at_once_and_served_when_servers_come() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let mut cluster = RaftCluster::new(&lab);
    let mut balancer = Balancer::start(&lab, &Configuration::for_nodes(&lab)).unwrap();
    balancer
        .wait_for_status("that lb starts", PATIENCE, |status| {
            let servers = &status.pools[0].servers;
            servers.iter().all(|server| server.state == "DOWN")
        })
        .unwrap();
    must_refuse_at_once(&lab);

    for id in cluster.ids() {
        cluster.start_node(id).unwrap();
    }
    balancer.wait_until_serving(PATIENCE).unwrap();
    let stream = WriteStream::start(lab.client(), address::WRITE, &Plan::steady("first"));
    assert!(stream.wait_for_more(50, PATIENCE), "no write goes through");

    // All of them at once, while clients write.
    for id in cluster.ids() {
        cluster.kill(id).unwrap();
    }
    balancer
        .wait_for_status("that nobody serves", PATIENCE, |status| {
            let services = [WRITE_SERVICE, READ_SERVICE];
            services.iter().all(|name| status.targets(name).is_empty())
        })
        .unwrap();
    must_refuse_at_once(&lab);

    for id in cluster.ids() {
        cluster.start_node(id).unwrap();
    }
    assert!(stream.wait_for_more(50, PATIENCE), "no write goes through");
    let report = stream.stop();
    let lost = report.lost(lab.client(), address::WRITE).unwrap();
    assert_eq!(lost, Vec::<String>::new());
    assert!(balancer.terminate().unwrap().success());
    cluster.terminate_all().unwrap();
}

#[test]
fn with_no_host_at_the_servers_addresses_connections_are_refused_at_once_too() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let nodes = 1..=3;
    for id in nodes.clone() {
        ip(lab.switch(), &format!("link set {} down", name(id)));
    }
    let mut balancer = Balancer::start(&lab, &Configuration::for_nodes(&lab)).unwrap();
    balancer
        .wait_for_status("that lb starts", PATIENCE, |status| {
            let servers = &status.pools[0].servers;
            servers.iter().all(|server| server.state == "DOWN")
        })
        .unwrap();
    must_refuse_at_once(&lab);

    for id in nodes {
        ip(lab.switch(), &format!("link set {} up", name(id)));
    }
    let cluster = RaftCluster::start(&lab).unwrap();
    balancer.wait_until_serving(PATIENCE).unwrap();
    let mut it = Deployment {
        balancer,
        cluster,
        lab,
    };
    let client = it.lab.client();
    assert!(client.enter(|| who_is_at(address::READ)).is_ok());
    // A quorum is lost: one node is left, and leads nobody.
    for id in [1, 2] {
        it.cluster.kill(id).unwrap();
    }
    it.balancer
        .wait_for_status("that nobody leads", PATIENCE, |status| {
            status.targets(WRITE_SERVICE).is_empty()
        })
        .unwrap();
    it.lab.client().enter(|| must_be_refused(address::WRITE));
    it.cluster.start_node(1).unwrap();
    it.balancer.wait_until_serving(PATIENCE).unwrap();
    it.leave().unwrap();
}

fn must_refuse_at_once(lab: &Lab) {
    lab.client().enter(|| {
        for _ in 0..10 {
            must_be_refused(address::WRITE);
            must_be_refused(address::READ);
        }
    });
}

fn must_be_refused(target: SocketAddrV4) {
    let begun = Instant::now();
    assert_eq!(who_is_at(target), Err(Failure::Refused), "{target}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}
