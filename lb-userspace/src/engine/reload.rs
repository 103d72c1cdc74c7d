//! Another configuration, while the agent runs.
//!
//! What is the same in both keeps all that is known about it. A server that is
//! gone gets no new connections, and those that it has are drained; so are the
//! connections of a service that is gone, and its VIP stays on the NIC until
//! none of them is left.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use lb_common::service::ServiceId;

use crate::config::{Config, Member, PoolName, ServerName, Service, Vips};
use crate::engine::action::{Action, Held, Notice, Others};
use crate::engine::agent::{Agent, Place};
use crate::engine::member;
use crate::engine::pool::Pool;

impl Agent {
    /// Goes on as `config` says from now on.
    pub(super) fn configure(&mut self, now: Instant, config: Config) -> Vec<Action> {
        let mut actions = Vec::new();
        self.pools.retain(|name, _| config.pools.contains_key(name));
        for pool in config.pools.values() {
            if let Some(known) = self.pools.get_mut(&pool.name) {
                actions.extend(known.reconfigure(now, pool));
            } else {
                let mut new = Pool::new(pool, now);
                new.settle(now, None, &mut actions);
                self.pools.insert(pool.name.clone(), new);
            }
        }
        self.config = config;
        self.listeners = listeners(&self.config);
        self.serving
            .retain(|listen, _| self.listeners.contains_key(listen));
        self.left_out.clear();
        let servers = addresses(&self.config);
        self.routes.retain(|address, _| servers.contains(address));
        self.note_places();
        self.stale = true;
        actions
    }

    /// Asks the leaders of pools that follow their cluster's list, as often as
    /// the configuration says.
    pub(super) fn inquire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (name, pool) in &mut self.pools {
            let configured = self.config.pools.get(name);
            let Some(discover) = configured.and_then(|pool| pool.discover.as_ref()) else {
                continue;
            };
            let leader = pool.leader().map(|(leader, _)| leader.server.name.clone());
            let Some(server) = leader else { continue };
            if pool.discovery.is_due(now, &server, discover.interval) {
                let pool = name.clone();
                actions.push(Action::Inquire { pool, server });
            }
        }
    }

    /// Takes in whom a server lists. Only who leads is believed: the list of one
    /// that was cut off is an old one.
    pub(super) fn listed(
        &mut self,
        now: Instant,
        name: &PoolName,
        teller: &ServerName,
        report: Result<Vec<Member>, String>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(pool) = self.pools.get_mut(name) else {
            return actions;
        };
        let leads = |(leader, _): (&member::Member, _)| leader.server.name == *teller;
        if !pool.leader().is_some_and(leads) {
            return actions;
        }
        let admitted = report.and_then(|members| {
            self.config.admits(name, &members)?;
            Ok(members)
        });
        let trouble = admitted.as_ref().err().cloned();
        if pool.discovery.hear(now, teller, trouble.clone()) {
            let pool = name.clone();
            actions.push(Action::Notice(Notice::Unlisted { pool, trouble }));
        }
        let Ok(members) = admitted else {
            return actions;
        };
        // Where the file or an operator has it otherwise than the list, they
        // always differ; whoever follows knows what was told before.
        let servers = pool.members.iter().map(|member| &member.server);
        let has: BTreeSet<_> = servers
            .map(|one| (one.address, one.check_address))
            .collect();
        let lists: BTreeSet<_> = members.iter().map(Member::place).collect();
        if has != lists {
            let pool = name.clone();
            actions.push(Action::Follow { pool, members });
        }
        actions
    }

    /// Whether a server of the configuration has this address.
    pub(super) fn has_server_at(&self, address: IpAddr) -> bool {
        let mut servers = self.config.pools.values().flat_map(|pool| &pool.servers);
        servers.any(|server| server.address.ip() == address)
    }

    /// Notes where services listen, also those that are gone as long as there
    /// are targets of theirs.
    pub(super) fn note_places(&mut self) {
        let targets = self.installed.targets.values();
        let bearers: BTreeSet<ServiceId> = targets.map(|target| target.service).collect();
        self.places.retain(|id, _| bearers.contains(id));
        for (&listen, entry) in &self.installed.services {
            let name = self.listeners.get(&listen);
            let service = name.and_then(|name| self.config.services.get(name));
            let before = self.places.get(&entry.id).map(|place| place.drain_timeout);
            let drain_timeout = service.map(|service| service.drain_timeout);
            let drain_timeout = drain_timeout.or(before).unwrap_or(Service::DRAIN_TIMEOUT);
            let place = Place {
                listen,
                drain_timeout,
            };
            self.places.insert(entry.id, place);
        }
    }

    /// Tells which VIPs the NIC should hold, where that has changed.
    pub(super) fn settle_vips(&mut self, actions: &mut Vec<Action>) {
        let installed = self.installed.services.values();
        let present: BTreeSet<ServiceId> = installed.map(|entry| entry.id).collect();
        let mut targets = self.installed.targets.values();
        let vips = Held {
            wanted: match self.config.vips {
                Vips::Managed => self.listeners.keys().map(|listen| listen.ip()).collect(),
                Vips::External => BTreeSet::new(),
            },
            others: match targets.all(|target| present.contains(&target.service)) {
                true => Others::Go,
                false => Others::Stay,
            },
        };
        if self.vips.as_ref() != Some(&vips) {
            self.vips = Some(vips.clone());
            actions.push(Action::Hold(vips));
        }
    }
}

/// The services by where they listen.
pub(super) fn listeners(config: &Config) -> super::agent::Listeners {
    let services = config.services.values();
    services
        .map(|service| (service.listen, service.name.clone()))
        .collect()
}

/// Where the servers are.
fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    let servers = config.pools.values().flat_map(|pool| &pool.servers);
    servers.map(|server| server.address.ip()).collect()
}
