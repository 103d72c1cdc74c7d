//! The keeper of FLOWS and PENDING: a thread of its own, which counts, reaps
//! and lists connections, in slices, without ever stalling the agent; and another
//! one beside it, which resets those of targets that were cut off (`resets`).
//!
//! The kernel creates flows and never forgets an established one; forgetting
//! is decided in `rest`, and done by the kernel's reaper, so that what is open is
//! counted in one place.

mod list;
mod meter;
mod provoke;
mod resets;
mod rest;
mod surplus;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::target::TargetId;
use tokio::sync::oneshot;
use tracing::{debug, warn};

pub use list::{Connection, Filter, Listed, Order, State};
pub use meter::Cost;
pub use resets::Resets;
pub use rest::Rests;
pub use table::FlowTable;

/// From one sweep to the next.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

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
    Cut(Vec<TargetId>),
    List(Filter, oneshot::Sender<io::Result<Listed>>),
    Stop,
}

/// The way to the keeper.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    resets: Resets,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Rests(_) => "Rests",
            Self::Cut(_) => "Cut",
            Self::List(..) => "List",
            Self::Stop => "Stop",
        })
    }
}

impl Keeper {
    /// Starts the keeper of `table`. It hands every sweep to `swept`. The stale
    /// connections of `adopted` are reset first: an agent before us may have died
    /// before it did that.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        table: FlowTable,
        resets: Resets,
        rests: Rests,
        adopted: Vec<TargetId>,
        mut swept: impl FnMut(Sweep) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, inbox) = channel();
        let work = Work {
            table,
            rests,
            cuts: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || work.run(&inbox, &mut swept))?;
        let keeper = Self {
            commands,
            resets,
            thread: Some(thread),
        };
        keeper.reset(adopted);
        Ok(keeper)
    }

    /// How long connections are remembered from now on.
    pub fn set_rests(&self, rests: Rests) {
        self.tell(Command::Rests(rests));
    }

    /// Resets every connection of `targets`, which were cut off.
    pub fn reset(&self, targets: Vec<TargetId>) {
        self.tell(Command::Cut(targets.clone()));
        self.resets.provoke(targets);
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

struct Work {
    table: FlowTable,
    rests: Rests,
    /// When targets were cut off whose flows may not be gone yet.
    cuts: BTreeMap<TargetId, Instant>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Command>, swept: &mut impl FnMut(Sweep)) {
        let mut next_sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            match inbox.recv_timeout(next_sweep.saturating_duration_since(Instant::now())) {
                Ok(Command::Rests(rests)) => self.rests = rests,
                Ok(Command::Cut(targets)) => self.note_cuts(&targets),
                Ok(Command::List(filter, reply)) => {
                    let _ = reply.send(list::list(&self.table, &filter));
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
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
        self.cuts.extend(targets.iter().map(|&target| (target, at)));
    }

    /// The targets whose stale flows still wait for their reset. Forgets the
    /// cuts that are long done.
    fn recently_cut(&mut self) -> BTreeSet<TargetId> {
        self.cuts.retain(|_, at| at.elapsed() < rest::STALE_REST);
        self.cuts.keys().copied().collect()
    }
}
