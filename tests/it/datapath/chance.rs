//! What chance and time decide in the kernel program, and the host's code
//! cannot foresee.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use lb_common::nat::PartialChecksum;
use lb_common::service::Algorithm;
use lb_common::target::TargetId;
use lb_common::verdict::Reason;
use lb_tests::privileged;
use lb_tests::rows::frame::{Leg, SYN, segment};
use lb_tests::rows::kernel::Kernel;
use lb_tests::rows::world::{FROM_CLIENT, HEIR, HEIR_TARGET, SERVER, SLOT, TARGET, World};

const TIMES: u16 = 400;

fn loaded(world: &World) -> Kernel {
    let mut kernel = Kernel::load(PartialChecksum::Finish).expect("the program loads");
    kernel.install(world).expect("it fits");
    kernel
}

/// A SYN of a client's from `port`.
fn syn(port: u16) -> Vec<u8> {
    let leg = Leg {
        source: (FROM_CLIENT.source.0, port),
        ..FROM_CLIENT
    };
    segment(leg, SYN).numbers(1000, 0).build()
}

/// A world with a slot for each server, `busy` connections at the first one,
/// and twice its weight at the second.
fn world(algorithm: Algorithm, busy: u32) -> World {
    let mut world = World::new().busy(busy).service(|service| {
        service.first_slot = SLOT + 1;
        service.slots = 2;
        service.algorithm = algorithm as u8;
    });
    world.targets.get_mut(&HEIR_TARGET).expect("there").weight = 2;
    world
}

/// How often each target is chosen in [`TIMES`] new connections.
fn census(world: &World) -> BTreeMap<TargetId, u16> {
    let mut kernel = loaded(world);
    let mut census = BTreeMap::new();
    for port in 0..TIMES {
        let passage = kernel.pass(&syn(2000 + port)).expect("the program runs");
        assert_eq!(passage.reason, Reason::Opened);
        let frame = passage.frame.expect("it goes on");
        let to = IpAddr::from([frame[30], frame[31], frame[32], frame[33]]);
        let id = if to == SERVER.0 { TARGET } else { HEIR_TARGET };
        assert!(to == SERVER.0 || to == HEIR.0);
        *census.entry(id).or_default() += 1;
    }
    census
}

#[test]
fn chance_leads_to_either_slot() {
    privileged!();
    let census = census(&world(Algorithm::Random, 0));
    assert!((130..=270).contains(&census[&TARGET]), "{census:?}");
}

#[test]
fn least_connections_avoid_the_target_that_has_more_for_its_weight() {
    privileged!();
    // Of two by chance: a busy one only where chance names it twice.
    let avoided = census(&world(Algorithm::LeastConnections, 10));
    assert!((50..=150).contains(&avoided[&TARGET]), "{avoided:?}");
    // Its weight gives the other one the first connection.
    let idle = census(&world(Algorithm::LeastConnections, 0));
    assert!((50..=150).contains(&idle[&TARGET]), "{idle:?}");
}

#[test]
fn least_latency_goes_by_connections_where_no_time_is_known() {
    privileged!();
    let census = census(&world(Algorithm::LeastLatency, 10));
    assert!((50..=150).contains(&census[&TARGET]), "{census:?}");
}

#[test]
fn a_source_keeps_to_its_rate() {
    privileged!();
    let interval = Duration::from_millis(200);
    let world = World::new().service(|service| {
        service.source_interval = interval.as_micros() as u32;
        service.source_burst = 3;
    });
    let mut kernel = loaded(&world);
    let mut reason = |port| kernel.pass(&syn(port)).expect("the program runs").reason;
    let burst = [1, 2, 3].map(&mut reason);
    assert_eq!(burst, [Reason::Opened; 3]);
    assert_eq!(reason(4), Reason::SourceRate);
    thread::sleep(interval);
    assert_eq!(reason(5), Reason::Opened);
    assert_eq!(reason(6), Reason::SourceRate);
}
