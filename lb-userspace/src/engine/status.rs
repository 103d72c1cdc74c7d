//! What the agent believes, in the words of the admin API.

use std::time::{Duration, Instant};

use crate::api::{
    CheckStatus, DrainingStatus, PoolStatus, Role, ServerStatus, ServiceStatus, Status,
    TargetStatus,
};
use crate::config::Service;
use crate::engine::agent::{self, Agent};
use crate::engine::member::Member;
use crate::engine::pool::Pool;
use crate::engine::warmth::Warmth;
use crate::engine::why;

impl Agent {
    /// Everything that the agent believes at `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interface: self.config.interfaces.join(", "),
            hook: self.config.hook,
            pid: std::process::id(),
            uptime_ms: milliseconds(now.saturating_duration_since(self.started)),
            services: self
                .config
                .services
                .values()
                .map(|service| self.service(service))
                .collect(),
            pools: self
                .pools
                .values()
                .map(|pool| self.pool(pool, now))
                .collect(),
            draining: self.draining(now),
            overrides: Vec::new(),
        }
    }

    fn draining(&self, now: Instant) -> Vec<DrainingStatus> {
        let draining = self.departures.draining().filter_map(|(id, at)| {
            let target = self.installed.targets.get(&id)?;
            let owner = self.owner(target);
            let pool = owner.map(|(_, pool)| pool.name.clone());
            let place = self.places.get(&target.service);
            let (service, server) = match (owner, self.names(id)) {
                (_, Some((service, server))) => (Some(service.clone()), Some(server.clone())),
                (Some((service, _)), None) => (Some(service.name.clone()), None),
                (None, None) => (place.map(|place| place.listen.to_string().into()), None),
            };
            Some(DrainingStatus {
                id: id.0,
                // An agent before us knew where the service was.
                service: service.unwrap_or_else(|| "-".into()),
                server: server.unwrap_or_else(|| target.server.to_string().into()),
                pool,
                address: target.server,
                connections: self.departures.open(id),
                reset_in_ms: milliseconds(at.saturating_duration_since(now)),
            })
        });
        draining.collect()
    }

    fn service(&self, service: &Service) -> ServiceStatus {
        let serving = self
            .serving
            .get(&service.listen)
            .cloned()
            .unwrap_or_default();
        let mut targets: Vec<TargetStatus> = serving
            .iter()
            .filter_map(|&id| {
                let (_, server) = self.names(id)?;
                Some(TargetStatus {
                    id: id.0,
                    server: server.clone(),
                    address: self.installed.targets.get(&id)?.server,
                    connections: self.departures.open(id),
                })
            })
            .collect();
        targets.sort_by(|a, b| a.server.cmp(&b.server));
        ServiceStatus {
            name: service.name.clone(),
            listen: service.listen,
            route: service.route,
            algorithm: service.algorithm,
            mode: service.mode,
            pool: service.pool.clone(),
            state: agent::state(&serving),
            targets,
        }
    }

    /// What the cluster told of its members, where the pool follows that.
    fn followed(&self, pool: &Pool, now: Instant) -> Option<String> {
        let configured = self.config.pools.get(&pool.name)?;
        configured.discover.as_ref()?;
        Some(pool.discovery.describe(now))
    }

    fn pool(&self, pool: &Pool, now: Instant) -> PoolStatus {
        let leader = pool.leader();
        let servers = pool.members.iter().map(|member| {
            let mut status = server(member, now);
            status.lagging = pool.is_lagging(member);
            status.warmth = pool.warmth(member);
            status.why = why::explain(self, pool, member, now);
            status
        });
        PoolStatus {
            name: pool.name.clone(),
            leader: leader.map(|(member, _)| member.server.name.clone()),
            term: leader.and_then(|(_, term)| term),
            problem: pool.problem(),
            members: self.followed(pool, now),
            servers: servers.collect(),
        }
    }
}

fn server(member: &Member, now: Instant) -> ServerStatus {
    let ago = |then: Instant| milliseconds(now.saturating_duration_since(then));
    ServerStatus {
        name: member.server.name.clone(),
        address: member.server.address,
        check_address: member.server.check_address,
        weight: member.server.weight,
        backup: member.server.backup,
        warmth: Warmth::FULL,
        state: member.state(),
        role: member.said.as_ref().map_or(Role::Unknown, |said| said.role),
        term: member.said.as_ref().and_then(|said| said.term),
        check: member.check.as_ref().map(|(report, at)| CheckStatus {
            code: report.outcome.code().to_owned(),
            detail: report.detail.clone(),
            took_ms: milliseconds(report.took),
            ago_ms: ago(*at),
        }),
        since_ms: ago(member.since),
        lag: member.lag,
        lagging: false,
        agent: member.server.agent_address.map(|_| {
            member
                .agent_trouble
                .clone()
                .unwrap_or(member.advice.to_string())
        }),
        why: Vec::new(),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
