//! `lb status`, `lb stats` and `lb flows` against the traffic that was made:
//! as JSON and as tables, and the same numbers in both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use lb_tests::balancer::{Flows, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::lab::address;
use lb_tests::privileged;
use lb_tests::traffic::bulk;
use lb_tests::traffic::connections::who_answers;

use super::site::Echo;
use super::{PATIENCE, Site};

#[test]
fn stats_count_every_connection_at_its_service_and_its_target() {
    privileged!();
    const READS: usize = 300;
    const WRITES: u64 = 7;
    const BYTES: usize = 1_000_000;
    let site = Site::start(|_| {});
    let answers = who_answers(site.client(), address::READ, READS, 4);
    for seed in 0..WRITES {
        bulk::echo(site.client(), address::WRITE, BYTES, seed).unwrap();
    }
    assert_eq!(answers.failures, BTreeMap::new());

    let stats = site.balancer.stats().unwrap();
    let (read, write) = (stats.service(READ_SERVICE), stats.service(WRITE_SERVICE));
    assert_eq!((read.connections, read.refused), (READS as u64, 0));
    assert_eq!((write.connections, write.refused), (WRITES, 0));
    assert_eq!(stats.packets("established"), READS as u64 + WRITES);
    assert_eq!(stats.packets("opened"), READS as u64 + WRITES);
    for (service, node, connections) in [
        (READ_SERVICE, 2, answers.by_node[&2] as u64),
        (READ_SERVICE, 3, answers.by_node[&3] as u64),
        (WRITE_SERVICE, 1, WRITES),
    ] {
        let name = format!("n{node}");
        let mut targets = stats.targets.iter();
        let target = targets
            .find(|one| one.service == service && one.server == name)
            .unwrap();
        assert_eq!(target.connections, connections, "{name}");
        let payload = if node == 1 { BYTES as u64 * WRITES } else { 0 };
        for (packets, bytes) in [
            (target.packets_in, target.bytes_in),
            (target.packets_out, target.bytes_out),
        ] {
            // Headers: IPv4 and TCP, with options or without.
            let headers = 40 * packets..=100 * packets;
            let request = 200 * connections;
            assert!(packets >= 4 * connections, "{name}: {packets} packets");
            assert!(
                bytes >= payload + headers.start() && bytes <= payload + request + headers.end(),
                "{name}: {packets} packets of {bytes} bytes"
            );
        }
    }
    // Node 1 is no target of the read service, nor 2 and 3 of the write one.
    let traffic = |one: &&lb_tests::balancer::TargetCount| one.connections > 0;
    assert_eq!(stats.targets.iter().filter(traffic).count(), 3);

    let table = site.table(&["stats"]);
    assert_eq!(
        row(&table, &[READ_SERVICE, "10.87.0.100:8081"]),
        [READS.to_string(), "0".into()]
    );
    assert_eq!(
        row(&table, &[WRITE_SERVICE, "10.87.0.100:8080"]),
        [WRITES.to_string(), "0".into()]
    );
    assert_eq!(
        row(&table, &["transmit", "established"])[0],
        (READS as u64 + WRITES).to_string()
    );
    assert_eq!(row(&table, &[WRITE_SERVICE, "n1"])[2], WRITES.to_string());
}

#[test]
fn status_and_flows_show_the_connections_that_are_open() {
    privileged!();
    let mut site = Site::start(|_| {});
    let open: Vec<Echo> = (0..5).map(|_| site.connect().unwrap()).collect();
    let open_at_leader = |count: u64| {
        move |status: &Status| {
            let mut services = status.services.iter();
            let write = services.find(|one| one.name == WRITE_SERVICE).unwrap();
            write.targets.len() == 1 && write.targets[0].connections == count
        }
    };
    let status =
        site.balancer
            .wait_for_status("five open connections", PATIENCE, open_at_leader(5));
    status.unwrap();

    let flows = site.balancer.flows().unwrap();
    check_flows(&flows, &open);
    let table = site.table(&["flows"]);
    for flow in &flows.flows {
        let wanted = [&flow.service, &flow.client, &flow.snat, "n1", "established"];
        row(&table, &wanted);
    }
    assert!(table.ends_with("5 connections\n"), "{table}");
    let table = site.table(&["status"]);
    assert_eq!(
        row(&table, &[WRITE_SERVICE, "10.87.0.100:8080", "leader", "kv"]),
        ["serving", "5", "n1"]
    );
    assert_eq!(
        row(
            &table,
            &[READ_SERVICE, "10.87.0.100:8081", "replicas-first"]
        ),
        ["kv", "serving", "0", "n2", "n3"]
    );
    assert!(table.contains("pool kv, leader n1, term 1\n"), "{table}");

    for (arguments, last) in [
        (&["--service", WRITE_SERVICE][..], "5 connections"),
        (&["--service", READ_SERVICE], "0 connections"),
        (&["--server", "n1"], "5 connections"),
        (&["--server", "n2"], "0 connections"),
        (&["--limit", "2"], "2 of 5 connections; --limit shows more"),
    ] {
        let table = site.table(&[&["flows"], arguments].concat());
        assert_eq!(table.lines().last(), Some(last), "{arguments:?}: {table}");
    }

    drop(open);
    let closed = site
        .balancer
        .wait_for_status("all of them closed", PATIENCE, open_at_leader(0));
    closed.unwrap();
    let flows = site.balancer.flows().unwrap().flows;
    assert!(flows.iter().all(|flow| flow.state == "closed"), "{flows:?}");
}

#[test]
fn flows_are_listed_by_client_or_by_how_long_they_have_been_idle() {
    privileged!();
    let site = Site::start(|_| {});
    let mut open = Vec::new();
    for port in [30_003, 30_001, 30_002] {
        let mut echo = site.connect_from(port).unwrap();
        echo.ping().unwrap();
        open.push(echo);
        // Longer than the client waits before it acknowledges the answer.
        thread::sleep(Duration::from_millis(300));
    }
    let ports = |arguments: &[&str]| {
        let table = site.table(&[&["flows"], arguments].concat());
        let rows = table.lines().filter(|line| line.starts_with(WRITE_SERVICE));
        let client = |row: &str| row.split_whitespace().nth(1).unwrap().parse().unwrap();
        rows.map(|row| SocketAddr::port(&client(row))).collect()
    };
    for (arguments, wanted) in [
        (&[][..], &[30_001, 30_002, 30_003][..]),
        (&["--sort", "client", "--limit", "2"], &[30_001, 30_002]),
        (&["--sort", "idle"], &[30_003, 30_001, 30_002]),
        (&["--sort", "idle", "--limit", "2"], &[30_003, 30_001]),
    ] {
        let listed: Vec<u16> = ports(arguments);
        assert_eq!(listed, wanted, "{arguments:?}");
    }
}

fn check_flows(flows: &Flows, open: &[Echo]) {
    assert_eq!(flows.total, open.len() as u64);
    let mut listed: Vec<&str> = flows
        .flows
        .iter()
        .map(|flow| flow.client.as_str())
        .collect();
    let mut wanted: Vec<String> = open.iter().map(Echo::client).collect();
    listed.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(listed, wanted);
    for flow in &flows.flows {
        assert_eq!(flow.service, WRITE_SERVICE);
        assert_eq!(flow.server_name, "n1");
        assert_eq!(flow.state, "established");
        let from_balancer = format!("{}:", address::BALANCER);
        assert!(flow.snat.starts_with(&from_balancer), "{}", flow.snat);
    }
}

/// The rest of the first row of `table` that begins with these cells.
fn row(table: &str, cells: &[&str]) -> Vec<String> {
    let mut rows = table.lines().map(|line| line.split_whitespace());
    let found = rows.find(|row| row.clone().take(cells.len()).eq(cells.iter().copied()));
    let found = found.unwrap_or_else(|| panic!("no row {cells:?} in:\n{table}"));
    found.skip(cells.len()).map(str::to_owned).collect()
}
