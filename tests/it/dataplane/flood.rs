//! A SYN flood at ten times the size of the table of half-open connections:
//! nobody who is connected notices, and hardly anybody who wants to be.

use std::collections::BTreeMap;

use lb_tests::lab::Spec;
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::connections::{Answers, who_answers};
use lb_tests::traffic::flood::{Flood, Plan};

use super::{Call, PATIENCE, Stage};

/// Room for half-open connections.
const HALF_OPEN: u64 = 512;
/// SYNs that must have taken a place there before it is over.
const SYNS: u64 = 10 * HALF_OPEN;
/// Legitimate connections while it goes on, at least,
const CONNECTIONS: usize = 400;
/// and at a time.
const ROUND: usize = 50;

#[test]
fn a_syn_flood_breaks_no_connection_and_lets_new_ones_in() {
    privileged!();
    for family in Family::BOTH {
        withstand(family);
    }
}

fn withstand(family: Family) {
    let spec = Spec::for_test(3).clients(2);
    let stage = Stage::with(&spec, family, |configuration| {
        configuration.top = format!("limits = {{ half_open = {HALF_OPEN} }}");
    });
    let mut established: Vec<Call> = (0..50).map(|_| stage.call().unwrap()).collect();
    let plan = Plan {
        target: family.read(),
        rate: 20_000,
        count_max: u64::MAX,
        // It ends when it is stopped, and not before.
        duration_max: 3 * PATIENCE,
        seed: 7,
    };
    let flood = Flood::start(&stage.lab.clients()[1], stage.lab.balancer(), &plan).unwrap();
    // Past its size from the first legitimate connection on.
    assert!(wait_until(PATIENCE, || flood.sent() >= 2 * HALF_OPEN));
    let opened = || stage.balancer.stats().unwrap().packets("opened");
    let (before, mut answers) = (opened(), Answers::default());
    let enough = wait_until(PATIENCE, || {
        answers.merge(who_answers(stage.client(), family.read(), ROUND, 4));
        for call in &mut established {
            call.ping().unwrap();
        }
        let of_others = (opened() - before).saturating_sub(answers.total() as u64);
        of_others >= SYNS && answers.total() >= CONNECTIONS
    });
    let account = flood.stop().unwrap();
    println!("{family:?}: {account:?}; {answers:?}");
    assert!(enough, "it is too slow");
    assert!(account.took < plan.duration_max, "it was over before");
    let all = answers.total();
    let succeeded: usize = answers.by_node.values().sum();
    assert!(succeeded * 100 >= all * 95, "{succeeded} of {all}");
    assert!(
        answers.stalled * 100 <= all * 5,
        "{} of {all}",
        answers.stalled
    );
    // And when it is over, all is as before.
    let after = who_answers(stage.client(), family.read(), 100, 2);
    assert_eq!(after.failures, BTreeMap::new());
    for call in &mut established {
        call.ping().unwrap();
    }
    drop(established);
    stage.wait_until_none_is_open();
}
