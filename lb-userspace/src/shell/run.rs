//! The agent's loop: from the kernel, the probes and the operator to the
//! engine, and from the engine's actions back.
//!
//! The order at the start: whatever can refuse (the socket, the NIC, the
//! kernel) comes before whatever changes the host. At the end everything is
//! taken back; where a first start fails, the program is detached, and a VIP
//! that was added by then stays for the next agent. What a killed agent leaves
//! (pins, the VIPs) serves on, and the next agent adopts it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lb_common::target::TargetId;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::config::{Config, LoadError, Member, OnStop, PoolName};
use crate::engine::{Action, Agent, Event, Op, TICK};
use crate::shell::admin::{self, BindError, Query, Refusal, Socket};
use crate::shell::announce::Announcement;
use crate::shell::answer::Answers;
use crate::shell::counters::Counters;
use crate::shell::events;
use crate::shell::flows::{FlowTable, Keeper, Resets, Rests, Sweep};
use crate::shell::fullness;
use crate::shell::layers::Layers;
use crate::shell::load::{Datapath, OpenError};
use crate::shell::neighbours::{Followed, Neighbours, virtual_links};
use crate::shell::overrides::Store;
use crate::shell::probe::Probes;
use crate::shell::reload::{ReloadError, clock};
use crate::shell::tables::{Sources, TableError, Tables};
use crate::shell::wire::FrameSocket;

/// What the command line says beside the configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    /// Where the admin socket is.
    pub run_dir: PathBuf,
    /// The file that the configuration comes from.
    pub config_path: PathBuf,
    /// The NICs to attach to, instead of the file's. Empty: the file's.
    pub interfaces: Vec<String>,
}

impl RunOptions {
    /// What the file says, and the command line in its place.
    ///
    /// # Errors
    /// The file cannot be read, or is not valid.
    pub fn load(&self) -> Result<Config, LoadError> {
        let mut config = Config::load(&self.config_path)?;
        if !self.interfaces.is_empty() {
            config.interfaces.clone_from(&self.interfaces);
        }
        Ok(config)
    }

    /// Where overrides are kept.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::within(&self.run_dir)
    }
}

/// Why the agent stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The admin socket is not to be had.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The kernel's half is not to be had.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel's tables cannot be read or written. The data path goes on
    /// with what it knows; a restarted agent adopts it.
    #[error("the kernel's tables are out of reach")]
    Tables(#[from] TableError),
    /// The NIC was removed, and the program with it.
    #[error("the interface {0} is gone; start lb again when it is back")]
    InterfaceGone(String),
    /// The operating system refused something.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

fn io(action: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Io { action, source }
}

/// How many events may wait for the loop before their sources do.
const EVENTS_MAX: usize = 1024;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from running.
pub async fn run(file: Config, options: RunOptions) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(io("follow SIGTERM"))?;
    let hangup = signal(SignalKind::hangup()).map_err(io("follow SIGHUP"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("follow SIGINT"))?;
    let socket = Socket::bind(&options.run_dir.join(admin::SOCKET_NAME))?;
    let layers = Layers::load(file, &options);
    let virtual_links = virtual_links(&layers.file.interfaces).await;
    let config = layers.in_force(clock());
    let datapath = Datapath::open(&config, &virtual_links, &options.bpffs)?;
    let (queries, asked) = admin::queries();
    tokio::spawn(admin::serve(socket, queries));
    let (events, happened) = mpsc::channel(EVENTS_MAX);

    let abandon = datapath.abandonment();
    let mut balancer = match Balancer::start(layers, options, datapath, events).await {
        Ok(balancer) => balancer,
        Err(cause) => {
            abandon.carry_out();
            return Err(cause);
        }
    };
    let outcome = tokio::select! {
        outcome = balancer.serve(happened, asked, hangup) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    match outcome {
        Ok(()) => balancer.stop().await,
        Err(cause) => {
            error!("stopping, and leaving the data path as it is");
            return Err(cause);
        }
    }
    Ok(())
}

/// Everything that runs while the agent does.
pub(super) struct Balancer {
    pub(super) layers: Layers,
    /// The one in force: of all of them.
    pub(super) config: Config,
    /// Members that were told, and are not followed yet.
    pub(super) told: BTreeMap<PoolName, Vec<Member>>,
    pub(super) options: RunOptions,
    pub(super) agent: Agent,
    pub(super) tables: Tables,
    pub(super) keeper: Arc<Keeper>,
    pub(super) probes: Probes,
    pub(super) followed: watch::Sender<Followed>,
    counters: Counters,
    sweep: Arc<Mutex<Sweep>>,
    announcement: Announcement,
    datapath: Datapath,
}

impl Balancer {
    async fn start(
        layers: Layers,
        options: RunOptions,
        mut datapath: Datapath,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, RunError> {
        let config = layers.in_force(clock());
        let interface = datapath.interface().clone();
        let sources = Sources {
            addresses: config.snat.addresses.clone(),
            ports: config.snat.ports.clone(),
        };
        let mut tables = Tables::open(&mut datapath, &sources)?;
        let installed = tables.read_back()?;
        info!(
            interface = interface.name,
            hook = %datapath.hook,
            adopted = datapath.adopted,
            "the data path is up"
        );
        let adopted: Vec<TargetId> = installed.targets.keys().copied().collect();
        tables.refresh(&installed)?;
        let (agent, first) = Agent::new(config.clone(), installed, Instant::now());
        let frames = FrameSocket::open().map_err(io("open a packet socket"))?;
        let announcement = Announcement::begin(interface.clone());
        let mut announcement = announcement.map_err(io("announce the VIPs"))?;
        for action in &first {
            if let Action::Hold(vips) = action {
                let held = announcement.hold(vips).await;
                held.map_err(io("add the VIPs to the interface"))?;
            }
        }
        let (followed, follow) = watch::channel(Followed::of(&config));
        Neighbours::spawn(
            datapath.interfaces.clone(),
            follow,
            config.snat.addresses.clone(),
            events.clone(),
        )
        .map_err(io("follow routes and neighbours by netlink"))?;
        events::spawn(&mut datapath, events.clone())?;
        #[cfg(feature = "kernel-log")]
        if let Err(error) = events::print_kernel_log(&mut datapath) {
            warn!(%error, "the kernel program has no log");
        }
        let sweep = Arc::new(Mutex::new(Sweep::default()));
        let rests = rests(&config, &agent);
        let keeper = {
            let watch = fullness::Watch::new(Counters::open(&datapath)?);
            let swept = report_sweeps(Arc::clone(&sweep), events.clone(), watch);
            let resets = Resets::start(FlowTable::open(&mut datapath)?, frames);
            let resets = resets.map_err(io("start the thread that resets connections"))?;
            let table = FlowTable::open(&mut datapath)?;
            Keeper::start(table, resets, rests, adopted, swept)
                .map_err(io("start the keeper of the flow table"))?
        };
        let mut balancer = Self {
            agent,
            tables,
            keeper: Arc::new(keeper),
            probes: Probes::start(&config, &events).map_err(io("start the probes"))?,
            counters: Counters::open(&datapath)?,
            sweep,
            announcement,
            datapath,
            followed,
            options,
            config,
            layers,
            told: BTreeMap::new(),
        };
        balancer.carry_out(first).await?;
        Ok(balancer)
    }

    /// Handles events and queries. Ends with an error only.
    async fn serve(
        &mut self,
        mut happened: mpsc::Receiver<Event>,
        mut asked: mpsc::Receiver<Query>,
        mut hangup: Signal,
    ) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                Some(event) = happened.recv() => Some(event),
                () = self.probes.news() => None,
                Some(query) = asked.recv() => {
                    self.answer(query, &mut happened).await?;
                    continue;
                }
                Some(()) = hangup.recv() => {
                    // What is wrong with the file is in the log.
                    let _ = self.reload(&mut happened).await?;
                    continue;
                }
                _ = tick.tick() => {
                    if let Some(gone) = self.datapath.interfaces.iter().find(|i| !i.exists()) {
                        return Err(RunError::InterfaceGone(gone.name.clone()));
                    }
                    Some(Event::Tick)
                }
            };
            // What came while a plan was carried out makes one plan more, not
            // one each.
            let more = std::iter::from_fn(|| happened.try_recv().ok());
            let reports = self.probes.take_reports().into_iter();
            let events: Vec<Event> = reports.chain(event).chain(more).collect();
            let actions = self.agent.handle_all(Instant::now(), events);
            self.carry_out(actions).await?;
            self.follow(&mut happened).await?;
        }
    }

    pub(super) async fn carry_out(&mut self, actions: Vec<Action>) -> Result<(), RunError> {
        for action in actions {
            match action {
                Action::Apply(plan) => self.apply(&plan)?,
                Action::CheckNow { pool, server } => self.probes.check_now(&pool, &server),
                Action::Pace { pool, server, pace } => self.probes.set_pace(&pool, &server, pace),
                Action::Inquire { pool, server } => {
                    self.probes.inquire(&self.config, &pool, &server);
                }
                Action::Follow { pool, members } => {
                    self.told.insert(pool, members);
                }
                Action::Hold(vips) => {
                    if let Err(error) = self.announcement.hold(&vips).await {
                        error!(%error, "cannot add a VIP to the interface");
                    }
                }
                Action::Notice(notice) if notice.is_bad() => warn!("{notice}"),
                Action::Notice(notice) => info!("{notice}"),
            }
        }
        Ok(())
    }

    fn apply(&mut self, plan: &[Op]) -> Result<(), RunError> {
        let begun = Instant::now();
        for op in plan {
            self.tables.apply(op)?;
        }
        let took_us = begun.elapsed().as_micros();
        debug!(steps = plan.len(), took_us, "changed the tables");
        let cut = plan.iter().filter_map(|op| match op {
            Op::Cut { id } => Some(*id),
            _ => None,
        });
        let cut: Vec<_> = cut.collect();
        if !cut.is_empty() {
            self.keeper.reset(cut);
        }
        if plan.iter().any(|op| matches!(op, Op::SetService { .. })) {
            self.keeper.set_rests(rests(&self.config, &self.agent));
        }
        Ok(())
    }

    async fn answer(
        &mut self,
        query: Query,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Result<(), RunError> {
        let sweep = self
            .sweep
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answers = Answers {
            agent: &self.agent,
            config: &self.config,
            overrides: &self.layers.overrides,
            counters: &self.counters,
            datapath: &self.datapath,
            sweep: &sweep,
        };
        match query {
            // A client that has gone away is no error.
            Query::Status(reply) => drop(reply.send(Ok(answers.status()))),
            Query::Stats(reply) => drop(reply.send(answers.stats())),
            Query::Flows { filter, answer } => answers.flows(&self.keeper, filter, answer),
            Query::Reload(reply) => {
                let reloaded = self.reload(happened).await?;
                let refused = |error: ReloadError| Refusal::Invalid(error.to_string());
                drop(reply.send(reloaded.map_err(refused)));
            }
            Query::Change { change, answer } => {
                let changed = self.change(change, happened).await?;
                drop(answer.send(changed));
            }
        }
        Ok(())
    }

    /// Leaves the host as it was found, or the data path to the next agent.
    async fn stop(self) {
        drop(self.probes);
        match self.config.on_stop {
            OnStop::Detach => {
                info!("stopping: detaching the data path");
                self.layers.members.forget();
            }
            OnStop::Leave => {
                info!("stopping: the data path goes on; the next agent adopts it");
                return;
            }
        }
        // In this order: without the program, but with the VIP, the host's own
        // stack resets what clients still send.
        if let Err(error) = self.datapath.detach() {
            warn!(%error, "cannot remove all pins");
        }
        self.announcement.end().await;
    }
}

/// How long connections are remembered.
pub(super) fn rests(config: &Config, agent: &Agent) -> Rests {
    let installed = &agent.installed().services;
    let idle = config.services.values().filter_map(|service| {
        let entry = installed.get(&service.listen)?;
        Some((entry.id, service.idle_timeout))
    });
    Rests {
        timeouts: config.timeouts,
        idle: idle.collect(),
    }
}

/// Keeps the latest sweep for the API, and tells the engine of each, and the
/// log where the table is full.
fn report_sweeps(
    latest: Arc<Mutex<Sweep>>,
    events: mpsc::Sender<Event>,
    mut watch: fullness::Watch,
) -> impl FnMut(Sweep) + Send {
    move |sweep: Sweep| {
        watch.look(&sweep);
        let open = sweep.holding.clone();
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = sweep;
        // A full channel: the next sweep tells the same.
        let _ = events.try_send(Event::Swept { open });
    }
}
