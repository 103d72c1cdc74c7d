//! What operators change at run time: it works, outlives the agent, is shown, and
//! goes when it is cleared.

use std::fs;
use std::time::{Duration, Instant};

use lb_tests::balancer::{READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::lab::address;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::connections::who_is_at;

use crate::connections::{PATIENCE, Site};

#[test]
fn a_drained_leader_takes_no_writes_until_it_is_cleared_and_its_connections_end_at_the_deadline() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    let begun = Instant::now();
    let said = site
        .balancer
        .lb(&["drain", "kv/n1", "--deadline", "3s"])
        .unwrap();
    assert_eq!(said, "kv/n1: drain within 3s\n");
    open.ping().unwrap();
    assert!(site.connect().is_err(), "nobody takes writes");
    let status = site.table(&["status"]);
    let (_, rest) = status.split_once("\ndraining\n").expect(&status);
    let (draining, overrides) = rest.split_once("\noverrides\n").expect(&status);
    assert!(draining.contains("n1"), "{status}");
    assert!(overrides.contains("kv/n1   drain within 3s"), "{status}");
    let why = site.table(&["explain", "n1"]);
    assert!(why.contains("override: drain within 3s"), "{why}");

    // The next agent knows, and does not begin to count anew.
    site.balancer.kill().unwrap();
    site.balancer.start_again().unwrap();
    assert!(wait_until(PATIENCE, || site.balancer.status().is_ok()));
    assert!(site.connect().is_err());
    let reset = wait_until(PATIENCE, || open.ping().is_err());
    assert!(reset, "{}", site.table(&["status"]));
    assert!(begun.elapsed() >= Duration::from_secs(3));

    // A reload lets it stand; only clearing it brings the leader back.
    site.balancer.reload().unwrap();
    assert!(site.connect().is_err());
    assert_eq!(
        site.balancer.lb(&["clear"]).unwrap(),
        "kv/n1: no override\n"
    );
    site.wait_for_all_targets();
    let mut open = site.connect().unwrap();
    assert!(!site.lab.run_directory().join("overrides.json").exists());

    // What is in maintenance is cut by on_down: at once, here.
    site.balancer
        .lb(&["set", "kv/n1", "state", "maint"])
        .unwrap();
    assert!(wait_until(PATIENCE, || open.ping().is_err()));
    assert!(site.connect().is_err());
    site.balancer
        .lb(&["set", "kv/n1", "state", "ready"])
        .unwrap();
    site.wait_for_all_targets();
    site.connect().unwrap().ping().unwrap();
}

#[test]
fn servers_are_taken_out_and_put_in_and_drained_to_the_end() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    let targets = |status: &Status, names: &[&str]| status.targets(READ_SERVICE) == names;
    let address = site.lab.node_address(lb_tests::lab::address::Family::V4, 3);
    site.balancer.lb(&["remove", "kv/n3"]).unwrap();
    assert!(targets(&site.balancer.status().unwrap(), &["n2"]));
    // The same server by another name.
    let at = format!("{address}:8081");
    let said = site
        .balancer
        .lb(&["add", "kv", "m3", &at, "--weight", "2"])
        .unwrap();
    assert_eq!(said, format!("kv/m3: added, {at}, weight 2\n"));
    let both = |status: &Status| targets(status, &["m3", "n2"]);
    site.balancer
        .wait_for_status("waiting for m3", PATIENCE, both)
        .unwrap();
    site.client().enter(|| who_is_at(address::READ)).unwrap();
    let refused = site
        .balancer
        .lb(&["clear", "kv/n3"])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("kv/m3 is in the way"), "{refused}");

    // A file that has a server of that name makes the added one void.
    let file = site.balancer.configuration().to_owned();
    let toml = fs::read_to_string(&file).unwrap();
    fs::write(&file, toml.replace("\"n3\"", "\"m3\"")).unwrap();
    site.balancer.reload().unwrap();
    assert!(site.balancer.output().contains("dropped an override"));
    assert!(!site.table(&["status"]).contains("\noverrides\n"));

    site.balancer.lb(&["drain", "kv/m3", "--wait"]).unwrap();
    assert!(targets(&site.balancer.status().unwrap(), &["n2"]));
    open.ping().unwrap();
    assert_eq!(
        site.balancer.status().unwrap().targets(WRITE_SERVICE),
        ["n1"]
    );
}
