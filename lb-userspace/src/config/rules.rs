//! The rules that no table can break alone: services name pools, listeners
//! are unique, nothing steers back into the balancer, everything fits the
//! kernel's maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use lb_common::service::ServiceId;
use lb_common::target::TargetId;
use toml::Spanned;

use super::pool::{ReadPool, RoleKey};
use super::problem::{Problems, position, spelling};
use super::service::ReadService;
use super::value::family;
use super::{Mode, PoolName, Route, Server, ServiceName, Vips};

/// The prefix rules of all services together.
const RULES_MAX: usize = 1024;

/// What the rules look at, and where it stands. `None`: unreadable, which is
/// reported already, and so nothing that follows from it need be.
pub(super) struct Draft<'a> {
    pub(super) text: &'a str,
    pub(super) vips: Vips,
    pub(super) snat_addresses: Vec<Spanned<IpAddr>>,
    pub(super) snat_ports: RangeInclusive<u16>,
    pub(super) pools: Option<BTreeMap<PoolName, ReadPool>>,
    pub(super) services: Option<BTreeMap<ServiceName, ReadService>>,
}

impl Draft<'_> {
    /// Reports every rule that is broken.
    pub(super) fn check(&self, problems: &Problems) {
        if self.services().next().is_none() && problems.is_empty() {
            let reason = "no service is defined; add [service.NAME] with listen, pool and route";
            problems.report(&(0..0), reason);
        }
        if let Some(pools) = &self.pools {
            for service in self.services() {
                check_pool(service, pools, problems);
            }
        }
        for service in self.services() {
            check_rules(service, problems);
        }
        let listeners = self.check_listeners(problems);
        self.check_servers(&listeners, problems);
        for address in &self.snat_addresses {
            self.check_snat(address, &listeners, problems);
        }
        self.check_capacity(problems);
    }

    fn pools(&self) -> impl Iterator<Item = &ReadPool> {
        self.pools.iter().flat_map(BTreeMap::values)
    }

    /// The services in the order of the file.
    fn services(&self) -> impl Iterator<Item = &ReadService> {
        let mut services: Vec<_> = self.services.iter().flat_map(BTreeMap::values).collect();
        services.sort_by_key(|service| service.at.start);
        services.into_iter()
    }

    /// The servers on other hosts than the balancer's.
    fn remote_servers(&self) -> impl Iterator<Item = &Server> {
        let local = |pool: &&ReadPool| {
            let names = |service: &&ReadService| {
                let name = service.pool.as_ref().map(Spanned::get_ref);
                name == Some(&pool.pool.name)
            };
            let mut services = self.services().filter(names).peekable();
            services.peek().is_some() && services.all(|service| service.mode == Mode::Local)
        };
        let pools = self.pools().filter(move |pool| !local(pool));
        pools.flat_map(|read| &read.pool.servers)
    }

    /// The listeners, each with the first service that has it.
    fn check_listeners(&self, problems: &Problems) -> BTreeMap<SocketAddr, &ServiceName> {
        let mut listeners = BTreeMap::new();
        let mut places: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for service in self.services() {
            let Some(listen) = &service.listen else {
                continue;
            };
            let address = *listen.get_ref();
            let Some(first) = places.get(&address) else {
                places.insert(address, listen.span().start);
                listeners.insert(address, &service.name);
                continue;
            };
            let (line, _) = position(self.text, *first);
            let other = listeners[&address];
            let reason = format!(
                "listen: service \"{other}\" listens on {address} too (line {line}); \
                 choose another address or port"
            );
            problems.report(&listen.span(), reason);
        }
        listeners
    }

    fn check_servers(&self, listeners: &BTreeMap<SocketAddr, &ServiceName>, problems: &Problems) {
        for read in self.pools() {
            for (server, at) in read.pool.servers.iter().zip(&read.addresses_at) {
                let address = server.address;
                if let Some(service) = listeners.get(&address) {
                    let reason = format!(
                        "address: service \"{service}\" listens on {address}: a loop; \
                         write the server's own address"
                    );
                    problems.report(at, reason);
                } else if let Some(service) = vip_owner(listeners, address.ip()) {
                    let reason = format!(
                        "address: {} is the VIP of service \"{service}\"; \
                         write the server's own address",
                        address.ip()
                    );
                    problems.report(at, reason);
                }
            }
        }
    }

    fn check_snat(
        &self,
        address: &Spanned<IpAddr>,
        listeners: &BTreeMap<SocketAddr, &ServiceName>,
        problems: &Problems,
    ) {
        let (at, address) = (&address.span(), *address.get_ref());
        let mut servers = self.remote_servers();
        if let Some(server) = servers.find(|server| server.address.ip() == address) {
            let reason = format!(
                "address: {address} is the address of server \"{}\"; \
                 write one that the balancer owns",
                server.name
            );
            problems.report(at, reason);
        }
        if self.vips == Vips::External
            && let Some(service) = vip_owner(listeners, address)
        {
            let reason = format!(
                "address: {address} is the VIP of service \"{service}\", and vips = \"external\": \
                 it may be another balancer's; write one that this host always has"
            );
            problems.report(at, reason);
            return;
        }
        // A VIP may be the source address too, where a host has no other; but
        // then its listeners must not look like a connection of ours.
        let ports = &self.snat_ports;
        let shared = listeners
            .iter()
            .find(|(listen, _)| listen.ip() == address && ports.contains(&listen.port()));
        if let Some((listen, service)) = shared {
            let (first, last) = (ports.start(), ports.end());
            let reason = format!(
                "address: ports {first}-{last} of {address} contain {}, \
                 where service \"{service}\" listens; choose other ports",
                listen.port()
            );
            problems.report(at, reason);
        }
    }

    fn check_capacity(&self, problems: &Problems) {
        let mut targets: u64 = 0;
        let mut rules = 0;
        for (index, service) in self.services().enumerate() {
            let pool = service.pool.as_ref().map(Spanned::get_ref);
            let pools = self.pools.as_ref();
            let servers = pool.and_then(|name| pools?.get(name));
            let servers: &[Server] = servers.map_or(&[], |read| &read.pool.servers);
            targets += servers.len() as u64;
            rules += service.rules.len();
            // Target 0 means none.
            let exceeded = [
                ("services", index as u64 + 1, ServiceId::CAPACITY),
                ("targets", targets, TargetId::CAPACITY - 1),
            ];
            let exceeded = exceeded
                .into_iter()
                .find(|(_, used, room)| *used > u64::from(*room));
            if let Some((what, used, room)) = exceeded {
                let reason = format!(
                    "too many {what}: {used} up to this service, the kernel's tables hold {room}; \
                     use fewer services, or fewer servers in their pools"
                );
                problems.report(&service.at, reason);
                return;
            }
            if rules > RULES_MAX {
                let reason = format!(
                    "too many rules: {rules} up to this service, the kernel's table holds \
                     {RULES_MAX}; allow and deny fewer prefixes"
                );
                problems.report(&service.at, reason);
                return;
            }
        }
    }
}

fn check_pool(service: &ReadService, pools: &BTreeMap<PoolName, ReadPool>, problems: &Problems) {
    let Some(wanted) = &service.pool else { return };
    let name = wanted.get_ref();
    if let Some(pool) = pools.get(name) {
        check_route(service.route.as_ref(), pool, problems);
        check_servers_of(service, pool, problems);
        return;
    }
    let known: Vec<&str> = pools.keys().map(PoolName::as_str).collect();
    let mend = if known.is_empty() {
        format!("add [pool.{name}]")
    } else {
        spelling(name.as_str(), &known)
    };
    let reason = format!("pool: nothing defines pool \"{name}\"; {mend}");
    problems.report(&wanted.span(), reason);
}

fn check_route(route: Option<&Spanned<Route>>, pool: &ReadPool, problems: &Problems) {
    let Some(route) = route else { return };
    match route.get_ref() {
        Route::Any => {}
        Route::Leader | Route::Replicas | Route::ReplicasFirst
            if pool.role_key == RoleKey::Given => {}
        route_word @ (Route::Leader | Route::Replicas | Route::ReplicasFirst) => {
            let name = &pool.pool.name;
            let reason = format!(
                "route: \"{route_word}\" needs roles, and pool \"{name}\" has none; \
                 add role = {{ leader = \"/primary\", replica = \"/replica\" }} to [pool.{name}]"
            );
            problems.report(&route.span(), reason);
        }
    }
}

/// Reports the first server that the service cannot hand connections to.
fn check_servers_of(service: &ReadService, pool: &ReadPool, problems: &Problems) {
    let Some(listen) = &service.listen else {
        return;
    };
    let (at, listen) = (&listen.span(), *listen.get_ref());
    let pool_name = &pool.pool.name;
    let mut servers = pool.pool.servers.iter();
    let foreign = |server: &&Server| server.address.is_ipv4() != listen.is_ipv4();
    if let Some(server) = servers.clone().find(foreign) {
        let (here, there) = (family(listen.ip()), family(server.address.ip()));
        let reason = format!(
            "listen: {} is {here}, and server \"{}\" of pool \"{pool_name}\" is {there}; \
             nothing translates between them: use a pool of {here} servers",
            listen.ip(),
            server.name
        );
        problems.report(at, reason);
        return;
    }
    if service.mode.translates_ports() {
        return;
    }
    if let Some(server) = servers.find(|server| server.address.port() != listen.port()) {
        let (mode, ours, theirs) = (service.mode, listen.port(), server.address.port());
        let reason = format!(
            "listen: mode \"{mode}\" leaves ports as they are, and server \"{}\" of pool \
             \"{pool_name}\" has port {theirs}, not {ours}; write the same port for both",
            server.name
        );
        problems.report(at, reason);
    }
}

fn check_rules(service: &ReadService, problems: &Problems) {
    let Some(listen) = &service.listen else {
        return;
    };
    let vip = listen.get_ref().ip();
    for (prefix, access) in &service.rules {
        let network = prefix.get_ref().network();
        if network.is_ipv4() != vip.is_ipv4() {
            let (there, here) = (family(network), family(vip));
            let reason = format!(
                "{access}: {} is {there}, and the service listens on {here}; remove it",
                prefix.get_ref()
            );
            problems.report(&prefix.span(), reason);
        }
    }
}

fn vip_owner<'a>(
    listeners: &BTreeMap<SocketAddr, &'a ServiceName>,
    address: IpAddr,
) -> Option<&'a ServiceName> {
    let mut entries = listeners.iter();
    entries
        .find(|(listen, _)| listen.ip() == address)
        .map(|(_, service)| *service)
}
