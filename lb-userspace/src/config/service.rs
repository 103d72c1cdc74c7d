//! Reads `[service.NAME]`: a listener, and where its connections go.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;

use super::raw::Fields;
use super::{Algorithm, OnChange, OnDown, PoolName, Route, Service, ServiceName, value};

const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(168);

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
    on_change: Option<OnChange>,
    on_down: OnDown,
    idle_timeout: Duration,
}

/// Reads one service.
pub(super) fn read(name: ServiceName, at: Range<usize>, mut fields: Fields<'_>) -> ReadService {
    let listen = fields.require("listen", "listen = \"VIP:PORT\"", value::socket_address);
    let pool = fields.require("pool", "pool = \"NAME\"", |value| {
        value::text(value).map(PoolName::from)
    });
    let routes = Route::ALL.iter().map(|route| format!("\"{route}\""));
    let mend = format!("route = {}", routes.collect::<Vec<_>>().join(" or "));
    let route = fields.require("route", &mend, value::word);
    let algorithm = fields.read("algorithm", value::word);
    let on_change = fields.read("on_change", value::word);
    let on_down = fields.read("on_down", value::word);
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
        algorithm: algorithm.map_or(Algorithm::Maglev, Spanned::into_inner),
        on_change: on_change.map(Spanned::into_inner),
        on_down: on_down.map_or(OnDown::Reset, Spanned::into_inner),
        idle_timeout: idle_timeout.map_or(Service::IDLE_TIMEOUT, Spanned::into_inner),
    }
}

impl ReadService {
    /// The service, if nothing was missing.
    pub(super) fn finish(self) -> Option<Service> {
        let route = self.route?.into_inner();
        Some(Service {
            name: self.name,
            listen: self.listen?.into_inner(),
            pool: self.pool?.into_inner(),
            route,
            algorithm: self.algorithm,
            on_change: self.on_change.unwrap_or(OnChange::default_of(route)),
            on_down: self.on_down,
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
