//! Where connections land: writes at the leader, reads evenly at the
//! replicas, and each client's port always at the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lb_tests::deployment::Deployment;
use lb_tests::http::Connection;
use lb_tests::lab::{Spec, address};
use lb_tests::privileged;
use lb_tests::traffic::connections::{Answers, who_answers_port};
use serde_json::json;

use super::{PATIENCE, Site};

#[test]
fn writes_land_on_the_leader_from_the_first_connection_on() {
    privileged!();
    let deployment = Deployment::start(&Spec::for_test(3)).unwrap();
    let leader = deployment.cluster.wait_until_settled(PATIENCE).unwrap();
    let leader = leader.to_string();
    deployment.lab.client().enter(|| {
        for number in 0..50 {
            let mut connection = Connection::open(address::WRITE, PATIENCE / 4).unwrap();
            let body = json!({ "key": format!("k{number}"), "value": "v" });
            let answer = connection.request("POST", "/kv", Some(&body)).unwrap();
            assert_eq!(answer.status, 200, "write {number}");
            assert_eq!(answer.header("x-raft-node"), Some(leader.as_str()));
        }
    });
    deployment.leave().unwrap();
}

#[test]
fn three_thousand_reads_spread_over_both_replicas_within_ten_percent() {
    privileged!();
    let site = Site::start(|_| {});
    // From ports one after the other, as a client's kernel gives them out:
    // the outcome is the same each time, and a bad hash does badly.
    let answers = readers(&site, 20_000..23_000);
    println!("{:?}: {:.3} apart", answers.by_node, answers.imbalance());
    assert_eq!(answers.failures, BTreeMap::new());
    assert_eq!(answers.by_node.keys().collect::<Vec<_>>(), [&2, &3]);
    assert!(answers.imbalance() < 0.1);
}

#[test]
fn a_clients_port_meets_the_same_server_each_time_also_after_restarts() {
    privileged!();
    let mut site = Site::start(|_| {});
    let first = servers_by_port(&site);
    let nodes: BTreeSet<_> = first.values().collect();
    assert_eq!(
        nodes.len(),
        2,
        "ports that all meet one server show nothing"
    );
    for _ in 0..3 {
        assert_eq!(servers_by_port(&site), first);
    }
    let restarts: [fn(&mut Site); 2] = [
        |site| site.balancer.kill().unwrap(),
        |site| assert!(site.balancer.terminate().unwrap().success()),
    ];
    for stop in restarts {
        stop(&mut site);
        site.balancer.start_again().unwrap();
        site.wait_for_all_targets();
        assert_eq!(servers_by_port(&site), first);
    }
}

fn servers_by_port(site: &Site) -> BTreeMap<u16, u64> {
    site.client().enter(|| {
        let ask = |port| (port, who_answers_port(address::READ, port).unwrap());
        (30_000..30_064).map(ask).collect()
    })
}

/// A read from each of these ports.
fn readers(site: &Site, ports: Range<u16>) -> Answers {
    site.client().enter(|| {
        let mut answers = Answers::default();
        for port in ports {
            match who_answers_port(address::READ, port) {
                Ok(node) => *answers.by_node.entry(node).or_default() += 1,
                Err(failure) => *answers.failures.entry(failure).or_default() += 1,
            }
        }
        answers
    })
}
