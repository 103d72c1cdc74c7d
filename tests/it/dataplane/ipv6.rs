//! A VIP and servers that are IPv6: whatever IPv4 can.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Command;

use lb_tests::balancer::{Hook, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::cluster::API_PORT;
use lb_tests::fake::Claim;
use lb_tests::http::Connection;
use lb_tests::lab::Spec;
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::connections::who_answers;
use lb_tests::traffic::{Failure, bulk};

use super::PATIENCE;
use crate::connections::{Echo, Site, nic, spec_for};

const MEGABYTE: usize = 1_000_000;
const VIP: &str = "fd87::100/128";

fn site() -> Site {
    with(&spec_for(Hook::Native), Hook::Native)
}

fn with(spec: &Spec, hook: Hook) -> Site {
    Site::in_family(Family::V6, spec, hook, |_| {})
}

#[test]
fn five_megabytes_arrive_both_ways_in_every_hook_checksums_verified_or_not() {
    privileged!();
    for hook in Hook::ALL {
        for spec in [spec_for(hook), spec_for(hook).checksums_verified()] {
            let site = with(&spec, hook);
            let write = Family::V6.write();
            bulk::echo(site.client(), write, 5 * MEGABYTE, 5).unwrap();
        }
    }
}

#[test]
fn reads_spread_over_both_replicas_and_every_one_is_counted() {
    privileged!();
    const READS: usize = 2000;
    for hook in Hook::ALL {
        let site = with(&spec_for(hook), hook);
        let answers = who_answers(site.client(), Family::V6.read(), READS, 4);
        assert_eq!(answers.failures, BTreeMap::new());
        assert_eq!(answers.by_node.keys().collect::<Vec<_>>(), [&2, &3]);
        assert!(answers.imbalance() < 0.25, "{answers:?}");
        let stats = site.balancer.stats().unwrap();
        assert_eq!(stats.service(READ_SERVICE).connections, READS as u64);
        assert_eq!(stats.packets("established"), READS as u64);
    }
}

#[test]
fn when_the_leader_changes_its_idle_clients_are_reset() {
    privileged!();
    let mut site = site();
    let mut idle: Vec<Echo> = (0..5).map(|_| site.connect().unwrap()).collect();
    for echo in &mut idle {
        echo.ping().unwrap();
    }
    site.nodes[0].claim(Claim::replica(2));
    site.nodes[1].claim(Claim::leader(2));
    for echo in &idle {
        // They say nothing, and are told nevertheless.
        let told = echo.stream().read(&mut [0]).unwrap_err();
        assert_eq!(Failure::from(told), Failure::Reset);
    }
    let new_leader = |status: &Status| status.targets(WRITE_SERVICE) == ["n2"];
    site.balancer
        .wait_for_status("a new leader", PATIENCE, new_leader)
        .unwrap();
    let answers = who_answers(site.client(), Family::V6.write(), 20, 2);
    assert_eq!(answers.by_node, BTreeMap::from([(2, 20)]));
}

#[test]
fn status_flows_and_stats_show_addresses_in_brackets() {
    privileged!();
    let mut site = site();
    let mut open = site.connect().unwrap();
    open.ping().unwrap();
    let one_open = |status: &Status| {
        let mut services = status.services.iter();
        let write = services.find(|one| one.name == WRITE_SERVICE).unwrap();
        write.targets[0].connections == 1
    };
    site.balancer
        .wait_for_status("an open connection", PATIENCE, one_open)
        .unwrap();

    let flows = site.balancer.flows().unwrap();
    assert_eq!(flows.total, 1);
    let flow = &flows.flows[0];
    assert_eq!(flow.client, open.client());
    assert!(flow.snat.starts_with("[fd87::10]:"), "{}", flow.snat);
    assert_eq!(
        (&*flow.service, &*flow.server_name, &*flow.state),
        (WRITE_SERVICE, "n1", "established")
    );
    let stats = site.balancer.stats().unwrap();
    let mut targets = stats.targets.iter();
    let at_leader = targets.find(|one| one.service == WRITE_SERVICE && one.server == "n1");
    let at_leader = at_leader.unwrap();
    assert_eq!((at_leader.open, at_leader.connections), (1, 1));
    for (verb, shown) in [
        ("status", "[fd87::100]:8080"),
        ("status", "[fd87::11]:8081"),
        ("stats", "[fd87::100]:8080"),
        ("flows", &open.client()),
    ] {
        let table = site.table(&[verb]);
        assert!(table.contains(shown), "lb {verb}: no {shown} in\n{table}");
    }
}

#[test]
fn a_killed_agent_leaves_all_connections_and_the_next_one_adopts_them() {
    privileged!();
    let mut site = site();
    let mut before = site.connect().unwrap();
    before.ping().unwrap();
    site.balancer.kill().unwrap();
    let mut meanwhile = site.connect().unwrap();
    for open in [&mut before, &mut meanwhile] {
        open.ping().unwrap();
    }
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    assert!(site.balancer.output().contains("adopted=true"));
    for open in [&mut before, &mut meanwhile] {
        open.ping().unwrap();
    }
    site.connect().unwrap().ping().unwrap();
    assert_eq!(site.balancer.flows().unwrap().total, 3);
}

#[test]
fn the_vip_is_added_to_the_nic_and_removed_again() {
    privileged!();
    let mut site = site();
    let shown = |site: &Site| nic(&site.lab, "ip", &["-6", "addr", "show", "dev"]);
    assert!(shown(&site).contains(VIP), "{}", shown(&site));
    assert!(!shown(&site).contains("tentative"), "{}", shown(&site));
    site.balancer.kill().unwrap();
    assert!(shown(&site).contains(VIP), "{}", shown(&site));
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    assert!(site.balancer.terminate().unwrap().success());
    assert!(!shown(&site).contains(VIP), "{}", shown(&site));
}

#[test]
fn the_host_itself_does_not_send_from_the_vip() {
    privileged!();
    let site = site();
    let server = SocketAddr::new(Family::V6.node(1), API_PORT);
    let connection = site
        .lab
        .balancer()
        .enter(|| Connection::open(server, PATIENCE));
    let from = connection.unwrap().local_address().unwrap();
    assert_eq!(from.ip(), Family::V6.balancer());
}

#[test]
fn a_client_learns_anew_who_has_the_vip_when_another_host_had_it() {
    privileged!();
    let mut site = site();
    site.connect().unwrap().ping().unwrap();
    assert!(site.balancer.terminate().unwrap().success());
    // A wrong neighbour, as it remains of a balancer that was replaced.
    let client = site.client().name().to_owned();
    let wrong = "neigh replace fd87::100 lladdr 02:00:00:00:00:99 dev eth0 nud stale";
    let mut command = Command::new("ip");
    command.args(["-n", &client]).args(wrong.split(' '));
    assert!(command.status().unwrap().success());
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    let advertised = wait_until(PATIENCE, || {
        let mut command = Command::new("ip");
        command.args(["-n", &client, "-6", "neigh", "show", "fd87::100"]);
        let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
        !shown.contains("02:00:00:00:00:99")
    });
    assert!(advertised, "the VIP was not announced");
    site.connect().unwrap().ping().unwrap();
}
