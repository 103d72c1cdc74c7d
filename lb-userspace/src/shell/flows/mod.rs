//! The keeper of FLOWS and PENDING: a thread of its own, which counts, reaps
//! and lists connections and provokes resets, in slices, without ever
//! stalling the agent.
//!
//! The kernel creates flows and never forgets an established one; forgetting
//! is decided in `rest`, and done by the kernel's reaper, so that what is open is
//! counted in one place.

mod list;
mod meter;
mod provoke;
mod rest;
mod surplus;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::target::TargetId;
use tokio::sync::oneshot;
use tracing::{debug, warn};

pub use list::{Connection, Filter, Listed, Order, State};
pub use meter::Cost;
pub use rest::Rests;
pub use table::FlowTable;

use crate::shell::wire::FrameSocket;

/// From one sweep to the next.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// When segments are provoked after a cut: at once, and again, in case one
/// was lost or fell under the peer's limit for duplicate ACKs (Linux:
/// tcp_invalid_ratelimit, 500 ms).
const PROVOKE_AFTER: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(700),
    Duration::from_millis(2000),
];

/// What a sweep over all connections found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Connections that hold a target, finished and stale ones included.
    pub holding: BTreeMap<TargetId, u64>,
    /// Connections that are open.
    pub open: BTreeMap<TargetId, u64>,
    /// Entries in FLOWS, two a connection.
    pub flows: u64,
    /// Entries in PENDING, two a connection.
    pub pending: u64,
    /// How much of the room for connections is in use, in percent: of FLOWS, in
    /// the family that has less left, or of the limit on open ones.
    pub full: u64,
    /// Connections that were forgotten: all that was found holds them still.
    pub forgotten: u64,
    /// Whether more were due than one sweep forgets.
    pub unfinished: bool,
    /// What it took.
    pub cost: Cost,
}

enum Command {
    Rests(Rests),
    Provoke(Vec<TargetId>),
    List(Filter, oneshot::Sender<io::Result<Listed>>),
    Stop,
}

/// The way to the keeper.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Rests(_) => "Rests",
            Self::Provoke(_) => "Provoke",
            Self::List(..) => "List",
            Self::Stop => "Stop",
        })
    }
}

impl Keeper {
    /// Starts the keeper of `table`. It hands every sweep to `swept` and
    /// provokes through `socket`: at first the stale connections of `adopted`,
    /// for an agent before us may have died before it did.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        table: FlowTable,
        socket: FrameSocket,
        rests: Rests,
        adopted: &[TargetId],
        mut swept: impl FnMut(Sweep) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let mut work = Work {
            table,
            socket,
            rests,
            cuts: Vec::new(),
        };
        work.note_cuts(adopted);
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || work.run(&inbox, &mut swept))?;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }

    /// How long connections are remembered from now on.
    pub fn set_rests(&self, rests: Rests) {
        self.tell(Command::Rests(rests));
    }

    /// Makes both ends of every connection of `targets` send a segment, so
    /// that the kernel can answer it with a RST.
    pub fn provoke(&self, targets: Vec<TargetId>) {
        self.tell(Command::Provoke(targets));
    }

    /// Lists connections.
    ///
    /// # Errors
    /// What the kernel says, or that the keeper has stopped.
    pub async fn list(&self, filter: Filter) -> io::Result<Listed> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::List(filter, reply));
        answer.await.map_err(io::Error::other)?
    }

    fn tell(&self, command: Command) {
        // A keeper that is gone has said why in the log.
        let _ = self.commands.send(command);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A cut whose flows may not be gone yet.
#[derive(Debug)]
struct Cut {
    target: TargetId,
    at: Instant,
    provoked: usize,
}

struct Work {
    table: FlowTable,
    socket: FrameSocket,
    rests: Rests,
    cuts: Vec<Cut>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Command>, swept: &mut impl FnMut(Sweep)) {
        let mut next_sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            let due = self
                .next_provocation()
                .map_or(next_sweep, |at| at.min(next_sweep));
            match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Command::Rests(rests)) => self.rests = rests,
                Ok(Command::Provoke(targets)) => self.note_cuts(&targets),
                Ok(Command::List(filter, reply)) => {
                    let _ = reply.send(list::list(&self.table, &filter));
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.provoke_due();
            if Instant::now() >= next_sweep {
                let cut = self.recently_cut();
                let mut pause = SWEEP_INTERVAL;
                match rest::sweep(&mut self.table, &self.rests, &cut) {
                    Ok(sweep) => {
                        debug!(
                            flows = sweep.flows,
                            pending = sweep.pending,
                            forgotten = sweep.forgotten,
                            cpu_us = sweep.cost.cpu.as_micros(),
                            longest_slice_us = sweep.cost.longest_slice.as_micros(),
                            "swept the flow table"
                        );
                        if sweep.unfinished {
                            pause = Duration::ZERO;
                        }
                        swept(sweep);
                    }
                    Err(error) => warn!(%error, "cannot sweep the flow table"),
                }
                next_sweep = Instant::now() + pause;
            }
        }
    }

    fn note_cuts(&mut self, targets: &[TargetId]) {
        let at = Instant::now();
        self.cuts.retain(|cut| !targets.contains(&cut.target));
        self.cuts.extend(targets.iter().map(|&target| Cut {
            target,
            at,
            provoked: 0,
        }));
    }

    /// When segments are to be provoked next.
    fn next_provocation(&self) -> Option<Instant> {
        let due = |cut: &Cut| Some(cut.at + *PROVOKE_AFTER.get(cut.provoked)?);
        self.cuts.iter().filter_map(due).min()
    }

    fn provoke_due(&mut self) {
        let now = Instant::now();
        let mut due = BTreeMap::new();
        for cut in &mut self.cuts {
            if let Some(after) = PROVOKE_AFTER.get(cut.provoked)
                && now >= cut.at + *after
            {
                due.insert(cut.target, cut.provoked);
                cut.provoked += 1;
            }
        }
        if due.is_empty() {
            return;
        }
        match provoke::provoke(&self.table, &self.socket, &due) {
            Ok(provoked) => debug!(connections = provoked, "provoked segments after a cut"),
            Err(error) => warn!(%error, "cannot provoke segments after a cut"),
        }
    }

    /// The targets whose stale flows still wait for their reset. Forgets the
    /// cuts that are long done.
    fn recently_cut(&mut self) -> Vec<TargetId> {
        self.cuts.retain(|cut| cut.at.elapsed() < rest::STALE_REST);
        self.cuts.iter().map(|cut| cut.target).collect()
    }
}
