//! The SYN flood that the lab can make.

use std::net::SocketAddr;

use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Spec};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::flood::{Flood, Plan};

use super::{PORT, SECOND, received_by};

/// SYNs of a short flood.
const COUNT: u64 = 20_000;

#[test]
fn a_flood_is_as_long_and_as_fast_as_its_plan_and_nobody_answers_it() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1).checksums_verified()).unwrap();
    for family in Family::BOTH {
        let plan = Plan {
            target: SocketAddr::new(family.vip(), PORT),
            rate: 40_000,
            count_max: COUNT,
            duration_max: 10 * SECOND,
            seed: 1,
        };
        let sent_before = received_by(lab.balancer(), NIC);
        let heard_before = received_by(lab.client(), NIC);
        let flood = Flood::start(lab.client(), lab.balancer(), &plan).unwrap();
        let account = flood.wait().unwrap();
        assert_eq!(account.sent, COUNT);
        assert!(account.rate() < 42_000.0, "{account:?}");
        let arrived = || received_by(lab.balancer(), NIC) - sent_before;
        assert!(wait_until(SECOND, || arrived() >= COUNT), "{}", arrived());
        assert!(received_by(lab.client(), NIC) <= heard_before + 2);
    }
}

#[test]
fn a_flood_reaches_a_hundred_thousand_syns_a_second() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(1)).unwrap();
    let plan = Plan {
        target: SocketAddr::new(Family::V4.vip(), PORT),
        rate: 1_000_000,
        count_max: u64::MAX,
        duration_max: SECOND / 2,
        seed: 2,
    };
    let flood = Flood::start(lab.client(), lab.balancer(), &plan).unwrap();
    let account = flood.wait().unwrap();
    println!("{:.0} SYNs a second", account.rate());
    assert!(account.took < SECOND, "{account:?}");
    assert!(account.rate() > 100_000.0, "{account:?}");
}
