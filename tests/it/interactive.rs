//! The `lab` binary, as a user starts it.
//!
//! Its lab has fixed names, and there can be only one: a lab that somebody has
//! left running makes these tests fail, and says so.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use lb_tests::lab::address;
use lb_tests::patience::wait_until;
use lb_tests::traffic::connections::who_is_at;
use lb_tests::{binaries, privileged};
use rustix::process::{Pid, Signal, kill_process};

use crate::footprint::footprint;

const PATIENCE: Duration = Duration::from_secs(60);
/// Where the lab has the configuration of its `lb`.
const LB_CONFIGURATION: &str = "/run/lb-lab/lb/lb.toml";
/// Where it keeps the log of one that failed.
const KEPT_LOG: &str = "/var/log/lb-lab.log";

/// A running `lab`, killed when dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn start(verb: &str) -> Self {
        let output = PathBuf::from(format!("/tmp/lb-it-{}-{verb}", std::process::id()));
        let file = File::create(&output).unwrap();
        let child = Command::new(binaries::find("lab").unwrap())
            .arg(verb)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, output }
    }

    fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    fn wait_for_output(&mut self, text: &str) {
        let printed = wait_until(PATIENCE, || {
            self.output().contains(text) || self.child.try_wait().unwrap().is_some()
        });
        assert!(printed && self.output().contains(text), "{}", self.output());
    }

    /// Sends `signal` and waits for the end; the exit code.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        let ended = wait_until(PATIENCE, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "it does not end: {}", self.output());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.output);
    }
}

/// What the interactive lab has left.
fn left() -> Vec<String> {
    footprint(|lab| lab == "lb")
}

#[test]
fn the_tour_holds_and_leaves_nothing() {
    privileged!();
    let mut tour = Running::start("tour");
    let code = tour.wait();
    let output = tour.output();
    println!("{output}");
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("FAIL"));
    assert_eq!(output.matches("PASS").count(), 8);
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn the_lab_is_up_until_sigint_and_leaves_nothing() {
    privileged!();
    let mut lab = Running::start("up");
    lab.wait_for_output("Ctrl-C ends it");
    // From root's own namespace, as the guide says.
    who_is_at(address::READ).unwrap();
    assert!(!left().is_empty());
    let second = Command::new(binaries::find("lab").unwrap())
        .arg("up")
        .output()
        .unwrap();
    assert!(!second.status.success());
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(complaint.contains("is running already"), "{complaint}");

    let code = lab.end(Signal::INT);
    assert_eq!(code, Some(0), "{}", lab.output());
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn lb_that_is_killed_is_not_missed_and_is_started_again() {
    privileged!();
    let mut lab = Running::start("up");
    lab.wait_for_output("Ctrl-C ends it");
    let guide = lab.output();
    kill_as_told(&guide, "kill lb, the agent");
    lab.wait_for_output("(signal: 9 (SIGKILL)); the kernel goes on steering meanwhile");
    lab.wait_for_output("lb does not answer");
    who_is_at(address::WRITE).unwrap();
    lab.wait_for_output("; it adopted what the kernel steers by");
    who_is_at(address::WRITE).unwrap();
    who_is_at(address::READ).unwrap();

    // One that cannot start is not tried for ever.
    fs::write(LB_CONFIGURATION, "nonsense").unwrap();
    let said = lab.output();
    kill_as_told(&said, "lb is started again, its pid is");
    assert_eq!(lab.wait(), Some(1), "{}", lab.output());
    let output = lab.output();
    assert!(output.contains("everything was removed"), "{output}");
    let (_, end) = output.split_once("lab: error: lb ended again").unwrap();
    assert!(end.contains("syntax error"), "{output}");
    assert!(end.lines().count() <= 21, "{output}");
    assert_eq!(left(), Vec::<String>::new());
    fs::remove_file(KEPT_LOG).unwrap();
}

/// SIGKILL for the process whose id follows `what`.
fn kill_as_told(output: &str, what: &str) {
    let (_, after) = output.split_once(what).unwrap();
    let mut words = after.split(|letter: char| !letter.is_ascii_digit());
    // Not the 9 of `kill -9`.
    let pid = words.find_map(|word| word.parse().ok().filter(|&pid| pid > 9));
    kill_process(Pid::from_raw(pid.unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_killed_lab_is_cleaned_up_by_the_next_one() {
    privileged!();
    let mut lab = Running::start("up");
    lab.wait_for_output("starting the Raft nodes");
    lab.end(Signal::KILL);
    assert!(!left().is_empty());
    let mut clean = Running::start("clean");
    assert_eq!(clean.wait(), Some(0), "{}", clean.output());
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn sigterm_while_the_lab_is_starting_leaves_nothing() {
    privileged!();
    let mut lab = Running::start("up");
    lab.wait_for_output("waiting for a leader");
    assert_ne!(lab.end(Signal::TERM), Some(0));
    assert_eq!(left(), Vec::<String>::new());
}
