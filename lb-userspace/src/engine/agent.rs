//! The whole of the decisions: events in, actions out.
//!
//! An [`Agent`] holds what is known (the pools, the ways to the servers) and
//! what the kernel's tables hold as a result of its own plans. After every
//! event it works out what they should hold by now and gives the difference
//! to the shell, which must apply it as it is: the agent takes every plan
//! that it gave out for done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::api::ServiceState;
use crate::config::{Config, PoolName, Route, ServerName, Service, ServiceName, room};
use crate::engine::action::{Action, Held, Notice};
use crate::engine::departures::Departures;
use crate::engine::desired::{self, Demand, NoRoom, Reachable};
use crate::engine::event::{BackendFailure, CheckReport, Event, NextHop, Role};
use crate::engine::installed::{Installed, Settings, TargetEntry};
use crate::engine::plan::{Op, plan};
use crate::engine::pool::{GRACE, Pool};
use crate::engine::{reload, route};

/// The configured services, by where they listen.
pub(super) type Listeners = BTreeMap<SocketAddr, ServiceName>;

/// What has to be known of a service as long as there are targets of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) listen: SocketAddr,
    pub(super) drain_timeout: Duration,
}

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
    pub(super) routes: BTreeMap<IpAddr, NextHop>,
    pub(super) listeners: Listeners,
    /// Where the installed services listen, and did as long as there are
    /// targets of theirs.
    pub(super) places: BTreeMap<ServiceId, Place>,
    /// Whether something happened that the tables may depend on.
    pub(super) stale: bool,
    demands: Option<Vec<Demand>>,
    pub(super) left_out: Vec<NoRoom>,
    /// What the shell was last told to have on the NIC.
    pub(super) vips: Option<Held>,
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
        let targets = installed.targets.values();
        let routes = targets.map(|target| (target.server.ip(), target.way));
        let mut agent = Self {
            pools: pools.collect(),
            listeners: reload::listeners(&config),
            routes: routes.collect(),
            departures: Departures::default(),
            serving: BTreeMap::new(),
            places: BTreeMap::new(),
            stale: true,
            demands: None,
            left_out: Vec::new(),
            vips: None,
            started: now,
            ticked: now,
            resumed: now,
            config,
            installed,
        };
        agent.note_places();
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
        self.handle_all(now, [event])
    }

    /// Takes in what happened since the last call, in its order, and says what
    /// to do about all of it: one plan, where the tables are to change.
    #[must_use]
    pub fn handle_all(
        &mut self,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
    ) -> Vec<Action> {
        let events = events.into_iter();
        let actions = events.flat_map(|event| self.take_in(now, event)).collect();
        self.conclude(now, actions)
    }

    fn take_in(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Checked {
                pool,
                server,
                report,
            } => self.check(now, &pool, &server, report),
            Event::Resolved { server, .. } if !self.has_server_at(server) => Vec::new(),
            Event::Resolved { server, route } => {
                self.stale |= self.routes.get(&server) != route.as_ref();
                match route {
                    Some(route) => self.routes.insert(server, route),
                    None => self.routes.remove(&server),
                };
                Vec::new()
            }
            Event::Watched {
                pool,
                server,
                report,
            } => self.in_pool(&pool, |pool| pool.watched(now, &server, report)),
            Event::Advised {
                pool,
                server,
                report,
            } => self.in_pool(&pool, |pool| pool.advised(now, &server, report)),
            Event::BackendFailed { id, failure } => self.fail(now, id, failure),
            Event::Swept { open } => {
                self.stale |= self.departures.swept(&open);
                Vec::new()
            }
            Event::Listed {
                pool,
                server,
                report,
            } => self.listed(now, &pool, &server, report),
            Event::Configured { config } => self.configure(now, *config),
            Event::Tick => self.expire(now),
        }
    }

    fn check(
        &mut self,
        now: Instant,
        pool: &PoolName,
        server: &ServerName,
        report: CheckReport,
    ) -> Vec<Action> {
        let known = self.pools.get_mut(pool);
        match known.and_then(|pool| pool.confirm(now, server, report)) {
            Some(news) => self.in_pool(pool, |pool| pool.report(now, server, news)),
            None => Vec::new(),
        }
    }

    /// Does something with a pool, and notes whether its servers stand
    /// otherwise then, or all of them were heard.
    fn in_pool(
        &mut self,
        name: &PoolName,
        change: impl FnOnce(&mut Pool) -> Vec<Action>,
    ) -> Vec<Action> {
        let Some(pool) = self.pools.get_mut(name) else {
            return Vec::new();
        };
        let look = |pool: &Pool| (pool.standings(), pool.sizes(), pool.is_opening());
        let before = look(pool);
        let actions = change(pool);
        self.stale |= look(pool) != before;
        actions
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
        let moved = self.pools.values_mut();
        let moved = moved.filter_map(|pool| pool.is_moved(now, resumed).then_some(&pool.name));
        let names: Vec<PoolName> = moved.cloned().collect();
        let pools = names.iter();
        let actions = pools.flat_map(|name| self.in_pool(name, |pool| pool.expire(now, resumed)));
        let mut actions: Vec<Action> = actions.collect();
        self.inquire(now, &mut actions);
        actions
    }

    fn fail(&mut self, now: Instant, id: TargetId, failure: BackendFailure) -> Vec<Action> {
        let Some(target) = self.installed.targets.get(&id).copied() else {
            return Vec::new();
        };
        let pool = self.owner(&target).map(|(service, _)| service.pool.clone());
        pool.map_or(Vec::new(), |pool| {
            self.in_pool(&pool, |pool| pool.failed(now, target.server, failure))
        })
    }

    /// Puts the way to the tables that we want by now in front of `actions`:
    /// packets come first.
    fn conclude(&mut self, now: Instant, mut actions: Vec<Action>) -> Vec<Action> {
        if !self.stale && !self.departures.are_due(now) {
            return actions;
        }
        let desired = self.draft(&mut actions);
        // A service that found no room may find the place of one that is gone.
        self.stale = self.left_out.iter().any(|(_, server)| server.is_none());
        let cuts = self.cuts(now);
        let ops = match &desired {
            Some(desired) => plan(&self.installed, desired, &cuts),
            None if cuts.is_empty() => Vec::new(),
            None => plan(&self.installed, &self.installed, &cuts),
        };
        for op in &ops {
            match op {
                Op::SetTarget { id, .. } => self.departures.install(*id),
                Op::ClearTarget { id } => self.departures.forget(*id),
                _ => {}
            }
            self.installed.apply(op);
        }
        if !ops.is_empty() {
            self.note_places();
            actions.insert(0, Action::Apply(ops));
        }
        self.settle_vips(&mut actions);
        actions
    }

    /// The tables that we want; `None` while nothing changed that they depend
    /// on, which is what most events come to.
    fn draft(&mut self, actions: &mut Vec<Action>) -> Option<Installed> {
        let demands = self.demands();
        let retired = self.retired();
        let complete = self.left_out.iter().all(|(_, server)| server.is_some());
        if self.demands.as_ref() == Some(&demands) && retired.is_empty() && complete {
            return None;
        }
        let places = self.places.iter();
        let former = places.map(|(&id, place)| (place.listen, id)).collect();
        let (desired, left_out) = desired::tables(&self.installed, &former, &demands, &retired);
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
        let usable: BTreeSet<SocketAddr> = usable.into_iter().collect();
        let configured = self.config.pools.get(&service.pool)?;
        let grain = room::grain(configured);
        let reachable = pool.members.iter().filter_map(|member| {
            let (server, advice) = (&member.server, &member.advice);
            let percent = advice.percent * pool.warmth(member) / 100;
            Some(Reachable {
                server: server.address,
                way: *self.routes.get(&server.address.ip())?,
                // Never 0, which only who is unusable would have.
                weight: (server.weight * grain * percent / 100).max(1),
                max_connections: advice.max_connections.unwrap_or(server.max_connections),
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
            half: room::half(service.route, service.algorithm, configured),
            reachable: reachable.collect(),
        })
    }

    /// The targets whose connections are to be cut now.
    fn cuts(&mut self, now: Instant) -> BTreeSet<TargetId> {
        let serving = self.serving();
        let mut departures = std::mem::take(&mut self.departures);
        let cuts = departures.settle(now, &serving, |id| self.fate(id));
        self.departures = departures;
        cuts
    }

    /// Targets that the configuration no longer has and no flow holds.
    fn retired(&self) -> BTreeSet<TargetId> {
        let serving = self.serving();
        let targets = self.installed.targets.keys().copied();
        let over = targets.filter(|&id| self.departures.is_over(id) && !serving.contains(&id));
        over.filter(|&id| self.names(id).is_none()).collect()
    }

    /// The targets in the slots of any service.
    fn serving(&self) -> BTreeSet<TargetId> {
        self.serving.values().flatten().copied().collect()
    }

    /// The service that a target belongs to, and that service's pool; none
    /// where it reaches its servers by another mode by now.
    pub(super) fn owner(&self, target: &TargetEntry) -> Option<(&Service, &Pool)> {
        let place = self.places.get(&target.service)?;
        let service = self.listeners.get(&place.listen)?;
        let service = self.config.services.get(service)?;
        if service.mode != target.mode {
            return None;
        }
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
