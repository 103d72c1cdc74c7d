//! Leaders that are taken out while clients write.

use lb_tests::privileged;

use super::trial::Trial;

#[test]
fn writes_go_on_after_each_of_ten_kills_of_the_leader_and_none_is_lost() {
    privileged!();
    let mut trial = Trial::start();
    for _ in 0..10 {
        let old = trial.strike(|it, leader| it.cluster.kill(leader).unwrap());
        trial.deployment.cluster.start_node(old).unwrap();
    }
    trial.conclude().print_outages("SIGKILL");
}

#[test]
fn writes_go_on_while_the_leader_hangs_and_it_does_not_get_them_back_by_waking_up() {
    privileged!();
    let mut trial = Trial::start();
    for _ in 0..4 {
        let old = trial.strike(|it, leader| it.cluster.freeze(leader).unwrap());
        // It wakes up as the leader that it was, with connections that it has
        // accepted and not served.
        trial.deployment.cluster.thaw(old).unwrap();
        trial.must_go_on();
    }
    trial.conclude().print_outages("SIGSTOP");
}

#[test]
fn an_isolated_leader_loses_the_writes_and_there_are_never_two_write_targets() {
    privileged!();
    let mut trial = Trial::start();
    for _ in 0..3 {
        let old = trial.strike(|it, leader| it.lab.isolate(leader).unwrap());
        trial.deployment.lab.rejoin(old).unwrap();
        trial.must_go_on();
    }
    trial.conclude().print_outages("isolation");
}

#[test]
fn a_leader_that_leaves_in_order_hands_the_writes_over() {
    privileged!();
    let mut trial = Trial::start();
    for _ in 0..3 {
        let old = trial.strike(|it, leader| it.cluster.terminate(leader).unwrap());
        trial.deployment.cluster.start_node(old).unwrap();
    }
    trial.conclude().print_outages("SIGTERM");
}
