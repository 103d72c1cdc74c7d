//! Asks the servers how they are.
//!
//! One task per server. Each check runs on connections of its own, which are
//! never used again: a connection that is stuck tells nothing about the next.
//! Reports go to the engine as events; what they mean is decided there.
//!
//! When a server is checked: every `interval`, from the start of one check to
//! the start of the next; every `fast_interval` or `down_interval` while the
//! engine says so; at once, when it says that. At the start, the checks of all
//! servers are spread over their intervals.
//!
//! Beside the checks, each in a task of its own, where the configuration has
//! them: a question to the agent beside the server (`agent`), and a page
//! without end on which the server tells of changes by itself (`watch`).

mod agent;
mod check;
mod claim;
mod connect;
mod http;
mod schedule;
mod tcp;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch as channel};
use tokio::task::JoinSet;

use crate::config::{Config, Pool, PoolName, Server, ServerName};
use crate::engine::{Event, Pace};
use agent::AgentCheck;
use check::Check;
use connect::Ports;
use schedule::{Intervals, Schedule};
use watch::Watch;

/// A server of a pool.
type Name = (PoolName, ServerName);

/// The probes of all servers. They end when this is dropped.
#[derive(Debug)]
pub struct Probes {
    controls: BTreeMap<Name, Control>,
    _tasks: JoinSet<()>,
}

/// How one server's checks are controlled.
#[derive(Debug)]
struct Control {
    bell: Arc<Notify>,
    pace: channel::Sender<Pace>,
}

impl Probes {
    /// Starts probing every server of `config`, and reports to `events`.
    /// Has to be called within a Tokio runtime.
    #[must_use]
    pub fn start(config: &Config, events: &mpsc::Sender<Event>) -> Self {
        let mut controls = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let ports = Ports::outside(&config.snat.ports);
        let pools = config.pools.values();
        let servers = pools.flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)));
        let servers: Vec<(&Pool, &Server)> = servers.collect();
        let count = servers.len() as f64;
        for (index, (pool, server)) in servers.into_iter().enumerate() {
            let name = (pool.name.clone(), server.name.clone());
            let bell = Arc::new(Notify::new());
            let (pace, paced) = channel::channel(Pace::Normal);
            let share = index as f64 / count;
            let schedule = Schedule {
                name: name.clone(),
                intervals: Intervals {
                    normal: pool.check.interval,
                    fast: pool.check.fast_interval,
                    down: pool.check.down_interval,
                },
                share,
                check: Check::new(pool, server, ports),
                bell: Arc::clone(&bell),
                pace: paced,
                events: events.clone(),
            };
            tasks.spawn(schedule.run());
            if let Some(agent) = AgentCheck::new(pool, server, ports) {
                tasks.spawn(agent.run(name.clone(), share, events.clone()));
            }
            if let Some(watch) = Watch::new(pool, server, ports) {
                tasks.spawn(watch.run(name.clone(), events.clone()));
            }
            controls.insert(name, Control { bell, pace });
        }
        Self {
            controls,
            _tasks: tasks,
        }
    }

    /// Has a server checked at once, or again at once where a check is under
    /// way. Several requests before the check begins are one.
    pub fn check_now(&self, pool: &PoolName, server: &ServerName) {
        if let Some(control) = self.control(pool, server) {
            control.bell.notify_one();
        }
    }

    /// Has a server checked at another pace from now on.
    pub fn set_pace(&self, pool: &PoolName, server: &ServerName, pace: Pace) {
        if let Some(control) = self.control(pool, server) {
            control.pace.send_replace(pace);
        }
    }

    fn control(&self, pool: &PoolName, server: &ServerName) -> Option<&Control> {
        self.controls.get(&(pool.clone(), server.clone()))
    }
}
