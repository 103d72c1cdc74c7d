//! The whole of the decisions: events in, actions out.
//!
//! An [`Agent`] holds what is known (the pools, the ways to the servers) and
//! what the kernel's tables hold as a result of its own plans. After every
//! event it works out what they should hold by now and gives the difference
//! to the shell, which must apply it as it is: the agent takes every plan
//! that it gave out for done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use lb_common::target::TargetId;

use crate::api::ServiceState;
use crate::config::{
    Config, OnChange, OnDown, PoolName, Route, ServerName, Service, ServiceName, room,
};
use crate::engine::action::{Action, Notice};
use crate::engine::departures::{Departures, Fate};
use crate::engine::desired::{self, Demand, NoRoom, Reachable};
use crate::engine::event::{Event, NextHop, Role};
use crate::engine::health::Phase;
use crate::engine::installed::{Installed, Settings, TargetEntry};
use crate::engine::plan::{Op, plan};
use crate::engine::pool::{GRACE, Pool};
use crate::engine::route;

/// Decides what the balancer does.
#[derive(Clone, Debug)]
pub struct Agent {
    pub(super) config: Config,
    pub(super) started: Instant,
    pub(super) pools: BTreeMap<PoolName, Pool>,
    pub(super) installed: Installed,
    pub(super) departures: Departures,
    /// The targets in the slots of each service.
    pub(super) serving: BTreeMap<SocketAddr, BTreeSet<TargetId>>,
    routes: BTreeMap<IpAddr, NextHop>,
    listeners: BTreeMap<SocketAddr, ServiceName>,
    demands: Option<Vec<Demand>>,
    left_out: Vec<NoRoom>,
    ticked: Instant,
    resumed: Instant,
}

impl Agent {
    /// An agent for `config` that takes over the tables in `installed`.
    ///
    /// Servers in installed slots count as UP, and the one in a write slot as
    /// the leader, until their own checks say otherwise: a restart of the
    /// agent moves no packet.
    #[must_use]
    pub fn new(config: Config, installed: Installed, now: Instant) -> (Self, Vec<Action>) {
        let pools = config
            .pools
            .values()
            .map(|pool| (pool.name.clone(), Pool::new(pool, now)));
        let listeners = config
            .services
            .values()
            .map(|service| (service.listen, service.name.clone()));
        let targets = installed.targets.values();
        let routes = targets.map(|target| (target.server.ip(), target.way));
        let mut agent = Self {
            pools: pools.collect(),
            listeners: listeners.collect(),
            routes: routes.collect(),
            departures: Departures::default(),
            serving: BTreeMap::new(),
            demands: None,
            left_out: Vec::new(),
            started: now,
            ticked: now,
            resumed: now,
            config,
            installed,
        };
        agent.adopt();
        let mut actions = Vec::new();
        for pool in agent.pools.values_mut() {
            pool.settle(now, None, &mut actions);
        }
        let actions = agent.conclude(now, actions);
        (agent, actions)
    }

    /// Takes in one event, and says what to do about it.
    #[must_use]
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let actions = match event {
            Event::Checked {
                pool,
                server,
                report,
            } => {
                let pool = self.pools.get_mut(&pool);
                pool.map_or(Vec::new(), |pool| pool.report(now, &server, report))
            }
            Event::Resolved { server, route } => {
                match route {
                    Some(route) => self.routes.insert(server, route),
                    None => self.routes.remove(&server),
                };
                Vec::new()
            }
            Event::BackendRefused { id } => self.suspect(id),
            Event::Swept { open } => {
                self.departures.swept(&open);
                Vec::new()
            }
            Event::Tick => self.expire(now),
        };
        self.conclude(now, actions)
    }

    /// What the kernel's tables hold, or will as soon as every plan that was
    /// given out is applied.
    #[must_use]
    pub const fn installed(&self) -> &Installed {
        &self.installed
    }

    /// The service and the server of a target; `None` where the configuration
    /// no longer has them, or the target does not exist.
    #[must_use]
    pub fn names(&self, id: TargetId) -> Option<(&ServiceName, &ServerName)> {
        let target = self.installed.targets.get(&id)?;
        let (service, pool) = self.owner(target)?;
        let mut members = pool.members.iter();
        let member = members.find(|member| member.server.address == target.server)?;
        Some((&service.name, &member.server.name))
    }

    /// Believes the tables that were installed before us.
    fn adopt(&mut self) {
        self.departures
            .adopt(self.installed.targets.keys().copied());
        for service in self.config.services.values() {
            let Some(pool) = self.pools.get_mut(&service.pool) else {
                continue;
            };
            // A table of the wrong kind was made for another route: what it
            // says about roles does not hold for this one.
            let led = self.installed.writer_of(service.listen).is_some();
            let fits = led == (service.route == Route::Leader);
            let role = match service.route {
                _ if !fits => Role::Unknown,
                Route::Leader => Role::Leader,
                Route::Replicas | Route::ReplicasFirst => Role::Replica,
                Route::Any => Role::Unknown,
            };
            for id in self.installed.selectable(service.listen) {
                if let Some(target) = self.installed.targets.get(&id) {
                    pool.adopt(target.server, role);
                }
            }
            self.serving
                .insert(service.listen, self.installed.selectable(service.listen));
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<Action> {
        // A gap between ticks is a stall of our own, during which probes
        // could not report either: they get as much time again.
        if now.saturating_duration_since(self.ticked) > GRACE {
            self.resumed = now;
        }
        self.ticked = now;
        let resumed = self.resumed;
        let pools = self.pools.values_mut();
        pools.flat_map(|pool| pool.expire(now, resumed)).collect()
    }

    fn suspect(&mut self, id: TargetId) -> Vec<Action> {
        let Some(target) = self.installed.targets.get(&id).copied() else {
            return Vec::new();
        };
        let pool = self.owner(&target).map(|(service, _)| service.pool.clone());
        let pool = pool.and_then(|pool| self.pools.get_mut(&pool));
        pool.map_or(Vec::new(), |pool| pool.suspect(target.server))
    }

    /// Puts the way to the tables that we want by now in front of `actions`:
    /// packets come first.
    fn conclude(&mut self, now: Instant, mut actions: Vec<Action>) -> Vec<Action> {
        let desired = self.draft(&mut actions);
        let cuts = self.cuts(now);
        let ops = match &desired {
            Some(desired) => plan(&self.installed, desired, &cuts),
            None if cuts.is_empty() => Vec::new(),
            None => plan(&self.installed, &self.installed, &cuts),
        };
        for op in &ops {
            if let Op::ClearTarget { id } = op {
                self.departures.forget(*id);
            }
            self.installed.apply(op);
        }
        if !ops.is_empty() {
            actions.insert(0, Action::Apply(ops));
        }
        actions
    }

    /// The tables that we want; `None` while nothing changed that they depend
    /// on, which is what most events come to.
    fn draft(&mut self, actions: &mut Vec<Action>) -> Option<Installed> {
        let demands = self.demands();
        let retired = self.retired();
        if self.demands.as_ref() == Some(&demands) && retired.is_empty() {
            return None;
        }
        let (desired, left_out) = desired::tables(&self.installed, &demands, &retired);
        self.demands = Some(demands);
        for &(listen, server) in left_out.iter().filter(|one| !self.left_out.contains(one)) {
            if let Some(service) = self.listeners.get(&listen).cloned() {
                actions.push(Action::Notice(Notice::NoRoom { service, server }));
            }
        }
        self.left_out = left_out;
        for (&listen, service) in &self.listeners {
            let serving = desired.selectable(listen);
            let before = self
                .serving
                .insert(listen, serving.clone())
                .unwrap_or_default();
            if before.is_empty() != serving.is_empty() {
                let (service, state) = (service.clone(), state(&serving));
                actions.push(Action::Notice(Notice::Service { service, state }));
            }
        }
        Some(desired)
    }

    fn demands(&self) -> Vec<Demand> {
        let services = self.config.services.values();
        services
            .filter_map(|service| self.demand(service))
            .collect()
    }

    fn demand(&self, service: &Service) -> Option<Demand> {
        let pool = self.pools.get(&service.pool)?;
        let mut standings = pool.standings();
        standings.retain(|one| self.routes.contains_key(&one.server.ip()));
        let usable = route::choose(service.route, &standings);
        let servers = &self.config.pools.get(&service.pool)?.servers;
        let reachable = servers.iter().filter_map(|server| {
            Some(Reachable {
                server: server.address,
                way: *self.routes.get(&server.address.ip())?,
                weight: server.weight,
                max_connections: server.max_connections,
                usable: usable.contains(&server.address),
            })
        });
        Some(Demand {
            listen: service.listen,
            route: service.route,
            settings: Settings {
                algorithm: service.algorithm,
                affinity: service.affinity,
                max_connections: service.max_connections,
                on_no_target: service.on_no_target,
                on_full: service.on_full,
                source: service.source,
                rules: service.unmatched(),
            },
            mode: service.mode,
            rules: service.rules.clone(),
            half: room::half(service.route, service.algorithm, servers),
            reachable: reachable.collect(),
        })
    }

    /// The targets whose connections are to be cut now.
    fn cuts(&mut self, now: Instant) -> BTreeSet<TargetId> {
        let serving: BTreeSet<TargetId> = self.serving.values().flatten().copied().collect();
        let mut departures = std::mem::take(&mut self.departures);
        let cuts = departures.settle(now, &serving, |id| self.fate(id));
        self.departures = departures;
        cuts
    }

    /// What becomes of the connections of a target that is in no slot.
    fn fate(&self, id: TargetId) -> Fate {
        let Some(target) = self.installed.targets.get(&id) else {
            return Fate::Keep;
        };
        // Gone from the configuration: its connections may end in peace.
        let Some((service, pool)) = self.owner(target) else {
            return Fate::Drain;
        };
        let standings = pool.standings();
        let Some(standing) = standings.iter().find(|one| one.server == target.server) else {
            return Fate::Drain;
        };
        let changed = match service.on_change {
            OnChange::Reset => Fate::Cut,
            OnChange::Drain => Fate::Drain,
            OnChange::Keep => Fate::Keep,
        };
        let down = match service.on_down {
            OnDown::Reset => Fate::Cut,
            OnDown::Drain => Fate::Drain,
            OnDown::Keep => Fate::Keep,
        };
        if route::choose(service.route, &standings).contains(&target.server) {
            // Only the way to it is lost, and may come back.
            return Fate::Keep;
        }
        match (service.route, standing.phase) {
            // Whatever else it is, it is the leader no more.
            (Route::Leader, Phase::Down { .. }) => changed.max(down),
            (Route::Leader, Phase::Unchecked | Phase::Up { .. }) => changed,
            (_, Phase::Down { .. }) => down,
            (_, Phase::Up { .. }) => changed,
            (_, Phase::Unchecked) => Fate::Keep,
        }
    }

    /// Targets that the configuration no longer has and no flow holds.
    fn retired(&self) -> BTreeSet<TargetId> {
        let serving = |id| self.serving.values().any(|serving| serving.contains(id));
        let targets = self.installed.targets.keys();
        targets
            .filter(|id| {
                self.departures.is_over(**id) && !serving(id) && self.names(**id).is_none()
            })
            .copied()
            .collect()
    }

    /// The service that a target belongs to, and that service's pool.
    pub(super) fn owner(&self, target: &TargetEntry) -> Option<(&Service, &Pool)> {
        let mut services = self.installed.services.iter();
        let (listen, _) = services.find(|(_, service)| service.id == target.service)?;
        let service = self.config.services.get(self.listeners.get(listen)?)?;
        Some((service, self.pools.get(&service.pool)?))
    }
}

/// Whether a service with these targets takes connections.
pub(super) fn state(serving: &BTreeSet<TargetId>) -> ServiceState {
    if serving.is_empty() {
        ServiceState::NoTarget
    } else {
        ServiceState::Serving
    }
}
