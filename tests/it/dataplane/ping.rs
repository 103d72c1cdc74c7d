//! A VIP answers a ping, as every address should.

use lb_tests::lab::Spec;
use lb_tests::lab::address::Family;
use lb_tests::privileged;
use lb_tests::traffic::ping::ping;

use super::Stage;

#[test]
fn a_vip_answers_a_ping() {
    privileged!();
    for family in Family::BOTH {
        let stage = Stage::with(&Spec::for_test(1), family, |_| {});
        for payload in [0, 56, 1400] {
            ping(stage.client(), family.vip(), payload).unwrap();
            ping(stage.client(), family.balancer(), payload).unwrap();
        }
    }
}
