//! A pool that follows its cluster's own list of members.

use std::process::Command;
use std::time::Duration;

use lb_tests::balancer::{Balancer, Configuration, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::cluster::{RaftCluster, Role, api, member};
use lb_tests::lab::{Lab, Spec, address};
use lb_tests::patience::{pause, wait_until};
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::writes::{Plan, WriteStream};
use lb_tests::{binaries, privileged};

use crate::connections::PATIENCE;

const DISCOVER: &str = r#"discover = { path = "/members", interval = "200ms", name = "n{/id}", address = "{/api}", check_address = "{/health}" }"#;

fn servers(status: &Status) -> Vec<String> {
    let servers = status.pools[0].servers.iter();
    let mut names: Vec<String> = servers.map(|server| server.name.clone()).collect();
    names.sort();
    names
}

fn wait_for(balancer: &mut Balancer, names: &[&str]) {
    let what = format!("waiting for {names:?}");
    let has = |status: &Status| servers(status) == names;
    balancer.wait_for_status(&what, PATIENCE, has).unwrap();
}

/// Tells the cluster something, by node `at`.
fn tell(lab: &Lab, at: usize, arguments: [&str; 2]) {
    let mut command = Command::new(binaries::find("raft-node").unwrap());
    command.args(["client", "--endpoint", &format!("http://{}", api(at))]);
    command.args(arguments);
    let output = lab.client().enter(|| command.output()).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Waits until the pool is these nodes, one of them has the writes and the
/// others the reads; then readers must find each of the others.
fn must_serve(lab: &Lab, balancer: &mut Balancer, ids: &[u64]) {
    let names: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
    let serve = |status: &Status| {
        let mut targets = status.targets(READ_SERVICE);
        targets.extend(status.targets(WRITE_SERVICE));
        targets.sort_unstable();
        targets == names && servers(status) == names
    };
    let what = format!("{names:?} serve");
    let status = balancer.wait_for_status(&what, PATIENCE, serve).unwrap();
    let answers = who_answers(lab.client(), address::READ, 400, 4);
    assert!(answers.failures.is_empty(), "{answers:?}");
    let answered = answers.by_node.keys().map(|id| format!("n{id}"));
    let mut readers = status.targets(READ_SERVICE);
    readers.sort_unstable();
    assert_eq!(answered.collect::<Vec<_>>(), readers);
}

#[test]
fn nodes_join_the_pool_and_leave_it_with_the_cluster() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(4)).unwrap();
    let cluster = RaftCluster::start(&lab).unwrap();
    let leader = cluster.wait_until_settled(PATIENCE).unwrap();
    // The file knows the leader and nobody else.
    let mut configuration = Configuration::for_nodes(&lab);
    configuration
        .servers
        .retain(|server| server.name == format!("n{leader}"));
    configuration.pool = DISCOVER.to_owned();
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    wait_for(&mut balancer, &["n1", "n2", "n3", "n4"]);
    balancer.wait_until_serving(PATIENCE).unwrap();

    let writes = WriteStream::start(lab.client(), address::WRITE, &Plan::steady("k"));
    let gone = (1..=4).find(|&id| id != leader).unwrap();
    tell(&lab, leader, ["remove", &gone.to_string()]);
    let names: Vec<String> = (1..=4)
        .filter(|&id| id != gone)
        .map(|id| format!("n{id}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    wait_for(&mut balancer, &names);

    // Nobody has told the next agent anything when it is asked first.
    balancer.kill().unwrap();
    balancer.start_again().unwrap();
    let status = balancer.wait_for_status("waiting for an answer", PATIENCE, |_| true);
    assert_eq!(servers(&status.unwrap()), names);
    pause(Duration::from_secs(1));
    let report = writes.stop();
    assert!(report.acknowledged().count() > 20, "{report:?}");
    // The one that was removed follows nobody any more.
    let leader = cluster.wait_for_leader(None, PATIENCE).unwrap();
    let lost = report.lost(lab.client(), api(leader)).unwrap();
    assert_eq!(lost, Vec::<String>::new());
    let log = balancer.output();
    assert!(log.contains("its members are"), "{log}");
}

#[test]
fn nodes_that_are_added_take_reads_until_they_are_removed() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(5)).unwrap();
    let mut cluster = RaftCluster::new(&lab).founded_by(3);
    for id in 1..=3 {
        cluster.start_node(id).unwrap();
    }
    let leader = cluster.wait_until_settled(PATIENCE).unwrap();
    let mut configuration = Configuration::for_nodes(&lab);
    configuration.servers.truncate(3);
    configuration.pool = DISCOVER.to_owned();
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    must_serve(&lab, &mut balancer, &[1, 2, 3]);

    let writes = WriteStream::start(lab.client(), address::WRITE, &Plan::steady("k"));
    for id in [4, 5] {
        cluster.start_node(id).unwrap();
        let answers = || cluster.roles()[&id] != Role::Silent;
        assert!(wait_until(PATIENCE, answers), "n{id} does not start");
    }
    // That they run is not enough.
    pause(Duration::from_secs(1));
    must_serve(&lab, &mut balancer, &[1, 2, 3]);
    for id in [4, 5] {
        tell(&lab, leader, ["add", &member(id)]);
    }
    must_serve(&lab, &mut balancer, &[1, 2, 3, 4, 5]);
    for id in [4, 5] {
        tell(&lab, leader, ["remove", &id.to_string()]);
    }
    must_serve(&lab, &mut balancer, &[1, 2, 3]);

    let report = writes.stop();
    assert!(report.acknowledged().count() > 20, "{report:?}");
    let lost = report.lost(lab.client(), api(leader)).unwrap();
    assert_eq!(lost, Vec::<String>::new());
}
