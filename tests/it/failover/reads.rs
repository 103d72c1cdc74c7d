//! Reads: from the replicas that are there, and from the leader where none is.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use lb_tests::balancer::READ_SERVICE;
use lb_tests::deployment::Deployment;
use lb_tests::lab::{Spec, address};
use lb_tests::privileged;
use lb_tests::traffic::connections::{Answers, who_answers};

use super::PATIENCE;
use super::trial::name;

/// Connections to find out who answers: none of the replicas is missed by
/// chance (2^-100).
const CONNECTIONS: usize = 100;

#[test]
fn a_replica_that_dies_or_hangs_leaves_the_reads_and_comes_back_to_them() {
    privileged!();
    let mut it = Deployment::start(&Spec::for_test(3)).unwrap();
    let leader = it.cluster.wait_until_settled(PATIENCE).unwrap();
    let replicas: Vec<usize> = it.cluster.ids().filter(|&id| id != leader).collect();
    let [one, other] = replicas[..] else {
        unreachable!("three nodes");
    };
    must_be_read_from(&mut it, &[one, other]);

    it.cluster.kill(one).unwrap();
    must_be_read_from(&mut it, &[other]);
    it.cluster.start_node(one).unwrap();
    must_be_read_from(&mut it, &[one, other]);

    // Its kernel still accepts connections.
    it.cluster.freeze(other).unwrap();
    must_be_read_from(&mut it, &[one]);
    it.cluster.thaw(other).unwrap();
    must_be_read_from(&mut it, &[one, other]);

    // It answers, but knows no leader any more.
    it.lab.isolate(one).unwrap();
    must_be_read_from(&mut it, &[other]);
    it.lab.rejoin(one).unwrap();
    must_be_read_from(&mut it, &[one, other]);
    it.leave().unwrap();
}

#[test]
fn where_there_is_no_replica_the_leader_is_read_from() {
    privileged!();
    let mut it = Deployment::start(&Spec::for_test(1)).unwrap();
    must_be_read_from(&mut it, &[1]);
    let answers = who_answers(it.lab.client(), address::WRITE, 10, 2);
    assert_eq!(answers.by_node, BTreeMap::from([(1, 10)]));
    it.leave().unwrap();
}

/// Waits until `lb` reads from these nodes only; then every read must be
/// answered, by each of them and nobody else.
fn must_be_read_from(it: &mut Deployment, nodes: &[usize]) {
    let mut names: Vec<String> = nodes.iter().map(|&id| name(id)).collect();
    names.sort_unstable();
    it.balancer
        .wait_for_status(&format!("reads from {names:?}"), PATIENCE, |status| {
            let mut targets = status.targets(READ_SERVICE);
            targets.sort_unstable();
            targets == names
        })
        .unwrap();
    let answers = ask(it, address::READ);
    assert_eq!(answers.failures, BTreeMap::new());
    let mut expected: Vec<u64> = nodes.iter().map(|&id| id as u64).collect();
    expected.sort_unstable();
    assert!(answers.by_node.keys().eq(&expected), "{answers:?}");
}

fn ask(it: &Deployment, target: SocketAddrV4) -> Answers {
    who_answers(it.lab.client(), target, CONNECTIONS, 4)
}
