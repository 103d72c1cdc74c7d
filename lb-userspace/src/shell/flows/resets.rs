//! Resets the connections of targets that were cut off: both ends of each are made to
//! send a segment, which the kernel answers with a RST (`provoke`).
//!
//! A thread of its own: whoever waits for a leader that is dead does not wait for a
//! sweep over a million connections besides, nor until somebody has listed them.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::target::TargetId;
use tracing::{debug, warn};

use super::provoke::provoke;
use super::table::FlowTable;
use crate::shell::wire::FrameSocket;

/// When segments are provoked after a cut: at once, and again, in case one
/// was lost or fell under the peer's limit for duplicate ACKs (Linux:
/// tcp_invalid_ratelimit, 500 ms).
const PROVOKE_AFTER: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(700),
    Duration::from_millis(2000),
];

/// The way to the thread, which ends with this.
#[derive(Debug)]
pub struct Resets {
    cuts: Option<Sender<Vec<TargetId>>>,
    thread: Option<JoinHandle<()>>,
}

impl Resets {
    /// Starts the thread, which reads `table` and provokes through `socket`.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(table: FlowTable, socket: FrameSocket) -> io::Result<Self> {
        let (cuts, told) = channel();
        let work = Work {
            table,
            socket,
            cuts: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("resets".to_owned())
            .spawn(move || work.run(&told))?;
        Ok(Self {
            cuts: Some(cuts),
            thread: Some(thread),
        })
    }

    /// Makes both ends of every connection of `targets` send a segment.
    pub fn provoke(&self, targets: Vec<TargetId>) {
        // A thread that is gone has said why in the log.
        let _ = self.cuts.as_ref().map(|cuts| cuts.send(targets));
    }
}

impl Drop for Resets {
    fn drop(&mut self) {
        self.cuts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A cut whose connections may not all be reset yet.
#[derive(Debug)]
struct Cut {
    target: TargetId,
    at: Instant,
    provoked: usize,
}

impl Cut {
    /// When segments are to be provoked next.
    fn due(&self) -> Option<Instant> {
        Some(self.at + *PROVOKE_AFTER.get(self.provoked)?)
    }
}

struct Work {
    table: FlowTable,
    socket: FrameSocket,
    cuts: Vec<Cut>,
}

impl Work {
    fn run(mut self, told: &Receiver<Vec<TargetId>>) {
        loop {
            let heard = match self.cuts.iter().filter_map(Cut::due).min() {
                Some(due) => told.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => told.recv().map_err(RecvTimeoutError::from),
            };
            match heard {
                Ok(targets) => self.note(&targets),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.provoke_due();
        }
    }

    fn note(&mut self, targets: &[TargetId]) {
        let at = Instant::now();
        self.cuts.retain(|cut| !targets.contains(&cut.target));
        self.cuts.extend(targets.iter().map(|&target| Cut {
            target,
            at,
            provoked: 0,
        }));
    }

    fn provoke_due(&mut self) {
        let now = Instant::now();
        let mut due = BTreeMap::new();
        for cut in &mut self.cuts {
            if cut.due().is_some_and(|at| at <= now) {
                due.insert(cut.target, cut.provoked);
                cut.provoked += 1;
            }
        }
        self.cuts.retain(|cut| cut.due().is_some());
        if due.is_empty() {
            return;
        }
        match provoke(&self.table, &self.socket, &due) {
            Ok(provoked) => debug!(connections = provoked, "provoked segments after a cut"),
            Err(error) => warn!(%error, "cannot provoke segments after a cut"),
        }
    }
}
