//! Reads `[service.NAME]`: a listener, where its connections go, and whom it
//! refuses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::file::CONNECTIONS_MAX;
use super::problem::Problems;
use super::raw::Fields;
use super::{
    Access, Algorithm, Mode, OnChange, OnDown, PoolName, Rate, Refusal, Route, Service,
    ServiceName, SourceLimits, value,
};

const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(168);
const DRAINS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const AFFINITIES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
/// Connections per second and source: beyond that, no source is limited.
const RATES: RangeInclusive<u32> = 1..=1_000_000;

/// A service as far as it could be read, with the places that the rules which
/// join pools and services report to. `None`: reported already.
pub(super) struct ReadService {
    pub(super) name: ServiceName,
    /// Where the name stands.
    pub(super) at: Range<usize>,
    pub(super) listen: Option<Spanned<SocketAddr>>,
    pub(super) pool: Option<Spanned<PoolName>>,
    pub(super) route: Option<Spanned<Route>>,
    pub(super) algorithm: Algorithm,
    pub(super) mode: Mode,
    /// In the order of the file.
    pub(super) rules: Vec<(Spanned<IpNet>, Access)>,
    affinity: Option<Duration>,
    max_connections: Option<u32>,
    on_no_target: Refusal,
    on_full: Refusal,
    source: SourceLimits,
    on_change: Option<OnChange>,
    on_down: OnDown,
    drain_timeout: Duration,
    idle_timeout: Duration,
}

/// Reads one service.
pub(super) fn read(
    name: ServiceName,
    at: Range<usize>,
    mut fields: Fields<'_>,
    problems: &Problems,
) -> ReadService {
    let listen = fields.require("listen", "listen = \"VIP:PORT\"", value::socket_address);
    let pool = fields.require("pool", "pool = \"NAME\"", |value| {
        value::text(value).map(PoolName::from)
    });
    let routes = Route::ALL.iter().map(|route| format!("\"{route}\""));
    let mend = format!("route = {}", routes.collect::<Vec<_>>().join(" or "));
    let route = fields.require("route", &mend, value::word);
    let (algorithm, affinity) = read_algorithm(&mut fields, problems);
    let mode = fields.read("mode", value::word);
    let max_connections = fields.read("max_connections", |value| {
        value::number(value, CONNECTIONS_MAX)
    });
    let on_no_target = fields.read("on_no_target", value::word);
    let on_full = fields.read("on_full", value::word);
    let source = fields.table("source", format!("source of service \"{name}\""));
    let source = source.map(|source| read_source(source, problems));
    let rules = read_rules(&mut fields, problems);
    let on_change = fields.read("on_change", value::word);
    let on_down = fields.read("on_down", value::word);
    let drain_timeout = fields.read("drain_timeout", |value| value::duration(value, DRAINS));
    let idle_timeout = fields.read("idle_timeout", |value| {
        value::duration(value, IDLE_TIMEOUTS)
    });
    fields.finish();
    ReadService {
        name,
        at,
        listen,
        pool,
        route,
        algorithm,
        mode: mode.map_or(Mode::Nat, Spanned::into_inner),
        rules,
        affinity,
        max_connections: max_connections.map(Spanned::into_inner),
        on_no_target: on_no_target.map_or(Refusal::Reset, Spanned::into_inner),
        on_full: on_full.map_or(Refusal::Reset, Spanned::into_inner),
        source: source.unwrap_or_default(),
        on_change: on_change.map(Spanned::into_inner),
        on_down: on_down.map_or(OnDown::Reset, Spanned::into_inner),
        drain_timeout: drain_timeout.map_or(Service::DRAIN_TIMEOUT, Spanned::into_inner),
        idle_timeout: idle_timeout.map_or(Service::IDLE_TIMEOUT, Spanned::into_inner),
    }
}

fn read_algorithm(fields: &mut Fields<'_>, problems: &Problems) -> (Algorithm, Option<Duration>) {
    let algorithm = fields.read("algorithm", value::word);
    let unreadable = algorithm.is_none() && fields.value("algorithm").is_some();
    let algorithm = algorithm.map_or(Algorithm::Maglev, Spanned::into_inner);
    let affinity = fields.read("affinity", |value| value::duration(value, AFFINITIES));
    if let Some(affinity) = &affinity
        && algorithm != Algorithm::SourceHash
        && !unreadable
    {
        let reason = format!(
            "affinity: \"{algorithm}\" has none; set algorithm = \"{}\", or remove it",
            Algorithm::SourceHash
        );
        problems.report(&affinity.span(), reason);
    }
    (algorithm, affinity.map(Spanned::into_inner))
}

fn read_source(mut fields: Fields<'_>, problems: &Problems) -> SourceLimits {
    let rate = fields.read("rate", |value| value::number(value, RATES));
    let burst = fields.read("burst", |value| value::number(value, RATES));
    let connections = fields.read("connections", |value| value::number(value, CONNECTIONS_MAX));
    let limits = fields.has_like("rate") || fields.has_like("connections");
    if let (Some(burst), false) = (&burst, fields.has_like("rate")) {
        let reason = "burst: there is no rate that it could go beyond; add rate = 100";
        problems.report(&burst.span(), reason);
    } else if !limits {
        let name = fields.name();
        let reason = format!("{name} limits nothing; add rate = 100 or connections = 50");
        problems.report(fields.at(), reason);
    }
    fields.finish();
    let burst = burst.map(Spanned::into_inner);
    SourceLimits {
        rate: rate.map(Spanned::into_inner).map(|per_second| Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        connections: connections.map(Spanned::into_inner),
    }
}

fn read_rules(fields: &mut Fields<'_>, problems: &Problems) -> Vec<(Spanned<IpNet>, Access)> {
    let mut rules: Vec<(Spanned<IpNet>, Access)> = Vec::new();
    let mut seen: BTreeMap<IpNet, Access> = BTreeMap::new();
    for (key, access) in [("allow", Access::Allow), ("deny", Access::Deny)] {
        for prefix in fields.read_all(key, value::prefix) {
            if let Some(before) = seen.insert(*prefix.get_ref(), access) {
                let place = if before == access {
                    "twice"
                } else {
                    "in allow too"
                };
                let reason = format!("{key}: {} is there {place}; remove one", prefix.get_ref());
                problems.report(&prefix.span(), reason);
            }
            rules.push((prefix, access));
        }
    }
    rules
}

impl ReadService {
    /// The service, if nothing was missing.
    pub(super) fn finish(self) -> Option<Service> {
        let route = self.route?.into_inner();
        let rules = self.rules.into_iter();
        Some(Service {
            name: self.name,
            listen: self.listen?.into_inner(),
            pool: self.pool?.into_inner(),
            route,
            algorithm: self.algorithm,
            affinity: self.affinity,
            mode: self.mode,
            max_connections: self.max_connections,
            on_no_target: self.on_no_target,
            on_full: self.on_full,
            source: self.source,
            rules: rules
                .map(|(prefix, access)| (prefix.into_inner(), access))
                .collect(),
            on_change: self.on_change.unwrap_or(OnChange::default_of(route)),
            on_down: self.on_down,
            drain_timeout: self.drain_timeout,
            idle_timeout: self.idle_timeout,
        })
    }
}

impl OnChange {
    /// A connection that writes has nothing to hope for from a server that is
    /// no longer the leader; one that reads may go on.
    pub(super) const fn default_of(route: Route) -> Self {
        match route {
            Route::Leader => Self::Reset,
            Route::Replicas | Route::ReplicasFirst | Route::Any => Self::Keep,
        }
    }
}
