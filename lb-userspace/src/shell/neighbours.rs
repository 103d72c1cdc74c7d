//! The ways to the servers: route and neighbour of each, by rtnetlink, kept
//! warm, told to the engine whenever one changes.
//!
//! The kernel resolves and refreshes neighbours; we only ask it to (NTF_USE),
//! so that its own ARP timers, static entries and proxies count here too.

mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use lb_common::addr::Mac;
use lb_common::target::Hop;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMetric, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder, new_connection};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::config::Config;
use crate::engine::{Event, NextHop};
use crate::shell::load::Interface;
use changes::Changes;

/// How often the ways are looked at without a notification.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The same, while the way to a server is not known.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a way carries where the kernel says nothing: Ethernet's.
const MTU: u32 = 1500;

/// What is followed; it may change.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// Where the servers are.
    pub servers: BTreeSet<IpAddr>,
    /// The VIPs, which are nobody's source address.
    pub vips: BTreeSet<IpAddr>,
}

impl Followed {
    /// What `config` names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let servers = config.pools.values().flat_map(|pool| &pool.servers);
        let services = config.services.values();
        Self {
            servers: servers.map(|server| server.address.ip()).collect(),
            vips: services.map(|service| service.listen.ip()).collect(),
        }
    }
}

/// Follows the ways to servers.
#[derive(Debug)]
pub struct Neighbours {
    handle: Handle,
    interfaces: Vec<Interface>,
    followed: Followed,
    /// What servers see, as configured.
    snats: Vec<IpAddr>,
    known: BTreeMap<IpAddr, Option<NextHop>>,
    /// Of which of them the engine was told since what is followed changed.
    told: BTreeSet<IpAddr>,
    complained: BTreeMap<IpAddr, String>,
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// What a look at the route to a server gave.
enum Way {
    Known(NextHop),
    Resolving,
    Unusable(String),
}

impl Neighbours {
    /// Follows the ways from `interfaces` to the servers that are `followed`, and
    /// tells `events` of every change, until the receiver is gone; of all of them
    /// where what is followed changes. `snats` are the addresses that the servers
    /// see; none of a family: the one that the host itself would use.
    ///
    /// # Errors
    /// Netlink is not to be had.
    pub fn spawn(
        interfaces: Vec<Interface>,
        mut followed: watch::Receiver<Followed>,
        snats: Vec<IpAddr>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<()> {
        let mut changes = Changes::follow()?;
        let mut this = Self {
            handle: connect()?,
            interfaces,
            followed: followed.borrow_and_update().clone(),
            snats,
            known: BTreeMap::new(),
            told: BTreeSet::new(),
            complained: BTreeMap::new(),
        };
        tokio::spawn(async move {
            this.check_snats().await;
            while !events.is_closed() {
                let wait = this.refresh(&events).await;
                // Whichever it is, it means to look.
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = changes.next() => {}
                    Ok(()) = followed.changed() => {
                        this.follow(followed.borrow_and_update().clone());
                    }
                }
            }
        });
        Ok(())
    }

    fn follow(&mut self, followed: Followed) {
        let Followed { servers, .. } = &followed;
        self.known.retain(|server, _| servers.contains(server));
        self.complained.retain(|server, _| servers.contains(server));
        self.told.clear();
        self.followed = followed;
    }

    /// Looks at all ways and tells of those that changed. Gives the time until
    /// the next look.
    async fn refresh(&mut self, events: &mpsc::Sender<Event>) -> Duration {
        let mut wait = REFRESH_INTERVAL;
        for server in self.followed.servers.clone() {
            let before = self.known.get(&server).copied();
            let route = match self.look_in_time(server).await {
                Ok(Way::Known(hop)) => {
                    self.complained.remove(&server);
                    Some(hop)
                }
                Ok(Way::Resolving) => {
                    wait = RETRY_INTERVAL;
                    // A neighbour that is being confirmed anew is still where
                    // it was.
                    before.flatten()
                }
                Ok(Way::Unusable(why)) => {
                    self.complain(server, why);
                    None
                }
                Err(why) => {
                    // Not knowing is no reason to give up what works.
                    self.complain(server, why);
                    self.reconnect();
                    before.flatten()
                }
            };
            if before == Some(route) && self.told.contains(&server) {
                continue;
            }
            self.known.insert(server, route);
            self.told.insert(server);
            let told = events.send(Event::Resolved { server, route }).await;
            if told.is_err() {
                break;
            }
        }
        wait
    }

    async fn look_in_time(&self, server: IpAddr) -> Result<Way, String> {
        match tokio::time::timeout(LOOK_TIMEOUT, self.look(server)).await {
            Ok(Ok(way)) => Ok(way),
            Ok(Err(error)) => Err(format!("netlink: {error}")),
            Err(_) => Err("netlink does not answer".to_owned()),
        }
    }

    fn reconnect(&mut self) {
        match connect() {
            Ok(handle) => self.handle = handle,
            Err(error) => warn!(%error, "cannot connect to netlink anew"),
        }
    }

    /// Says so where a configured source address is none of the host's: a
    /// router may bring its packets here all the same, but no neighbour will.
    async fn check_snats(&self) {
        let Ok(held) = super::announce::addresses(&self.handle, None).await else {
            return;
        };
        for snat in &self.snats {
            if !held.iter().any(|held| held.address == *snat) {
                warn!(
                    address = %snat,
                    "this source address is none of this host's: replies come back only if a \
                     route brings them here; add it to an interface, or set another"
                );
            }
        }
    }

    fn complain(&mut self, server: IpAddr, why: String) {
        if self.complained.get(&server) != Some(&why) {
            warn!(%server, reason = why, "no way to the server");
            self.complained.insert(server, why);
        }
    }

    async fn look(&self, server: IpAddr) -> Result<Way, rtnetlink::Error> {
        let route = match self.route(server).await {
            Ok(route) => route,
            Err(rtnetlink::Error::NetlinkError(error)) => {
                return Ok(Way::Unusable(format!(
                    "the host has no route to it: {error}"
                )));
            }
            Err(error) => return Err(error),
        };
        if route.local {
            return self.local(server).await;
        }
        let by_this = |interface: &&Interface| route.output == Some(interface.index);
        let Some(interface) = self.interfaces.iter().find(by_this) else {
            let names: Vec<&str> = self.interfaces.iter().map(|i| i.name.as_str()).collect();
            return Ok(Way::Unusable(format!(
                "the host does not reach it through {}; name the NIC that leads to it in \
                 interface = [\"…\", \"…\"]",
                names.join(" or ")
            )));
        };
        let Some(snat) = self.snat_for(server, &route, interface).await? else {
            let name = &interface.name;
            return Ok(Way::Unusable(format!(
                "{name} has no address of its family but the VIPs: give it one, or set \
                 snat.address"
            )));
        };
        let next = route.gateway.unwrap_or(server);
        let Some(destination) = self.neighbour(next, interface.index).await? else {
            return Ok(Way::Resolving);
        };
        let link = link(&self.handle, interface.index).await?;
        let Some(source) = link.mac else {
            return Ok(Way::Unusable(
                "the interface has no Ethernet address".to_owned(),
            ));
        };
        let mtu = route.mtu.unwrap_or(link.mtu);
        Ok(Way::Known(NextHop {
            hop: Hop {
                destination,
                source,
                ifindex: interface.index,
            },
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            snat,
        }))
    }

    /// The way to a server on this very host: there is none to go.
    async fn local(&self, server: IpAddr) -> Result<Way, rtnetlink::Error> {
        let Some(interface) = self.interfaces.first() else {
            return Ok(Way::Resolving);
        };
        let link = link(&self.handle, interface.index).await?;
        Ok(Way::Known(NextHop {
            hop: Hop {
                destination: link.mac.unwrap_or_default(),
                source: link.mac.unwrap_or_default(),
                ifindex: interface.index,
            },
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            snat: server,
        }))
    }

    async fn route(&self, server: IpAddr) -> Result<Route, rtnetlink::Error> {
        let message = match server {
            IpAddr::V4(server) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(server, 32)
                .build(),
            IpAddr::V6(server) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(server, 128)
                .build(),
        };
        let mut answers = std::pin::pin!(self.handle.route().get(message).execute());
        let mut route = Route::default();
        if let Some(answer) = answers.try_next().await? {
            route.local = answer.header.kind == RouteType::Local;
            for attribute in answer.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => route.output = Some(index),
                    RouteAttribute::Gateway(gateway) => route.gateway = ip(&gateway),
                    RouteAttribute::PrefSource(source) => route.source = ip(&source),
                    RouteAttribute::Metrics(metrics) => {
                        route.mtu = metrics.iter().find_map(|metric| match metric {
                            RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                            _ => None,
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(route)
    }

    /// The source address towards a server: as configured, else the host's
    /// own choice, else the first of the NIC's that is no VIP.
    async fn snat_for(
        &self,
        server: IpAddr,
        route: &Route,
        interface: &Interface,
    ) -> Result<Option<IpAddr>, rtnetlink::Error> {
        let fits = |address: &IpAddr| address.is_ipv4() == server.is_ipv4();
        if let Some(configured) = self.snats.iter().copied().find(|address| fits(address)) {
            return Ok(Some(configured));
        }
        let chosen = route
            .source
            .filter(|source| !self.followed.vips.contains(source));
        if chosen.is_some() {
            return Ok(chosen);
        }
        let addresses = super::announce::addresses(&self.handle, Some(interface.index)).await?;
        Ok(addresses.into_iter().map(|a| a.address).find(|address| {
            fits(address) && routable(*address) && !self.followed.vips.contains(address)
        }))
    }

    /// The Ethernet address of a neighbour. Where the kernel does not know it
    /// for sure, it is asked to find out.
    async fn neighbour(
        &self,
        address: IpAddr,
        index: u32,
    ) -> Result<Option<Mac>, rtnetlink::Error> {
        let mut found = None;
        let mut certain = false;
        let (family, wanted) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        let wanted = NeighbourAttribute::Destination(wanted);
        let request = self.handle.neighbours().get().set_address_family(family);
        let mut entries = std::pin::pin!(request.execute());
        while let Some(entry) = entries.try_next().await? {
            if entry.header.ifindex != index || !entry.attributes.contains(&wanted) {
                continue;
            }
            let usable = match entry.header.state {
                NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => {
                    certain = true;
                    true
                }
                NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => true,
                _ => false,
            };
            if usable {
                found = entry.attributes.iter().find_map(mac);
            }
        }
        if !certain {
            let request = self.handle.neighbours().add(index, address);
            let request = request
                .state(NeighbourState::None)
                .flags(NeighbourFlags::Use);
            request.replace().execute().await?;
        }
        Ok(found)
    }
}

/// What matters of a NIC.
#[derive(Debug)]
struct LinkFacts {
    mac: Option<Mac>,
    mtu: u32,
}

async fn link(handle: &Handle, index: u32) -> Result<LinkFacts, rtnetlink::Error> {
    let mut facts = LinkFacts {
        mac: None,
        mtu: MTU,
    };
    let request = handle.link().get().match_index(index);
    let mut links = std::pin::pin!(request.execute());
    if let Some(link) = links.try_next().await? {
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => facts.mac = ethernet(bytes),
                LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
                _ => {}
            }
        }
    }
    Ok(facts)
}

/// The Ethernet address of the NIC with number `index`; none where it has none.
///
/// # Errors
/// What the kernel says.
pub async fn mac_of(handle: &Handle, index: u32) -> Result<Option<Mac>, rtnetlink::Error> {
    Ok(link(handle, index).await?.mac)
}

/// What kind of virtual link each of `interfaces` is: `veth`, `bridge`. Those
/// with a device behind them are left out, and so is what netlink does not
/// tell of.
pub async fn virtual_links(interfaces: &[String]) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    let Ok(handle) = connect() else {
        return kinds;
    };
    for name in interfaces {
        let request = handle.link().get().match_name(name.clone());
        let mut links = std::pin::pin!(request.execute());
        let Ok(Some(link)) = links.try_next().await else {
            continue;
        };
        for attribute in link.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else {
                continue;
            };
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    kinds.insert(name.clone(), kind.to_string());
                }
            }
        }
    }
    kinds
}

/// What matters of a route.
#[derive(Default)]
struct Route {
    /// It leads to this host itself.
    local: bool,
    output: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    mtu: Option<u32>,
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Whether others than neighbours can answer to an address.
const fn routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

fn mac(attribute: &NeighbourAttribute) -> Option<Mac> {
    match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => ethernet(bytes),
        _ => None,
    }
}

fn ethernet(bytes: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(bytes).ok().map(Mac::from)
}
