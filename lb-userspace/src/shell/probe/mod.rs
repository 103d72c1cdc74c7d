//! Asks the servers how they are.
//!
//! One task per server. Each check runs on connections of its own, which are
//! never used again: a connection that is stuck tells nothing about the next.
//! Reports go to the engine as events; what they mean is decided there.
//!
//! When a server is checked: every `interval`, from the start of one check to
//! the start of the next. Faster (`schedule::fast_interval`: a quarter of
//! the interval, within 20 to 100 ms) while its last check failed, or while
//! its pool should have a leader and has none. At once, when the engine says
//! so. At the start, the checks of a pool are spread over the interval.

mod check;
mod claim;
mod connect;
mod http;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Config, PoolName, ServerName};
use crate::engine::{Event, Pace};
use check::Check;
use connect::Ports;
use schedule::Schedule;

/// The probes of all servers. They end when this is dropped.
#[derive(Debug)]
pub struct Probes {
    bells: BTreeMap<(PoolName, ServerName), Arc<Notify>>,
    paces: BTreeMap<PoolName, watch::Sender<Pace>>,
    _tasks: JoinSet<()>,
}

impl Probes {
    /// Starts probing every server of `config`, and reports to `events`.
    /// Has to be called within a Tokio runtime.
    #[must_use]
    pub fn start(config: &Config, events: &mpsc::Sender<Event>) -> Self {
        let mut bells = BTreeMap::new();
        let mut paces = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let ports = Ports::outside(&config.snat.ports);
        for pool in config.pools.values() {
            let (pace, paced) = watch::channel(Pace::Normal);
            paces.insert(pool.name.clone(), pace);
            for (index, server) in pool.servers.iter().enumerate() {
                let bell = Arc::new(Notify::new());
                bells.insert((pool.name.clone(), server.name.clone()), Arc::clone(&bell));
                let schedule = Schedule {
                    pool: pool.name.clone(),
                    server: server.name.clone(),
                    interval: pool.check.interval,
                    position: (index, pool.servers.len()),
                    check: Check::new(pool, server, ports),
                    bell,
                    pace: paced.clone(),
                    events: events.clone(),
                };
                tasks.spawn(schedule.run());
            }
        }
        Self {
            bells,
            paces,
            _tasks: tasks,
        }
    }

    /// Has a server checked at once, or again at once where a check is under
    /// way. Several requests before the check begins are one.
    pub fn check_now(&self, pool: &PoolName, server: &ServerName) {
        if let Some(bell) = self.bells.get(&(pool.clone(), server.clone())) {
            bell.notify_one();
        }
    }

    /// Has the servers of a pool checked at another pace from now on.
    pub fn set_pace(&self, pool: &PoolName, pace: Pace) {
        if let Some(sender) = self.paces.get(pool) {
            sender.send_replace(pace);
        }
    }
}
