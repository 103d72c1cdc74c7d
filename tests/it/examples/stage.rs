//! The story that every example goes through: writes go to the primary, reads
//! to a replica; the primary is lost, sessions with it are cut, writes go on
//! at another node; the lost one comes back and follows.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::balancer::{Balancer, Status};
use lb_tests::binaries;
use lb_tests::lab::{Lab, Spec, address};
use lb_tests::patience::{wait_for, wait_until};
use lb_tests::privilege;

use super::Dialect;
use super::dialect::Ending;
use super::servers::{Loss, Servers, directory_of};

/// How many nodes every example has.
const NODES: usize = 3;
/// A session that is cut while its client waits has to end within this: much
/// sooner than TCP would give up by itself.
const CUT: Duration = Duration::from_secs(30);
/// Reads to find out who answers: neither replica is missed by chance
/// (2^-20).
const READS: usize = 20;

/// The name of the write service in every example's `lb.toml`.
pub const WRITE: &str = "write";
/// That of the read service.
pub const READ: &str = "read";

/// An example on the lab's nodes, with `lb` in front of it.
pub struct Stage<D> {
    // In the order in which they are dropped.
    pub balancer: Balancer,
    pub servers: Servers,
    pub lab: Lab,
    dialect: D,
    /// How many keys were written, counted from 1; each is its own value.
    written: usize,
}

impl<D: Dialect> Stage<D> {
    /// Starts it all, with the example's `lb.toml` as `change` leaves it, and
    /// waits until writes and reads get through. `None`, said aloud, where the
    /// servers are not installed.
    pub fn start(dialect: D, change: impl FnOnce(&mut String)) -> Option<Self> {
        if !privilege::installed(D::PROGRAMS) {
            return None;
        }
        let lab = Lab::new(&Spec::for_test(NODES).without_peer_program()).unwrap();
        let servers = Servers::start(&lab, D::EXAMPLE).unwrap();
        let toml = directory_of(D::EXAMPLE).join("lb.toml");
        let check = Command::new(binaries::find("lb").unwrap())
            .args(["check", "-f"])
            .arg(&toml)
            .output()
            .unwrap();
        assert!(check.status.success(), "{check:?}");
        let mut toml = fs::read_to_string(toml).unwrap();
        change(&mut toml);
        let mut balancer = Balancer::with_configuration(&lab, &toml).unwrap();
        balancer.start_again().unwrap();
        let mut stage = Self {
            balancer,
            servers,
            lab,
            dialect,
            written: 0,
        };
        stage.wait_for("a primary and two replicas", |status| {
            status.targets(WRITE).len() == 1 && status.targets(READ).len() == NODES - 1
        });
        Some(stage)
    }

    /// Loses the primary, and checks all that has to happen then. The node
    /// that it was.
    pub fn lose_the_primary(&mut self, loss: Loss) -> usize {
        let old = self.must_be_in_order();
        let before = self.last_key();
        let session = self.open_session();
        let lost = Instant::now();
        self.servers.lose(&self.lab, old, loss).unwrap();
        let new = self.must_write(D::PATIENCE);
        let outage = lost.elapsed();
        let (ending, ended) = session.join().unwrap();
        // Of a node without power nothing is heard: there it was the balancer.
        // Otherwise it is whoever is first, it or the kernel of the node.
        let cut = matches!(ending, Ending::Reset | Ending::Closed);
        assert!(cut, "{ending:?}; {}", self.story());
        println!(
            "{}, {loss:?}: the idle session ended after {} ms ({ending:?}), writes went on after {} ms",
            D::EXAMPLE,
            (ended - lost).as_millis(),
            outage.as_millis(),
        );
        assert_ne!(new, old, "{}", self.story());
        let left: Vec<usize> = (1..=NODES).filter(|&id| id != old).collect();
        self.must_be_on(&left, &before);
        self.must_be_on(&left, &self.last_key());
        let replica = left.into_iter().find(|&id| id != new).expect("three nodes");
        self.must_be_read_from(&[replica]);
        old
    }

    /// Starts a lost node again: it has to be read from, and to get no writes,
    /// which go on all the while.
    pub fn must_come_back_as_a_replica(&mut self, id: usize) {
        let primary = self.must_write(Duration::ZERO);
        self.servers.start_node(&self.lab, id).unwrap();
        let back = wait_for(D::PATIENCE, || {
            assert_eq!(self.must_write(Duration::ZERO), primary);
            let status = self.balancer.status().unwrap();
            (status.targets(READ).len() == NODES - 1).then_some(())
        });
        assert!(back.is_some(), "n{id} is not back; {}", self.story());
        assert_eq!(self.must_be_in_order(), primary);
    }

    /// Ends it all in order.
    pub fn conclude(mut self) {
        assert!(self.balancer.terminate().unwrap().success());
    }

    /// A write through the balancer reaches the primary, all nodes have it
    /// soon, and reads through the balancer are answered by all others. The
    /// primary.
    fn must_be_in_order(&mut self) -> usize {
        let primary = self.must_write(Duration::ZERO);
        let all: Vec<usize> = (1..=NODES).collect();
        self.must_be_on(&all, &self.last_key());
        let replicas: Vec<usize> = all.into_iter().filter(|&id| id != primary).collect();
        self.must_be_read_from(&replicas);
        let ready = wait_until(D::PATIENCE, || {
            self.in_client(|dialect| dialect.is_ready())
                .unwrap_or(false)
        });
        assert!(
            ready,
            "they would not go on by themselves; {}",
            self.story()
        );
        primary
    }

    /// Writes through the balancer until it succeeds; the node that took it.
    pub fn must_write(&mut self, patience: Duration) -> usize {
        let mut last = None;
        let found = wait_for(patience, || match self.try_write() {
            Ok(node) => Some(node),
            Err(error) => {
                last = Some(error);
                None
            }
        });
        found.unwrap_or_else(|| panic!("no write: {last:?}; {}", self.story()))
    }

    /// Writes a key of its own through the balancer, once; the node that took
    /// it.
    pub fn try_write(&mut self) -> Result<usize> {
        let key = key(self.written + 1);
        let target = vip(D::SERVICES[0]);
        let node = self.in_client(|dialect| dialect.write(target, &key, &key))?;
        self.written += 1;
        Ok(node)
    }

    fn last_key(&self) -> String {
        key(self.written)
    }

    /// Each of these nodes, asked for itself, has the key, soon.
    fn must_be_on(&self, nodes: &[usize], key: &str) {
        for &id in nodes {
            let target = SocketAddr::from((address::node(id), D::PORT));
            let mut seen = Ok((0, None));
            let there = wait_until(D::PATIENCE, || {
                seen = self.in_client(|dialect| dialect.read(target, key));
                matches!(&seen, Ok((node, Some(value))) if *node == id && value == key)
            });
            assert!(there, "n{id} has no {key}: {seen:?}; {}", self.story());
        }
    }

    /// Reads through the balancer reach each of these nodes, and no other.
    fn must_be_read_from(&mut self, nodes: &[usize]) {
        let names: Vec<String> = nodes.iter().map(|id| format!("n{id}")).collect();
        self.wait_for(&format!("reads from {names:?}"), |status| {
            let mut targets = status.targets(READ);
            targets.sort_unstable();
            targets == names
        });
        let key = self.last_key();
        let read = |_| {
            let target = vip(D::SERVICES[1]);
            let (node, value) = self
                .in_client(|dialect| dialect.read(target, &key))
                .unwrap();
            assert_eq!(value.as_ref(), Some(&key));
            node
        };
        let readers: BTreeSet<usize> = (0..READS).map(read).collect();
        assert!(readers.iter().eq(nodes), "{readers:?}, not {nodes:?}");
    }

    /// Opens a session with the primary, in which the client says nothing more.
    fn open_session(&self) -> thread::JoinHandle<(Ending, Instant)> {
        let target = vip(D::SERVICES[0]);
        let session = self.in_client(|dialect| dialect.session(target, CUT));
        let silence = session.unwrap();
        thread::spawn(move || (silence(), Instant::now()))
    }

    fn in_client<T: Send>(&self, work: impl FnOnce(&D) -> T + Send) -> T {
        self.lab.client().enter(|| work(&self.dialect))
    }

    pub fn wait_for(&mut self, what: &str, holds: impl FnMut(&Status) -> bool) -> Status {
        let found = self.balancer.wait_for_status(what, D::PATIENCE, holds);
        found.unwrap_or_else(|error| panic!("{error:#}\n{}", self.servers.logs()))
    }

    /// What `lb` and the servers say, for messages.
    pub fn story(&self) -> String {
        let mut story = String::new();
        let _ = writeln!(story, "lb status: {:?}", self.balancer.status());
        let _ = writeln!(story, "lb's log:\n{}", self.balancer.output());
        story + &self.servers.logs()
    }
}

/// Eight letters and digits: valid in base64, too, as some have keys.
fn key(number: usize) -> String {
    format!("key{number:05}")
}

fn vip(port: u16) -> SocketAddr {
    (address::VIP, port).into()
}
