//! Short connections one after the other, for as long as something happens to
//! the balancer, and an account of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::connections::Answers;
use crate::lab::{Namespace, joined};
use crate::patience::wait_until;

/// Between two connections of one client, so that the load leaves the machine
/// some room.
const PAUSE: Duration = Duration::from_millis(1);
/// No load goes on for longer.
pub const DURATION_MAX: Duration = Duration::from_secs(180);

/// Clients at work. They stop when this is stopped or dropped.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    finished: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Answers>>,
}

impl Steady {
    /// Starts `at_once` clients in `namespace`: each asks again and again, on
    /// a connection of its own, who is at `target`.
    pub fn start(namespace: &Namespace, target: impl Into<SocketAddr>, at_once: usize) -> Self {
        let target = target.into();
        let stop = Arc::new(AtomicBool::new(false));
        let finished = Arc::new(AtomicUsize::new(0));
        let clients = (0..at_once).map(|_| {
            let (stop, finished) = (Arc::clone(&stop), Arc::clone(&finished));
            namespace.background(move || {
                let end = Instant::now() + DURATION_MAX;
                let mut answers = Answers::default();
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    answers.ask(target);
                    finished.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
                answers
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            finished,
        }
    }

    /// Waits until so many more connections are over; whether they were
    /// within `patience`.
    pub fn wait_for_more(&self, connections: usize, patience: Duration) -> bool {
        let enough = self.finished.load(Ordering::Relaxed) + connections;
        wait_until(patience, || self.finished.load(Ordering::Relaxed) >= enough)
    }

    /// Stops the clients; what they saw.
    pub fn stop(mut self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Answers::default();
        for client in self.clients.drain(..) {
            all.merge(joined(client.join()));
        }
        all
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
