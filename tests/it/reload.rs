//! Another configuration while the agent runs: what changes, what does not,
//! what is refused.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::Command;

use lb_tests::balancer::{Configuration, POOL, READ_SERVICE};
use lb_tests::binaries;
use lb_tests::lab::address;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::connections::who_is_at;
use rustix::process::Signal;

use crate::connections::{Echo, PATIENCE, Site};

/// A second VIP.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 101);

/// The configuration that `site` runs with, and one change.
fn configuration(site: &Site, change: impl FnOnce(&mut Configuration)) -> Configuration {
    let mut configuration = Configuration::for_nodes(&site.lab);
    configuration.check = Site::CHECK.to_owned();
    change(&mut configuration);
    configuration
}

/// A further service to the leader, on the second VIP.
fn more() -> String {
    let listen = SocketAddrV4::new(VIP, 9000);
    format!(
        "[service.more]\nlisten = \"{listen}\"\npool = \"{POOL}\"\nroute = \"leader\"\ndrain_timeout = \"2s\"\n"
    )
}

#[test]
fn a_file_that_is_not_valid_changes_nothing_and_is_refused_as_by_lb_check() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    let file = site.balancer.configuration().to_owned();
    let good = fs::read_to_string(&file).unwrap();
    let bad = good.replace("route = \"leader\"", "route = \"leadr\"");
    fs::write(&file, bad + "hok = \"tc\"\n").unwrap();
    let lb = binaries::find("lb").unwrap();
    let check = Command::new(lb).arg("check").arg("-f").arg(&file).output();
    let check = check.unwrap();
    let said = String::from_utf8(check.stderr).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(check.status.code(), Some(1));
    let refused = site.balancer.reload().unwrap_err().to_string();
    assert_eq!(refused, said.trim_end());

    site.balancer.signal(Signal::HUP).unwrap();
    let logged = || site.balancer.output().matches("not reloaded: ").count() >= 4;
    assert!(wait_until(PATIENCE, logged), "{}", site.balancer.output());
    for line in said.lines() {
        assert!(site.balancer.output().contains(line));
    }

    let limits = "hook = \"tc\"\nlimits = { connections = 1000 }";
    fs::write(&file, good.replace("hook = \"xdp-native\"", limits)).unwrap();
    let refused = site.balancer.reload().unwrap_err().to_string();
    let expected = "needs a restart of the agent: hook; needs a stop by SIGTERM and a start, which \
                    ends all connections: limits; nothing has changed";
    assert!(refused.ends_with(expected), "{refused}");
    open.ping().unwrap();
    site.wait_for_all_targets();

    // The same as before: SIGHUP takes it.
    fs::write(&file, good).unwrap();
    site.balancer.signal(Signal::HUP).unwrap();
    let logged = || {
        site.balancer
            .output()
            .contains("reloaded the configuration")
    };
    assert!(wait_until(PATIENCE, logged));
    open.ping().unwrap();
}

#[test]
fn a_service_and_its_vip_come_and_go_and_its_connections_are_drained() {
    privileged!();
    let site = Site::start(|_| {});
    let mut elsewhere = site.connect().unwrap();
    let with = configuration(&site, |configuration| configuration.read_service = more());
    site.balancer.write(&with).unwrap();
    let said = site.balancer.reload().unwrap();
    assert_eq!(said, "reloaded: 3 services, 1 pool, 3 servers\n");
    // At once: the table is written, the VIP is there.
    let from = SocketAddr::from(([0, 0, 0, 0], 0));
    let listen = SocketAddrV4::new(VIP, 9000).into();
    let mut through = site.client().enter(|| Echo::connect(from, listen)).unwrap();
    through.ping().unwrap();
    let addresses = || site.nic("ip", &["address", "show", "dev"]);
    assert!(addresses().contains("10.87.0.101/32"));

    site.balancer.write(&configuration(&site, |_| {})).unwrap();
    site.balancer.reload().unwrap();
    through.ping().unwrap();
    assert!(addresses().contains("10.87.0.101/32"));
    let status = site.table(&["status"]);
    let (_, draining) = status.split_once("\ndraining\n").expect(&status);
    assert!(draining.contains("10.87.0.101:9000"), "{status}");
    let flows = site.table(&["flows"]);
    assert!(flows.contains(&through.client()), "{flows}");
    // Nothing new: the host itself refuses.
    assert!(site.client().enter(|| Echo::connect(from, listen)).is_err());

    let reset = wait_until(PATIENCE, || through.ping().is_err());
    assert!(reset, "{}", site.table(&["status"]));
    let gone = || !addresses().contains("10.87.0.101");
    assert!(wait_until(PATIENCE, gone), "{}", addresses());
    elsewhere.ping().unwrap();
}

#[test]
fn servers_come_and_go_and_only_those_of_the_one_that_left_are_reset() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut leaders = site.connect().unwrap();
    let change = |configuration: &mut Configuration| {
        let drain = "drain_timeout = \"2s\"\n";
        configuration.read_service = drain.to_owned();
        configuration.write_service = drain.to_owned();
    };
    let fewer = configuration(&site, |configuration| {
        change(configuration);
        configuration.servers.truncate(2);
    });
    site.balancer.write(&fewer).unwrap();
    site.balancer.reload().unwrap();
    let status = site.balancer.status().unwrap();
    assert_eq!(status.targets(READ_SERVICE), ["n2"]);
    site.balancer.write(&configuration(&site, change)).unwrap();
    site.balancer.reload().unwrap();
    site.wait_for_all_targets();
    leaders.ping().unwrap();
    site.client().enter(|| who_is_at(address::READ)).unwrap();

    // The leader leaves: nobody takes writes, and who is connected has 2 s.
    let without = configuration(&site, |configuration| {
        change(configuration);
        configuration.servers.remove(0);
    });
    site.balancer.write(&without).unwrap();
    site.balancer.reload().unwrap();
    leaders.ping().unwrap();
    assert!(site.connect().is_err());
    let status = site.table(&["status"]);
    assert!(status.contains("\ndraining\n"), "{status}");
    assert!(wait_until(PATIENCE, || leaders.ping().is_err()));
    site.client().enter(|| who_is_at(address::READ)).unwrap();
}
