//! A SYN flood at ten times the size of the table of half-open connections:
//! nobody who is connected notices, and hardly anybody who wants to be.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_tests::lab::Spec;
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::flood::{Flood, Plan};

use super::{Call, PATIENCE, Stage};

/// Room for half-open connections.
const HALF_OPEN: u64 = 512;
/// SYNs that must have taken a place there when it is over.
const SYNS: u64 = 10 * HALF_OPEN;
/// Legitimate connections while it goes on.
const CONNECTIONS: usize = 400;

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
        duration_max: Duration::from_secs(10),
        seed: 7,
    };
    let flood = Flood::start(&stage.lab.clients()[1], stage.lab.balancer(), &plan).unwrap();
    // Past its size from the first legitimate connection on.
    assert!(wait_until(PATIENCE, || flood.sent() >= 2 * HALF_OPEN));
    let answers = who_answers(stage.client(), family.read(), CONNECTIONS, 4);
    for call in &mut established {
        call.ping().unwrap();
    }
    let enough = wait_until(PATIENCE, || {
        for call in &mut established {
            call.ping().unwrap();
        }
        flood.sent() >= 2 * SYNS
    });
    assert!(enough, "the flood is too slow: {} SYNs", flood.sent());
    let account = flood.stop().unwrap();
    println!(
        "{family:?}: {} SYNs in {:?}; {:?}, {} stalled",
        account.sent, account.took, answers.failures, answers.stalled
    );
    let opened = stage.balancer.stats().unwrap().packets("opened");
    assert!(opened >= SYNS, "{opened} of {} came through", account.sent);
    let succeeded: usize = answers.by_node.values().sum();
    assert!(
        succeeded * 100 >= CONNECTIONS * 95,
        "{succeeded} of {CONNECTIONS}: {:?}",
        answers.failures
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
