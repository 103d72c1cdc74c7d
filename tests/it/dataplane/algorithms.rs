//! Which server a new connection goes to, by every algorithm.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::{Configuration, READ_SERVICE};
use lb_tests::cluster::API_PORT;
use lb_tests::lab::address::Family;
use lb_tests::lab::{NIC, Namespace, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::congestion::Congestion;
use lb_tests::traffic::steady::Steady;

use super::{Call, PATIENCE, Stage};

fn stage(service: &str, weights: [u32; 3]) -> Stage {
    Stage::start(|configuration| weigh(configuration, service, weights))
}

fn weigh(configuration: &mut Configuration, service: &str, weights: [u32; 3]) {
    configuration.read_service = service.to_owned();
    for (server, weight) in configuration.servers.iter_mut().zip(weights) {
        server.keys = format!("weight = {weight}");
    }
}

#[test]
fn round_robin_is_exact_by_weight() {
    privileged!();
    for weights in [[3, 2, 1], [5, 3, 2]] {
        let stage = stage(r#"algorithm = "round-robin""#, weights);
        let cycle: u32 = weights.iter().sum();
        let cycles = 30;
        let exactly = (1..).zip(weights.map(|weight| weight as usize * cycles));
        let shares = stage.shares(cycle as usize * cycles);
        assert_eq!(shares, exactly.collect::<BTreeMap<_, _>>());
    }
}

#[test]
fn random_is_roughly_by_weight_and_in_no_order() {
    privileged!();
    const CALLS: usize = 600;
    let stage = stage(r#"algorithm = "random""#, [3, 2, 1]);
    let mut order = Vec::new();
    for _ in 0..CALLS {
        let call = stage.call().unwrap();
        order.push(call.server);
        call.abort();
    }
    for (server, weight) in [(1, 3), (2, 2), (3, 1)] {
        let expected = CALLS * weight / 6;
        let count = order.iter().filter(|&&one| one == server).count();
        // Five standard deviations of the widest.
        assert!(count.abs_diff(expected) < 62, "n{server}: {count}");
    }
    // A sequence that repeats itself would be none by lot.
    let (first, second) = order.split_at(CALLS / 2);
    assert_ne!(first, second);
}

/// Client addresses beside the client's own.
const SOURCES: [u8; 24] = {
    let mut sources = [0; 24];
    let mut index = 0;
    while index < sources.len() {
        sources[index] = 150 + index as u8;
        index += 1;
    }
    sources
};

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 87, 0, last).into()
}

fn give_sources(client: &Namespace) {
    for last in SOURCES {
        let address = format!("{}/24", source(last));
        let mut command = Command::new("ip");
        command.args(["-n", client.name(), "addr", "add", &address, "dev", NIC]);
        assert!(command.status().unwrap().success());
    }
}

/// Which server each source meets, from ports that it never used.
fn servers_by_source(stage: &Stage) -> BTreeMap<u8, u64> {
    let ask = |last| {
        let call = stage.call_from(stage.client(), source(last), 0).unwrap();
        let server = call.server;
        call.abort();
        (last, server)
    };
    SOURCES.into_iter().map(ask).collect()
}

#[test]
fn source_hash_takes_a_client_to_the_same_server_from_every_port() {
    privileged!();
    let mut stage = stage(r#"algorithm = "source-hash""#, [1, 1, 1]);
    give_sources(stage.client());
    let all = servers_by_source(&stage);
    for _ in 0..5 {
        assert_eq!(servers_by_source(&stage), all);
    }
    for server in [1, 2, 3] {
        let clients = all.values().filter(|&&one| one == server).count();
        assert!(clients > 0, "nobody meets n{server}: {all:?}");
    }

    stage.stop_server(3);
    stage.wait_for_targets(&[1, 2]);
    let without = servers_by_source(&stage);
    let others_moved = all
        .iter()
        .filter(|(client, server)| **server != 3 && without[*client] != **server);
    assert!(others_moved.count() <= 1, "{all:?}, then {without:?}");

    stage.start_server(3);
    stage.wait_for_targets(&[1, 2, 3]);
    assert_eq!(servers_by_source(&stage), all);
}

#[test]
fn affinity_keeps_clients_where_they_are_when_a_server_comes_and_expires() {
    privileged!();
    const AFFINITY: Duration = Duration::from_secs(4);
    let service = "algorithm = \"source-hash\"\naffinity = \"4s\"";
    let mut stage = stage(service, [1, 1, 1]);
    give_sources(stage.client());
    let all = servers_by_source(&stage);
    assert!(all.values().any(|&server| server == 3), "{all:?}");

    // Nobody is kept at a server that is gone.
    stage.stop_server(3);
    stage.wait_for_targets(&[1, 2]);
    let without = servers_by_source(&stage);
    assert!(without.values().all(|&server| server != 3), "{without:?}");
    stage.start_server(3);
    stage.wait_for_targets(&[1, 2, 3]);
    assert_eq!(servers_by_source(&stage), without);

    // Whoever comes back too late is a new client.
    thread::sleep(AFFINITY + Duration::from_millis(500));
    assert_eq!(servers_by_source(&stage), all);
}

#[test]
fn least_connections_prefers_the_server_that_has_fewer() {
    privileged!();
    const HELD: usize = 40;
    const CALLS: usize = 180;
    let stage = stage(r#"algorithm = "least-connections""#, [1, 1, 1]);
    let mut held: Vec<Call> = Vec::new();
    while held.len() < HELD {
        let call = stage.call().unwrap();
        if call.server == 1 {
            held.push(call);
        } else {
            call.abort();
        }
    }
    assert_eq!(stage.target(1).open, HELD as u64);
    let shares = stage.shares(CALLS);
    // Both lots fall on it once in nine times; every third if nobody looked.
    let at_loaded = shares.get(&1).copied().unwrap_or(0);
    assert!(at_loaded < CALLS * 2 / 9, "{shares:?}");
    assert!(held.iter_mut().all(|call| call.ping().is_ok()));
    drop(held);
    stage.wait_until_none_is_open();
}

#[test]
fn open_counts_come_back_to_zero_while_servers_come_and_go() {
    privileged!();
    const CONNECTIONS: usize = 1500;
    let mut stage = stage(r#"algorithm = "least-connections""#, [3, 2, 1]);
    let load = Steady::start(stage.client(), address::READ, 4);
    let mut held: Vec<Call> = Vec::new();
    for server in [1, 2, 3, 1, 2, 3] {
        let others: Vec<usize> = (1..=3).filter(|&id| id != server).collect();
        held.extend((0..20).filter_map(|_| stage.call().ok()));
        assert!(load.wait_for_more(CONNECTIONS / 6, PATIENCE));
        stage.stop_server(server);
        stage.wait_for_targets(&others);
        assert!(load.wait_for_more(CONNECTIONS / 6, PATIENCE));
        stage.start_server(server);
        stage.wait_for_targets(&[1, 2, 3]);
    }
    let answers = load.stop();
    println!("{} short ones: {:?}", answers.total(), answers.failures);
    // Those that were not cut are still open, and counted as such.
    held.retain_mut(|call| call.ping().is_ok());
    let alive = held.len() as u64;
    stage.wait_for_stats(&format!("{alive} open connections"), |stats| {
        stats.targets.iter().map(|target| target.open).sum::<u64>() == alive
    });
    drop(held);
    stage.wait_until_none_is_open();
    let service = stage.balancer.stats().unwrap().service(READ_SERVICE);
    assert!(service.connections >= CONNECTIONS as u64, "{service:?}");
}

#[test]
fn least_latency_reaches_every_server_and_counts_none_twice() {
    privileged!();
    let stage = stage(r#"algorithm = "least-latency""#, [1, 1, 1]);
    let all_met = wait_until(PATIENCE, || stage.shares(30).len() == 3);
    assert!(all_met, "a server is never chosen");
    stage.wait_until_none_is_open();
}

/// How long a server's own address takes to accept a connection: the median.
fn accepts_within(stage: &Stage, id: usize) -> Duration {
    let at = stage.lab.node_address(Family::V4, id);
    let once = |_| {
        let begun = Instant::now();
        let accepted = TcpStream::connect((at, API_PORT));
        assert!(accepted.is_ok(), "{accepted:?}");
        begun.elapsed()
    };
    let mut took: Vec<_> = stage.client().enter(|| (0..9).map(once).collect());
    took.sort();
    took[took.len() / 2]
}

#[test]
fn least_latency_prefers_the_servers_that_accept_sooner() {
    privileged!();
    const CALLS: usize = 180;
    let stage = Stage::start(|configuration| {
        configuration.read_service = r#"algorithm = "least-latency""#.to_owned();
        // That of a server behind a congested link takes its time.
        configuration.check = r#"interval = "2s", timeout = "2s", rise = 1, fall = 10"#.to_owned();
    });
    let client = Family::V4.client(1);
    let congestion = Congestion::start(stage.lab.node(1), client).unwrap();
    // It takes a moment to fill, and a busy machine is slow to accept, too.
    let congested = wait_until(PATIENCE, || {
        let [slow, quick] = [1, 2].map(|id| accepts_within(&stage, id));
        println!("n1 accepts within {slow:?}, n2 within {quick:?}");
        slow > quick * 4
    });
    assert!(congested, "the link is not slow");
    // It was quick; what it is now shows when it is met.
    let met = wait_until(PATIENCE, || stage.shares(10).contains_key(&1));
    assert!(met, "n1 is never chosen");
    // Both lots fall on it once in nine times; every third if nobody looked, and then no such share ever comes by chance. Another server
    // may have hung for a moment on a busy machine: the next calls see it in its place again.
    let avoided = wait_until(PATIENCE, || {
        let shares = stage.shares(CALLS);
        println!("{shares:?}");
        shares.get(&1).copied().unwrap_or(0) < CALLS / 6
    });
    assert!(avoided, "n1 is slow, and not avoided");

    // And it is found again when it is as quick as the others.
    drop(congestion);
    let met = wait_until(PATIENCE, || {
        let shares = stage.shares(30);
        shares.get(&1).is_some_and(|&share| share >= 7)
    });
    assert!(met, "n1 is as quick as the others, and avoided");
}
