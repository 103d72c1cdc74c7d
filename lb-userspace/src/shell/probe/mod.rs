//! Asks the servers how they are.
//!
//! Each check runs in a task of its own (`rota`), on connections of its own, which are
//! never used again: a connection that is stuck tells nothing about the next.
//! Reports go to the engine as events (`reports`); what they mean is decided there.
//!
//! When a server is checked (`schedule`): every `interval`, from the start of one check to
//! the start of the next; every `fast_interval` or `down_interval` while the
//! engine says so; at once, when it says that. At the start, the checks of all
//! servers are spread over their intervals.
//!
//! Where the configuration changes, the probes of a server that is asked the same
//! as before go on.
//!
//! Beside the checks, each in a task of its own, where the configuration has
//! them: a question to the agent beside the server (`agent`), and a page
//! without end on which the server tells of changes by itself (`watch`).
//!
//! All tasks share one thread, which has nothing else to do: a task that goes
//! on wakes no other thread, and the checks of one beat (`schedule`) are one
//! wake-up.

mod agent;
mod check;
mod claim;
mod connect;
mod discover;
mod http;
mod reports;
mod rota;
mod schedule;
mod tcp;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::{io, thread};

use tokio::runtime::{self, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{self, Config, Pool, PoolName, RoleCheck, Server, ServerName};
use crate::engine::{Event, Pace};
use agent::AgentCheck;
use check::{Check, Questions};
use connect::Ports;
use discover::Inquiry;
use reports::Reports;
use rota::{Place, Rota, Subject};
use schedule::{Intervals, Schedule};
use watch::Watch;

/// A server of a pool.
type Name = (PoolName, ServerName);

/// The probes of all servers. They end when this is dropped.
#[derive(Debug)]
pub struct Probes {
    running: BTreeMap<Name, Running>,
    rota: Rota,
    thread: Handle,
    /// Dropped, it ends the thread.
    _end: oneshot::Sender<()>,
    ports: Ports,
    reports: Arc<Reports>,
    events: mpsc::Sender<Event>,
}

/// How one server is probed.
#[derive(Debug)]
struct Running {
    asked: Asked,
    checks: Place,
    /// What it is asked beside.
    tasks: JoinSet<()>,
}

/// What a server is asked, and where.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    check: config::Check,
    role: Option<RoleCheck>,
    address: SocketAddr,
    check_address: SocketAddr,
    agent_address: Option<SocketAddr>,
}

impl Asked {
    fn of(pool: &Pool, server: &Server) -> Self {
        Self {
            check: pool.check.clone(),
            role: pool.role.clone(),
            address: server.address,
            check_address: server.check_address,
            agent_address: server.agent_address,
        }
    }
}

impl Probes {
    /// Starts probing every server of `config`. Reports of checks are to be taken;
    /// what else is heard is told to `events`.
    ///
    /// # Errors
    /// There is no thread or no epoll instance to be had.
    pub fn start(config: &Config, events: &mpsc::Sender<Event>) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("probes".to_owned())
            // What comes is an error: the other end was dropped.
            .spawn(move || runtime.block_on(async { drop(ended.await) }))?;
        let reports = Arc::default();
        let mut this = Self {
            running: BTreeMap::new(),
            rota: Rota::start(&handle, Arc::clone(&reports)),
            thread: handle,
            _end: end,
            ports: Ports::outside(&config.snat.ports),
            reports,
            events: events.clone(),
        };
        this.begin(config);
        Ok(this)
    }

    /// Ends the probes of servers that `config` does not have, or asks something
    /// else. None of them reports after this, or tells of anything.
    pub async fn retire(&mut self, config: &Config) {
        let wanted: BTreeMap<Name, Asked> = servers(config)
            .map(|(pool, server)| (name(pool, server), Asked::of(pool, server)))
            .collect();
        let retired = |name: &Name, running: &mut Running| wanted.get(name) != Some(&running.asked);
        let retired = self.running.extract_if(.., retired);
        let mut retired: Vec<Running> = retired.map(|(_, running)| running).collect();
        let checks = retired.iter().map(|running| running.checks).collect();
        self.rota.remove(checks).await;
        for running in &mut retired {
            running.tasks.shutdown().await;
        }
    }

    /// Starts probing the servers of `config` that are not probed yet, spread
    /// over their intervals.
    pub fn begin(&mut self, config: &Config) {
        let new = servers(config).filter(|(pool, server)| {
            let name = name(pool, server);
            !self.running.contains_key(&name)
        });
        let new: Vec<(&Pool, &Server)> = new.collect();
        let count = new.len() as f64;
        let epoch = Instant::now();
        let mut questions: BTreeMap<&PoolName, Arc<Questions>> = BTreeMap::new();
        for (index, (pool, server)) in new.into_iter().enumerate() {
            let questions = questions
                .entry(&pool.name)
                .or_insert_with(|| Arc::new(Questions::of(pool, self.ports)));
            let check = Check::new(server, questions);
            let running = self.probe(pool, server, check, epoch, index as f64 / count);
            self.running.insert(name(pool, server), running);
        }
    }

    fn probe(
        &mut self,
        pool: &Pool,
        server: &Server,
        check: Check,
        epoch: Instant,
        share: f64,
    ) -> Running {
        let (ports, events) = (self.ports, &self.events);
        let name = name(pool, server);
        let intervals = Intervals {
            normal: pool.check.interval,
            fast: pool.check.fast_interval,
            down: pool.check.down_interval,
        };
        let checks = self.rota.add(Subject::new(
            name.clone(),
            check,
            Schedule::new(intervals, epoch, share),
            pool.check.rise,
        ));
        let mut tasks = JoinSet::new();
        if let Some(agent) = AgentCheck::new(pool, server, ports) {
            let agent = agent.run(name.clone(), share, events.clone());
            tasks.spawn_on(agent, &self.thread);
        }
        if let Some(watch) = Watch::new(pool, server, ports) {
            tasks.spawn_on(watch.run(name, events.clone()), &self.thread);
        }
        Running {
            asked: Asked::of(pool, server),
            checks,
            tasks,
        }
    }

    /// Comes back when a check may have found news.
    pub async fn news(&self) {
        self.reports.news().await;
    }

    /// What checks found since this was last asked for.
    #[must_use]
    pub fn take_reports(&self) -> Vec<Event> {
        self.reports.take()
    }

    /// Has a server checked at once, or again at once where a check is under
    /// way. Several requests before the check begins are one.
    pub fn check_now(&self, pool: &PoolName, server: &ServerName) {
        if let Some(running) = self.running(pool, server) {
            self.rota.check_now(running.checks);
        }
    }

    /// Has a server checked at another pace from now on.
    pub fn set_pace(&self, pool: &PoolName, server: &ServerName, pace: Pace) {
        if let Some(running) = self.running(pool, server) {
            self.rota.set_pace(running.checks, pace);
        }
    }

    /// Asks a server for the cluster's members. Ends with the server's probes.
    pub fn inquire(&mut self, config: &Config, pool: &PoolName, server: &ServerName) {
        let (ports, events) = (self.ports, self.events.clone());
        let found = servers(config).find(|(one, other)| one.name == *pool && other.name == *server);
        let inquiry = found.and_then(|(pool, server)| Inquiry::new(pool, server, ports));
        let running = self.running.get_mut(&(pool.clone(), server.clone()));
        let (Some(inquiry), Some(running)) = (inquiry, running) else {
            return;
        };
        // A set keeps those that have ended until somebody asks.
        while running.tasks.try_join_next().is_some() {}
        let (pool, server) = (pool.clone(), server.clone());
        running.tasks.spawn(async move {
            let report = inquiry.run().await;
            let listed = Event::Listed {
                pool,
                server,
                report,
            };
            // The loop is gone: so is whoever wanted to know.
            let _ = events.send(listed).await;
        });
    }

    fn running(&self, pool: &PoolName, server: &ServerName) -> Option<&Running> {
        self.running.get(&(pool.clone(), server.clone()))
    }
}

fn servers(config: &Config) -> impl Iterator<Item = (&Pool, &Server)> {
    let pools = config.pools.values();
    pools.flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)))
}

fn name(pool: &Pool, server: &Server) -> Name {
    (pool.name.clone(), server.name.clone())
}
