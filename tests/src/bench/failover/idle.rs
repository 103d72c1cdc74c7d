//! A client that has a connection to the leader and only waits: how long until
//! it is told that nobody is there any more.

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::collect::LOOK_UP;
use crate::http::Connection;
use crate::lab::{Namespace, joined};

/// A connection that somebody waits on.
#[derive(Debug)]
pub struct Idle {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<Instant>>,
}

impl Idle {
    /// Connects to `target`, where node `expected` must answer; then waits.
    pub fn connect(client: &Namespace, target: SocketAddrV4, expected: usize) -> Result<Self> {
        let connected = client.enter(|| {
            let mut connection = Connection::open(target, LOOK_UP)?;
            let answer = connection.request("GET", "/whoami", None)?;
            Ok::<_, std::io::Error>((connection, answer))
        });
        let (mut connection, answer) =
            connected.with_context(|| format!("an idle client at {target}"))?;
        let node = answer.header("x-raft-node").unwrap_or_default();
        ensure!(node == expected.to_string(), "{target} is n{node}");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = client.background(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Nothing was asked for, so that nothing is answered.
                let told = connection.receive().err()?;
                if told.kind() != ErrorKind::WouldBlock {
                    return Some(Instant::now());
                }
            }
            None
        });
        Ok(Self { stop, thread })
    }

    /// When it was told; `None` if it still waits.
    pub fn stop(self) -> Option<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        joined(self.thread.join())
    }
}
