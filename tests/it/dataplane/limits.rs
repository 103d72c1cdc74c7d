//! Who is refused, and how: full servers, full services, sources that ask too
//! much, prefixes that may not.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::READ_SERVICE;
use lb_tests::http::Connection;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Spec};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::Failure;

use super::{Call, PATIENCE, Stage};

/// With the service's keys, and one server's worth of keys for each.
fn stage(service: &str, servers: &str) -> Stage {
    Stage::start(|configuration| {
        configuration.read_service = service.to_owned();
        for server in &mut configuration.servers {
            servers.clone_into(&mut server.keys);
        }
    })
}

fn hold(stage: &Stage, count: usize) -> Vec<Call> {
    (0..count).map(|_| stage.call().unwrap()).collect()
}

/// Waits until a connection is accepted again.
fn accepted_again(stage: &Stage) -> Call {
    let mut call = None;
    wait_until(PATIENCE, || {
        call = stage.call().ok();
        call.is_some()
    });
    call.expect("nobody is let in, though there is room again")
}

fn refused(stage: &Stage) -> u64 {
    stage
        .balancer
        .stats()
        .unwrap()
        .service(READ_SERVICE)
        .refused
}

#[test]
fn a_full_server_gets_no_more_and_where_all_are_full_clients_are_reset() {
    privileged!();
    const EACH: usize = 4;
    for algorithm in ["maglev", "round-robin", "random", "least-connections"] {
        let service = format!("algorithm = \"{algorithm}\"");
        let stage = stage(&service, &format!("max_connections = {EACH}"));
        let mut held = hold(&stage, 3 * EACH);
        for server in 1..=3 {
            let at_server = held.iter().filter(|call| call.server == server).count();
            assert_eq!(at_server, EACH, "{algorithm}: n{server}");
        }
        for attempt in 1..=3 {
            assert_eq!(stage.call().unwrap_err(), Failure::Refused, "{algorithm}");
            let stats = stage.balancer.stats().unwrap();
            assert_eq!(stats.packets("servers_full"), attempt, "{algorithm}");
            assert_eq!(refused(&stage), attempt, "{algorithm}");
        }
        // The one that is closed, however, makes room at its own server only.
        for end in [Call::abort, drop] {
            let closed = held.remove(0);
            let server = closed.server;
            end(closed);
            let again = accepted_again(&stage);
            assert_eq!(again.server, server, "{algorithm}");
            held.push(again);
        }
        assert_eq!(stage.call().unwrap_err(), Failure::Refused, "{algorithm}");
        assert!(held.iter_mut().all(|call| call.ping().is_ok()));
    }
}

#[test]
fn a_server_is_never_overfull_however_many_come_at_once() {
    privileged!();
    const EACH: usize = 4;
    const CLIENTS: usize = 40;
    let stage = stage("", &format!("max_connections = {EACH}"));
    for _ in 0..3 {
        let held: Vec<Call> = thread::scope(|scope| {
            let calls: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| stage.call())).collect();
            let calls = calls.into_iter().map(|call| call.join().unwrap());
            calls.filter_map(Result::ok).collect()
        });
        for server in 1..=3 {
            let at_server = held.iter().filter(|call| call.server == server).count();
            assert_eq!(at_server, EACH, "n{server}");
            assert_eq!(stage.target(server as usize).open, EACH as u64);
        }
        drop(held);
        stage.wait_until_none_is_open();
    }
}

#[test]
fn a_full_service_takes_no_more_until_a_connection_ends() {
    privileged!();
    let stage = stage("max_connections = 5", "");
    let mut held = hold(&stage, 5);
    for attempt in 1..=3 {
        assert_eq!(stage.call().unwrap_err(), Failure::Refused);
        let stats = stage.balancer.stats().unwrap();
        assert_eq!(stats.packets("service_full"), attempt);
    }
    drop(held.pop());
    held.push(accepted_again(&stage));
    assert_eq!(stage.call().unwrap_err(), Failure::Refused);
    assert!(held.iter_mut().all(|call| call.ping().is_ok()));
    drop(held);
    stage.wait_until_none_is_open();
    assert_eq!(hold(&stage, 5).len(), 5);
}

/// A connection that is told nothing for a while: its SYN was dropped.
fn unanswered(stage: &Stage) -> bool {
    let target = Family::V4.read();
    stage.client().enter(|| {
        // Before the SYN is sent again, after a second.
        let attempt = Connection::open(target, Duration::from_millis(500));
        attempt.is_err_and(|error| Failure::from(error) == Failure::TimedOut)
    })
}

#[test]
fn where_a_full_service_drops_a_client_gets_in_when_there_is_room() {
    privileged!();
    let stage = stage("max_connections = 2\non_full = \"drop\"", "");
    let mut held = hold(&stage, 2);
    assert!(unanswered(&stage));
    assert_eq!(refused(&stage), 1);
    // It tries again by itself, and is let in.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.call());
        stage.wait_for_stats("another SYN", |stats| stats.packets("service_full") >= 2);
        drop(held.pop());
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn without_a_target_clients_are_reset_or_left_without_an_answer() {
    privileged!();
    for silent in [false, true] {
        let keys = if silent {
            "on_no_target = \"drop\""
        } else {
            ""
        };
        let mut stage = stage(keys, "");
        for id in 1..=3 {
            stage.stop_server(id);
        }
        stage.wait_for_targets(&[]);
        if silent {
            assert!(unanswered(&stage));
        } else {
            assert_eq!(stage.call().unwrap_err(), Failure::Refused);
        }
        let stats = stage.balancer.stats().unwrap();
        assert!(stats.packets("no_target") >= 1);
    }
}

#[test]
fn a_source_may_open_a_burst_and_then_so_many_a_second() {
    privileged!();
    const BURST: u64 = 10;
    const RATE: u64 = 5;
    let lab = Lab::new(&Spec::for_test(1).clients(2)).unwrap();
    let stage = Stage::prepared(lab, Family::V4, |configuration| {
        configuration.read_service = format!("source = {{ rate = {RATE}, burst = {BURST} }}");
    });
    // Each attempt is one SYN: it waits less long than for the second.
    let attempts = |client: usize, count: usize| {
        let target = Family::V4.read();
        let begun = Instant::now();
        let connects = stage.lab.clients()[client].enter(|| {
            let open = |_| Connection::open(target, Duration::from_millis(100)).is_ok();
            (0..count).map(open).filter(|&opened| opened).count()
        });
        (connects as u64, begun.elapsed())
    };
    let (opened, took) = attempts(0, 20);
    let by_then = BURST + RATE * took.as_secs() + RATE;
    assert!((BURST..=by_then).contains(&opened), "{opened} in {took:?}");
    assert!(stage.balancer.stats().unwrap().packets("source_rate") > 0);
    // Somebody else's rate is somebody else's.
    assert_eq!(attempts(1, BURST as usize).0, BURST);
    // After a pause the burst is there again.
    thread::sleep(Duration::from_millis(1000 * BURST / RATE));
    assert_eq!(attempts(0, BURST as usize).0, BURST);
}

#[test]
fn a_source_may_hold_so_many_connections_and_no_more() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(2).clients(2)).unwrap();
    let stage = Stage::prepared(lab, Family::V4, |configuration| {
        configuration.read_service = "source = { connections = 3 }".to_owned();
    });
    let any = Family::V4.unspecified();
    for end in [Call::abort, drop] {
        let mut held = hold(&stage, 3);
        assert_eq!(stage.call().unwrap_err(), Failure::Refused);
        let other = &stage.lab.clients()[1];
        for _ in 0..3 {
            held.push(stage.call_from(other, any, 0).unwrap());
        }
        assert_eq!(
            stage.call_from(other, any, 0).unwrap_err(),
            Failure::Refused
        );
        end(held.remove(0));
        held.push(accepted_again(&stage));
        assert_eq!(stage.call().unwrap_err(), Failure::Refused);
        assert!(held.iter_mut().all(|call| call.ping().is_ok()));
        held.into_iter().for_each(end);
        stage.wait_until_none_is_open();
    }
    let counted = stage.balancer.stats().unwrap().packets("source_full");
    assert!(counted >= 6, "{counted}");
}

#[test]
fn the_longest_prefix_that_contains_a_client_decides() {
    privileged!();
    for family in Family::BOTH {
        let (first, second) = (family.client(1), family.client(2));
        let host = |ip: IpAddr| format!("{ip}/{}", family.host_prefix());
        let network = match family {
            Family::V4 => "10.87.0.0/24",
            Family::V6 => "fd87::/64",
        };
        let (one, two) = (host(first), host(second));
        for (keys, allowed) in [
            (format!("allow = [\"{one}\"]"), [true, false]),
            (format!("deny = [\"{one}\"]"), [false, true]),
            (
                format!("deny = [\"{network}\"]\nallow = [\"{two}\"]"),
                [false, true],
            ),
            (
                format!("allow = [\"{network}\"]\ndeny = [\"{two}\"]"),
                [true, false],
            ),
        ] {
            let lab = Lab::new(&Spec::for_test(1).clients(2)).unwrap();
            let stage = Stage::prepared(lab, family, |configuration| {
                configuration.read_service.clone_from(&keys);
            });
            for (client, may) in stage.lab.clients().iter().zip(allowed) {
                let target = family.read();
                let connected =
                    client.enter(|| Connection::open(target, Duration::from_millis(500)).map(drop));
                assert_eq!(connected.is_ok(), may, "{keys}: {connected:?}");
            }
            let stats = stage.balancer.stats().unwrap();
            assert_eq!(stats.packets("denied"), 1, "{keys}");
        }
    }
}
