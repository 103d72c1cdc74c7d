//! `examples/keepalived`: the VIP is with one balancer, and moves to the other
//! when that one dies.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::lab::{Process, Spec, address};
use lb_tests::traffic::Failure;
use lb_tests::traffic::writes::Report;
use lb_tests::{binaries, privileged};

use super::PATIENCE;
use super::stage::{Clients, Pair, example, has_vip, wait};

const EXAMPLE: &str = "keepalived";
/// The example's.
const INTERVAL: &str = "advert_int 0.1";
const FALL: &str = "fall 3";
/// For a machine on which `lb` may take longer to start than usual.
const PATIENT_FALL: &str = "fall 15";
/// What is measured: each so many times.
const INTERVALS: [&str; 3] = ["advert_int 0.1", "advert_int 0.3", "advert_int 1"];
const ROUNDS: usize = 3;
/// How long nothing may happen that must not: longer than keepalived takes for
/// whatever it does.
const QUIET: Duration = Duration::from_secs(3);

/// A pair with keepalived beside each balancer.
struct Watched {
    // Before the pair, so that they end first.
    daemons: [Process; 2],
    pair: Pair,
}

impl Watched {
    /// By the example's file, with its `fall` changed.
    fn start(fall: &str) -> Option<Self> {
        let pair = Pair::start(EXAMPLE, Spec::for_test(3), &["keepalived"])?;
        let daemons = [1, 2].map(|number| daemon(&pair, number, INTERVAL, fall));
        Some(Self { daemons, pair })
    }

    /// Starts keepalived anew, with another interval.
    fn set_interval(&mut self, interval: &str) {
        for number in [1, 2] {
            self.daemons[number - 1].terminate(PATIENCE).unwrap();
            self.daemons[number - 1] = daemon(&self.pair, number, interval, FALL);
        }
    }

    /// Waits until one of the two has the VIP: its number, and the other's.
    fn roles(&self) -> (usize, usize) {
        let mut active = 0;
        wait("one balancer with the VIP", || {
            let mut with = vec![1, 2];
            with.retain(|&number| has_vip(self.pair.namespace(number)));
            active = with.first().copied().unwrap_or_default();
            with.len() == 1
        });
        (active, 3 - active)
    }

    /// Asserts that `number` has the VIP, and the other one does not.
    fn must_be_active(&self, number: usize) {
        let (active, _) = self.roles();
        assert_eq!(active, number, "it moved:\n{}", self.pair.logs());
    }

    /// Waits until keepalived beside `number` stands by.
    fn wait_for_standby(&self, number: usize) {
        wait(&format!("keepalived {number} as a backup"), || {
            let log = self.daemons[number - 1].output();
            let last = log.lines().rfind(|line| line.contains(" STATE"));
            last.is_some_and(|line| line.contains("BACKUP"))
        });
    }

    fn leave(mut self) {
        for daemon in &mut self.daemons {
            daemon.terminate(PATIENCE).unwrap();
        }
        self.pair.leave();
    }
}

/// keepalived beside the balancer `number`, by the example's file.
fn daemon(pair: &Pair, number: usize, interval: &str, fall: &str) -> Process {
    let mut text = fs::read_to_string(example(EXAMPLE, "keepalived.conf")).unwrap();
    let (lb, socket) = (
        binaries::find("lb").unwrap(),
        pair.balancers[number - 1].socket(),
    );
    let ready = format!("{} ready --socket {}", lb.display(), socket.display());
    for (theirs, ours) in [
        ("/usr/bin/lb ready", ready.as_str()),
        // What a developer compiled need not lie where only root may write.
        ("enable_script_security", ""),
        (INTERVAL, interval),
        (FALL, fall),
    ] {
        assert_eq!(text.matches(theirs).count(), 1, "{theirs}");
        text = text.replace(theirs, ours);
    }
    let run = pair.lab.run_directory();
    let path = |name: &str| run.join(format!("keepalived{number}{name}"));
    fs::write(path(".conf"), text).unwrap();
    let mut command = Command::new("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
    command.args(["--config-id", &format!("lb{number}")]);
    command.arg("--use-file").arg(path(".conf"));
    command.arg("--pid").arg(path(".pid"));
    command.arg("--vrrp_pid").arg(path("-vrrp.pid"));
    pair.namespace(number)
        .spawn(command, &path(".log"))
        .unwrap()
}

#[test]
fn the_vip_moves_to_the_balancer_that_lives_and_stays_there() {
    privileged!();
    let Some(mut it) = Watched::start(PATIENT_FALL) else {
        return;
    };
    let client = it.pair.lab.client().clone();
    let (active, standby) = it.roles();
    let term = it.pair.cluster_term();
    let clients = Clients::start(&client);
    it.pair.must_go_on(&clients);

    // The agent alone dies, and is started again: nobody notices.
    it.pair.balancer(active).kill().unwrap();
    it.pair.balancer(active).start_again().unwrap();
    thread::sleep(QUIET);
    it.pair.must_go_on(&clients);
    it.must_be_active(active);

    // The cable of the active one is pulled.
    let cut = Instant::now();
    it.pair.lab.unplug_balancer(active).unwrap();
    it.pair.must_go_on(&clients);
    assert!(has_vip(it.pair.namespace(standby)));

    // It comes back, and takes nothing.
    it.pair.lab.plug_balancer(active).unwrap();
    it.wait_for_standby(active);
    let back = Instant::now();
    thread::sleep(QUIET);
    it.must_be_active(standby);
    it.pair.must_go_on(&clients);

    let seen = clients.stop();
    println!("the active balancer was cut off: {}", seen.outage(cut));
    // An election, on a busy machine, is none of the balancers' doing.
    if it.pair.cluster_term() == term {
        assert_eq!(failures_outside(&seen.patient, cut, back), [""; 0]);
    }
    for report in [&seen.hasty, &seen.patient] {
        assert_eq!(report.lost(&client, address::WRITE).unwrap(), [""; 0]);
    }
    // A connection of the dead one is unknown to the other, which says so.
    let mut failures = seen.patient.failures();
    assert!(failures.any(|(_, how)| *how == Failure::Reset));
    let stats = it.pair.balancer(standby).stats().unwrap();
    assert!(stats.packets("unknown_flow") > 0);
    it.leave();
}

/// What failed before `from`, or was begun after `until` and failed.
fn failures_outside(report: &Report, from: Instant, until: Instant) -> Vec<String> {
    let outside = report
        .failures()
        .filter(|(attempt, _)| attempt.ended < from || attempt.begun >= until);
    outside
        .map(|(attempt, how)| format!("{}: {how}", attempt.key))
        .collect()
}

#[test]
fn a_balancer_that_is_not_ready_gives_the_vip_away_and_a_planned_switch_is_short() {
    privileged!();
    let Some(mut it) = Watched::start(FALL) else {
        return;
    };
    let (first, second) = it.roles();
    let clients = Clients::start(it.pair.lab.client());
    it.pair.must_go_on(&clients);

    // The agent stops for good: the data path is gone, and the script fails.
    let stopped = Instant::now();
    assert!(it.pair.balancer(first).terminate().unwrap().success());
    wait("the VIP at the other one", || {
        has_vip(it.pair.namespace(second)) && !has_vip(it.pair.namespace(first))
    });
    it.pair.must_go_on(&clients);
    println!("lb stopped for good: {}", clients.stop().outage(stopped));

    // Back again, it stays what it is until the other one is stopped.
    it.pair.balancer(first).start_again().unwrap();
    it.wait_for_standby(first);
    thread::sleep(QUIET);
    it.must_be_active(second);
    let clients = Clients::start(it.pair.lab.client());
    it.pair.must_go_on(&clients);
    let planned = Instant::now();
    it.daemons[second - 1].terminate(PATIENCE).unwrap();
    it.pair.must_go_on(&clients);
    it.must_be_active(first);
    println!(
        "keepalived stopped, as planned: {}",
        clients.stop().outage(planned)
    );
    it.leave();
}

#[test]
fn how_long_writes_are_out_when_the_active_balancer_is_cut_off() {
    privileged!();
    let Some(mut it) = Watched::start(FALL) else {
        return;
    };
    for interval in INTERVALS {
        it.set_interval(interval);
        for _ in 0..ROUNDS {
            let (active, standby) = it.roles();
            let clients = Clients::start(it.pair.lab.client());
            it.pair.must_go_on(&clients);
            let cut = Instant::now();
            it.pair.lab.unplug_balancer(active).unwrap();
            it.pair.must_go_on(&clients);
            println!("{interval}: {}", clients.stop().outage(cut));
            it.pair.lab.plug_balancer(active).unwrap();
            it.wait_for_standby(active);
            it.must_be_active(standby);
        }
    }
    it.leave();
}
