//! The life of the agent: killed under load, adopted by the next one, refused
//! where there is one already, and gone without a trace when it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_tests::balancer::{Hook, POOL, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::lab::{NIC, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::bulk::Transfer;
use lb_tests::traffic::connections::who_is_at;
use lb_tests::traffic::steady::Steady;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::connections::{PATIENCE, Site, spec_for};

#[test]
fn an_agent_that_is_killed_under_load_is_not_missed_and_its_maps_are_adopted() {
    privileged!();
    killed_under_load(Hook::Native);
}

#[test]
fn an_agent_that_is_killed_under_load_is_not_missed_with_generic_xdp() {
    privileged!();
    killed_under_load(Hook::Generic);
}

fn killed_under_load(hook: Hook) {
    let mut site = Site::with(&spec_for(hook), hook, |_| {});
    let mut idle = site.connect().unwrap();
    idle.ping().unwrap();
    let steady = Steady::start(site.client(), address::READ, 3);
    let transfer = Transfer::start(site.client(), address::WRITE, 1);
    for restart in 1..=3 {
        assert!(steady.wait_for_more(100, PATIENCE));
        let before = site.balancer.stats().unwrap();
        let received = transfer.received();
        site.balancer.kill().unwrap();
        // Nobody is there, and everything goes on: new connections too.
        assert!(steady.wait_for_more(200, PATIENCE));
        assert!(wait_until(PATIENCE, || transfer.received() > received));
        site.connect().unwrap().ping().unwrap();

        site.balancer.start_again().unwrap();
        site.wait_for_all_targets();
        assert!(steady.wait_for_more(100, PATIENCE));
        let after = site.balancer.stats().unwrap();
        // What came while there was no agent was counted as well.
        for (service, at_least) in [(READ_SERVICE, 200), (WRITE_SERVICE, 1)] {
            let [before, after] = [&before, &after].map(|stats| stats.service(service));
            assert!(
                after.connections >= before.connections + at_least,
                "restart {restart}: {before:?}, then {after:?}"
            );
            assert_eq!((before.refused, after.refused), (0, 0));
        }
        let flows = site.table(&["flows", "--service", WRITE_SERVICE]);
        assert!(flows.contains(&idle.client()), "{flows}");
        let adopted = site.balancer.output().matches("adopted=true").count();
        assert_eq!(adopted, restart, "{}", site.balancer.output());
    }
    idle.ping().unwrap();
    let bytes = transfer.stop().unwrap();
    let answers = steady.stop();
    println!(
        "{} connections, {} stalled, and {bytes} bytes under three restarts",
        answers.total(),
        answers.stalled
    );
    let log = site.balancer.output();
    assert_eq!(answers.failures, BTreeMap::new(), "{log}");
    let reset = site.balancer.stats().unwrap();
    for reason in ["cut_off", "unknown_flow", "handshake_lost", "no_target"] {
        assert_eq!(reset.packets(reason), 0, "{reason}");
    }
}

#[test]
fn an_agent_with_another_hook_attaches_there_before_it_leaves_the_old_one() {
    privileged!();
    let mut site = Site::with(&spec_for(Hook::Generic), Hook::Generic, |_| {});
    let mut idle = site.connect().unwrap();
    idle.ping().unwrap();
    let steady = Steady::start(site.client(), address::READ, 3);
    let file = site.balancer.configuration().to_owned();
    for (from, to) in [("xdp-generic", "tc"), ("tc", "xdp-generic")] {
        assert!(steady.wait_for_more(100, PATIENCE));
        site.balancer.kill().unwrap();
        let toml = fs::read_to_string(&file).unwrap();
        let (old, new) = (format!("\"{from}\""), format!("\"{to}\""));
        fs::write(&file, toml.replacen(&old, &new, 1)).unwrap();
        site.balancer.start_again().unwrap();
        site.wait_for_all_targets();
        let output = site.balancer.output();
        assert!(output.contains(&format!("hook={to}")), "{output}");
        assert!(steady.wait_for_more(100, PATIENCE));
        idle.ping().unwrap();
    }
    let answers = steady.stop();
    assert_eq!(answers.failures, BTreeMap::new());
    let stats = site.balancer.stats().unwrap();
    for reason in ["cut_off", "unknown_flow", "handshake_lost", "no_target"] {
        assert_eq!(stats.packets(reason), 0, "{reason}");
    }
}

#[test]
fn an_agent_with_more_services_than_its_forerunner_had_room_for_keeps_the_connections() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut idle = site.connect().unwrap();
    idle.ping().unwrap();
    site.balancer.kill().unwrap();
    // Each takes 32768 slots: more than a million in all.
    let services = (0..40).map(|index| {
        let listen = SocketAddrV4::new(address::VIP, 20_000 + index);
        format!(
            "[service.more{index}]\nlisten = \"{listen}\"\npool = \"{POOL}\"\nroute = \"replicas\"\n"
        )
    });
    let file = site.balancer.configuration().to_owned();
    let toml = fs::read_to_string(&file).unwrap() + &services.collect::<String>();
    fs::write(file, toml).unwrap();

    site.balancer.start_again().unwrap();
    let all = |status: &Status| (0..40).all(|i| status.targets(&format!("more{i}")).len() == 2);
    let what = "waiting for the new services";
    site.balancer.wait_for_status(what, PATIENCE, all).unwrap();
    assert!(site.balancer.output().contains("adopted=true"));
    idle.ping().unwrap();
    for port in [address::READ.port(), 20_000, 20_039] {
        let listen = SocketAddrV4::new(address::VIP, port);
        site.client().enter(|| who_is_at(listen)).unwrap();
    }
    let aside = |path: &Path| {
        fs::read_dir(path)
            .unwrap()
            .flatten()
            .any(|pin| pin.file_name() == "SLOTS_BEFORE")
    };
    for pins in fs::read_dir(site.lab.bpffs().join("lb")).unwrap().flatten() {
        assert!(!aside(&pins.path()));
    }
}

#[test]
fn what_an_agent_of_another_layout_left_is_named_and_goes_on_steering() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    site.balancer.kill().unwrap();
    let all = site.lab.bpffs().join("lb");
    let [ours] = &pins(&all)[..] else {
        panic!("{:?}", pins(&all));
    };
    let other = all.join(format!("{NIC}-v1"));
    fs::rename(ours, &other).unwrap();
    site.balancer.start_again().unwrap();
    let ended = wait_until(PATIENCE, || site.balancer.exit_status().is_some());
    assert!(ended, "{}", site.balancer.output());
    let said = site.balancer.output();
    for part in ["eth0-v1 holds the data path of another version", "layout 1"] {
        assert!(said.contains(part), "{said}");
    }
    open.ping().unwrap();
    site.connect().unwrap().ping().unwrap();
    assert_eq!(pins(&all), [other]);
}

#[test]
fn a_pinned_map_of_another_shape_is_named_and_what_is_attached_goes_on_steering() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    site.balancer.kill().unwrap();
    // The program has its maps all the same.
    let pins_of_ours = site.balancer.pins().unwrap();
    let at = |name| pins_of_ours.join(name);
    fs::rename(at("TARGETS_V6"), at("TARGETS_V4")).unwrap();
    let there = pins(&pins_of_ours);

    site.balancer.start_again().unwrap();
    let ended = wait_until(PATIENCE, || site.balancer.exit_status().is_some());
    let said = site.balancer.output();
    assert!(ended, "{said}");
    for part in [
        "holds maps that are not this version's: TARGETS_V4 (value size",
        "`rm -r ",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("adopted=true"), "{said}");
    open.ping().unwrap();
    site.connect().unwrap().ping().unwrap();
    assert_eq!(pins(&pins_of_ours), there);

    // What it says to do mends it.
    fs::remove_dir_all(&pins_of_ours).unwrap();
    site.balancer.take_dead().unwrap();
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    site.connect().unwrap().ping().unwrap();
}

#[test]
fn a_second_agent_is_refused_and_does_no_harm() {
    privileged!();
    let site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    open.ping().unwrap();
    let run = site.lab.run_directory();
    let (bpffs, elsewhere) = (site.lab.bpffs().to_owned(), run.join("elsewhere"));
    let mounted = Bpffs::mount(elsewhere.join("bpf"));
    let other_bpffs = &mounted.0;
    let second = |run: &Path, bpffs: &Path| {
        let mut command = Command::new(lb_tests::binaries::find("lb").unwrap());
        command.arg("run").arg("--config");
        command.arg(site.balancer.configuration());
        command.arg("--run-dir").arg(run);
        command.arg("--bpffs").arg(bpffs);
        let output = site.lab.balancer().enter(move || command.output());
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for (run, bpffs, complaint) in [
        (run, &bpffs, "another agent answers on"),
        (&elsewhere, &bpffs, "another agent already serves eth0"),
        (
            &elsewhere,
            other_bpffs,
            "another XDP program is attached to eth0",
        ),
    ] {
        let said = second(run, bpffs);
        assert!(said.contains(complaint), "{said}");
        open.ping().unwrap();
        site.client().enter(|| who_is_at(address::READ)).unwrap();
        assert_eq!(
            site.balancer.status().unwrap().pid,
            site.balancer.pid().unwrap()
        );
        assert!(!elsewhere.join("lb.sock").exists());
    }
    assert_eq!(pins(other_bpffs), Vec::<PathBuf>::new());
}

#[test]
fn an_agent_that_is_told_to_leave_leaves_nothing() {
    privileged!();
    let mut site = Site::start(|_| {});
    let mut open = site.connect().unwrap();
    open.ping().unwrap();
    let socket = site.balancer.socket();
    assert!(socket.exists());
    assert!(site.nic("ip", &["link", "show"]).contains("prog/xdp"));
    assert!(addresses(&site).contains("10.87.0.100/32"));

    assert!(site.balancer.terminate().unwrap().success());
    assert!(!socket.exists());
    assert!(!site.nic("ip", &["link", "show"]).contains("prog/xdp"));
    assert!(!addresses(&site).contains("10.87.0.100"));
    assert!(addresses(&site).contains("10.87.0.10/24"));
    assert_eq!(pins(site.lab.bpffs()), Vec::<PathBuf>::new());
}

#[test]
fn an_agent_that_leaves_the_data_path_is_not_missed() {
    privileged!();
    let mut site = Site::start(|configuration| {
        configuration.top = r#"on_stop = "leave""#.to_owned();
    });
    let mut open = site.connect().unwrap();
    let steady = Steady::start(site.client(), address::READ, 2);
    for _ in 0..3 {
        assert!(site.balancer.terminate().unwrap().success());
        assert!(!site.balancer.socket().exists());
        // Nobody is there, and everything goes on: new connections too.
        assert!(steady.wait_for_more(100, PATIENCE));
        open.ping().unwrap();
        assert!(addresses(&site).contains("10.87.0.100/32"));
        site.balancer.start_again().unwrap();
        site.wait_for_all_targets();
        assert!(steady.wait_for_more(100, PATIENCE));
    }
    open.ping().unwrap();
    assert_eq!(site.balancer.output().matches("adopted=true").count(), 3);
    assert_eq!(steady.stop().failures, BTreeMap::new());
}

#[test]
fn what_a_killed_agent_left_is_removed_by_the_next_one_that_is_told_to_leave() {
    privileged!();
    let mut site = Site::start(|_| {});
    site.balancer.kill().unwrap();
    assert!(site.nic("ip", &["link", "show"]).contains("prog/xdp"));
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    assert!(site.balancer.terminate().unwrap().success());
    assert!(!site.nic("ip", &["link", "show"]).contains("prog/xdp"));
    assert!(!addresses(&site).contains("10.87.0.100"));
    assert!(!site.balancer.socket().exists());
    assert_eq!(pins(site.lab.bpffs()), Vec::<PathBuf>::new());
}

#[test]
fn a_vip_that_was_on_the_nic_before_stays() {
    privileged!();
    let mut site = Site::start(|_| {});
    assert!(site.balancer.terminate().unwrap().success());
    site.nic("ip", &["address", "add", "10.87.0.100/24", "dev"]);
    assert!(addresses(&site).contains("10.87.0.100/24"));
    site.balancer.start_again().unwrap();
    site.wait_for_all_targets();
    site.connect().unwrap().ping().unwrap();
    assert!(site.balancer.terminate().unwrap().success());
    assert!(addresses(&site).contains("10.87.0.100/24"));
    assert_eq!(addresses(&site).matches("10.87.0.100").count(), 1);
}

fn addresses(site: &Site) -> String {
    let shown = site.nic("ip", &["address", "show", "dev"]);
    assert!(shown.contains(NIC));
    shown
}

/// What is in a bpffs beside the two files that the kernel puts there.
fn pins(bpffs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(bpffs).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_none_or(|end| end != "debug"))
        .collect()
}

/// A bpffs of a test's own; unmounted when dropped.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount("bpf", &path, "bpf", MountFlags::empty(), None).unwrap();
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}
