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
