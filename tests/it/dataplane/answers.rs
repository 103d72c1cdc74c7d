//! The balancer's own answers: a RST for who is refused, and one for who is cut
//! off, whether silent or in the middle of a long speech. Each hook has its own
//! way to make one, and who verifies checksums believes no wrong one.

use std::io::{Read as _, Write as _};
use std::thread;

use lb_tests::balancer::Hook;
use lb_tests::fake::Claim;
use lb_tests::lab::Spec;
use lb_tests::lab::address::Family;
use lb_tests::privileged;
use lb_tests::traffic::Failure;

use super::in_every_way;
use crate::connections::{Site, spec_for};

#[test]
fn refusals_and_cuts_are_believed_through_every_hook() {
    privileged!();
    in_every_way(|hook, family, what| {
        for spec in [spec_for(hook), spec_for(hook).checksums_verified()] {
            refuse_and_cut(&spec, hook, family, what);
        }
    });
}

fn refuse_and_cut(spec: &Spec, hook: Hook, family: Family, what: &str) {
    let site = Site::in_family(family, spec, hook, |configuration| {
        configuration.write_service = "max_connections = 2".to_owned();
    });
    let (mut silent, mut speaker) = (site.connect().unwrap(), site.connect().unwrap());
    for echo in [&mut silent, &mut speaker] {
        echo.ping().unwrap();
    }
    assert_eq!(site.connect().unwrap_err(), Failure::Refused, "{what}");

    thread::scope(|scope| {
        let speech = scope.spawn(|| {
            // It is not read back: the server's window closes some time.
            let words = [b'x'; 1 << 16];
            loop {
                if let Err(error) = speaker.stream().write_all(&words) {
                    return Failure::from(error);
                }
            }
        });
        site.nodes[0].claim(Claim::replica(2));
        site.nodes[1].claim(Claim::leader(2));
        let told = silent.stream().read(&mut [0]).unwrap_err();
        assert_eq!(Failure::from(told), Failure::Reset, "{what}");
        assert_eq!(speech.join().unwrap(), Failure::Reset, "{what}");
    });
    let stats = site.balancer.stats().unwrap();
    assert_eq!(stats.packets("service_full"), 1, "{what}");
    assert!(stats.packets("cut_off") >= 2, "{what}");
}
