//! A hundred reloads, a hundred deaths of the agent and ten upgrades, under
//! steady load: no connection is lost, none is refused.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use lb_tests::balancer::{Configuration, Entry, Hook, POOL, build};
use lb_tests::binaries;
use lb_tests::lab::{NIC, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::bulk::Transfer;
use lb_tests::traffic::connections::who_is_at;
use lb_tests::traffic::steady::{DURATION_MAX, Steady};

use crate::connections::{Echo, PATIENCE, Site, spec_for};

const RELOADS: usize = 100;
const DEATHS: usize = 100;
const UPGRADES: usize = 10;

/// Where no host is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 250);

/// Open connections that say something between any two changes.
const SESSIONS: usize = 20;

/// Load, and what it must come to.
struct Load {
    sessions: Vec<Echo>,
    steady: Steady,
    transfer: Transfer,
    begun: Instant,
}

impl Load {
    fn start(site: &Site) -> Self {
        let sessions = (0..SESSIONS).map(|_| site.connect().unwrap());
        Self {
            sessions: sessions.collect(),
            steady: Steady::start(site.client(), address::READ, 1),
            transfer: Transfer::start(site.client(), address::WRITE, 1),
            begun: Instant::now(),
        }
    }

    /// Every session lives, and new connections go on.
    fn check(&mut self, site: &Site, when: &str) {
        let goes_on = self.steady.wait_for_more(5, PATIENCE);
        assert!(goes_on, "{when}: no new connections");
        for session in &mut self.sessions {
            let answer = session.ping();
            assert!(
                answer.is_ok(),
                "{when}: {answer:?}\n{}",
                site.balancer.output()
            );
        }
    }

    fn finish(mut self, site: &Site, what: &str) {
        self.check(site, "at the end");
        assert!(self.begun.elapsed() < DURATION_MAX, "the load ended before");
        let bytes = self.transfer.stop().unwrap();
        let answers = self.steady.stop();
        let stats = site.balancer.stats().unwrap();
        println!(
            "{what} in {:.1?}: {} new connections, {} stalled, {bytes} bytes, {SESSIONS} sessions",
            self.begun.elapsed(),
            answers.total(),
            answers.stalled
        );
        assert_eq!(
            answers.failures,
            BTreeMap::new(),
            "{}",
            site.balancer.output()
        );
        assert!(answers.total() > 100, "there was no load");
        for reason in ["cut_off", "unknown_flow", "handshake_lost", "no_target"] {
            assert_eq!(stats.packets(reason), 0, "{reason}");
        }
    }
}

/// What changes from one reload to the next: a weight, a server that takes no
/// connections, a service.
fn configuration(site: &Site, turn: usize) -> Configuration {
    let mut configuration = Configuration::for_nodes(&site.lab);
    configuration.check = Site::CHECK.to_owned();
    configuration.servers[1].keys = format!("weight = {}", 1 + turn % 3);
    if !turn.is_multiple_of(2) {
        // Nobody is there: it is never UP.
        let nobody = SocketAddrV4::new(NOBODY, 8081);
        configuration.servers.push(Entry::new("n9", nobody));
    }
    if !turn.is_multiple_of(3) {
        let listen = SocketAddrV4::new(address::VIP, 9000);
        configuration.read_service = format!(
            "[service.more]\nlisten = \"{listen}\"\npool = \"{POOL}\"\nroute = \"replicas\"\n"
        );
    }
    configuration
}

#[test]
fn a_hundred_reloads_lose_no_connection_and_refuse_none() {
    privileged!();
    let site = Site::start(|_| {});
    let mut load = Load::start(&site);
    for turn in 1..=RELOADS {
        let next = configuration(&site, turn);
        site.balancer.write(&next).unwrap();
        let said = site.balancer.reload().unwrap();
        let services = if turn.is_multiple_of(3) { 2 } else { 3 };
        assert!(
            said.starts_with(&format!("reloaded: {services} services")),
            "{said}"
        );
        if !turn.is_multiple_of(3) {
            let listen = SocketAddrV4::new(address::VIP, 9000);
            let there = site.client().enter(|| who_is_at(listen));
            assert!(there.is_ok(), "reload {turn}: {there:?}");
        }
        load.check(&site, &format!("reload {turn}"));
    }
    load.finish(&site, "a hundred reloads");
}

#[test]
fn a_hundred_deaths_of_the_agent_lose_no_connection_and_refuse_none() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut load = Load::start(&site);
    for death in 1..=DEATHS {
        site.balancer.kill().unwrap();
        site.balancer.start_again().unwrap();
        // At whatever point of its start the next one dies, now and then.
        if death.is_multiple_of(4) {
            std::thread::sleep(Duration::from_millis(5 * (death as u64 % 16)));
        } else {
            let up = wait_until(PATIENCE, || site.balancer.status().is_ok());
            assert!(up, "{}", site.balancer.output());
        }
        load.check(&site, &format!("death {death}"));
    }
    site.wait_for_all_targets();
    load.finish(&site, "a hundred deaths");
}

/// What is attached to the NIC.
struct Attached {
    link: u32,
    program: u32,
    /// A checksum of the program's instructions.
    tag: u64,
}

impl Attached {
    fn at(site: &Site, hook: Hook) -> Self {
        let pin = format!("link-{}-{NIC}", hook.name());
        let link = PinnedLink::from_pin(site.balancer.pins().unwrap().join(pin)).unwrap();
        let link = FdLink::from(link).info().unwrap();
        let mut programs = loaded_programs().flatten();
        let program = programs.find(|program| program.id() == link.program_id());
        Self {
            link: link.id(),
            program: link.program_id(),
            tag: program.unwrap().tag(),
        }
    }
}

#[test]
fn ten_upgrades_lose_no_connection_and_refuse_none() {
    privileged!();
    ten_upgrades(Hook::Native);
}

#[test]
fn ten_upgrades_at_tc_lose_no_connection_and_refuse_none() {
    privileged!();
    ten_upgrades(Hook::Tc);
}

fn ten_upgrades(hook: Hook) {
    let mut site = Site::with(&spec_for(hook), hook, |_| {});
    let mut load = Load::start(&site);
    let lb = fs::read(binaries::find("lb").unwrap()).unwrap();
    // Two kernel programs take turns.
    let programs = [build::with_other_instructions(&lb).unwrap(), lb];
    let mut attached = vec![Attached::at(&site, hook)];
    for (upgrade, program) in (1..=UPGRADES).zip(programs.iter().cycle()) {
        let other = site.lab.run_directory().join(format!("lb-{upgrade}"));
        fs::write(&other, program).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
        site.balancer.kill().unwrap();
        site.balancer.set_program(other);
        site.balancer.start_again().unwrap();
        site.wait_for_all_targets();
        load.check(&site, &format!("upgrade {upgrade}"));
        let adopted = site.balancer.output().matches("adopted=true").count();
        assert_eq!(adopted, upgrade, "{}", site.balancer.output());
        attached.push(Attached::at(&site, hook));
    }
    load.finish(&site, &format!("ten upgrades of {}", hook.name()));
    for (before, after) in attached.iter().zip(&attached[1..]) {
        // The link is the same: nothing was ever detached.
        assert_eq!(before.link, after.link);
        assert_ne!(before.program, after.program);
        assert_ne!(before.tag, after.tag);
    }
    assert_eq!(attached[0].tag, attached[UPGRADES].tag);
}
