//! The sample cluster without a balancer: what is true of it by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_tests::cluster::{RaftCluster, Role, api};
use lb_tests::lab::{Lab, Spec};
use lb_tests::patience::{pause, wait_until};
use lb_tests::privileged;
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::writes::{Plan, WriteStream};

const PATIENCE: Duration = Duration::from_secs(20);

fn cluster() -> (RaftCluster, Lab) {
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let cluster = RaftCluster::start(&lab).unwrap();
    (cluster, lab)
}

#[test]
fn one_node_leads_and_each_node_answers_for_itself() {
    privileged!();
    let (cluster, lab) = cluster();
    let leader = cluster.wait_until_settled(PATIENCE).unwrap();
    let roles = cluster.roles();
    assert_eq!(roles[&leader], Role::Leader);
    assert_eq!(
        roles
            .values()
            .filter(|role| **role == Role::Replica)
            .count(),
        2
    );
    for id in cluster.ids() {
        let answers = who_answers(lab.client(), api(id), 20, 4);
        assert_eq!(answers.by_node, BTreeMap::from([(id as u64, 20)]));
        assert_eq!(answers.failures, BTreeMap::new());
    }
}

#[test]
fn acknowledged_writes_survive_the_kill_of_every_node_at_once() {
    privileged!();
    let (mut cluster, lab) = cluster();
    let leader = cluster.wait_until_settled(PATIENCE).unwrap();
    let stream = WriteStream::start(lab.client(), api(leader), &Plan::steady("k"));
    pause(Duration::from_secs(1));
    for id in cluster.ids() {
        cluster.kill(id).unwrap();
    }
    let report = stream.stop();
    assert!(report.acknowledged().count() > 20, "{report:?}");
    for id in cluster.ids() {
        cluster.start_node(id).unwrap();
    }
    let leader = cluster.wait_until_settled(PATIENCE).unwrap();
    let lost = report.lost(lab.client(), api(leader)).unwrap();
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn an_isolated_leader_stops_claiming_to_lead_and_another_node_does() {
    privileged!();
    let (cluster, lab) = cluster();
    let old = cluster.wait_until_settled(PATIENCE).unwrap();
    lab.isolate(old).unwrap();
    let isolated_at = Instant::now();
    let new = cluster.wait_for_leader(Some(old), PATIENCE).unwrap();
    println!(
        "n{new} leads {:?} after n{old} was isolated",
        isolated_at.elapsed()
    );
    assert!(wait_until(Duration::from_secs(1), || {
        cluster.roles()[&old] == Role::Unknown
    }));
    lab.rejoin(old).unwrap();
    assert!(wait_until(PATIENCE, || cluster.roles()[&old] == Role::Replica));
}

#[test]
fn a_frozen_leader_is_silent_and_replaced() {
    privileged!();
    let (mut cluster, _lab) = cluster();
    let old = cluster.wait_until_settled(PATIENCE).unwrap();
    cluster.freeze(old).unwrap();
    let new = cluster.wait_for_leader(Some(old), PATIENCE).unwrap();
    assert_eq!(cluster.roles()[&old], Role::Silent);
    cluster.thaw(old).unwrap();
    assert!(wait_until(PATIENCE, || cluster.roles()[&old] == Role::Replica));
    // Whoever leads now, it is one of them.
    assert!(wait_until(PATIENCE, || cluster.leader().is_some()));
    assert_ne!(new, old);
}
