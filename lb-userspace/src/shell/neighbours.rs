//! The ways to the servers: route and neighbour of each, by rtnetlink, kept
//! warm, told to the engine whenever one changes.
//!
//! The kernel resolves and refreshes neighbours; we only ask it to (NTF_USE),
//! so that its own ARP timers, static entries and proxies count here too.
//!
//! What servers share is asked for once a look: the links, and the table of
//! neighbours. A route is asked for when something was changed, and every
//! [`ROUTE_TURNS`] looks: only how large its packets may be changes without word.

mod changes;
mod link;
mod route;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use lb_common::target::Hop;
use rtnetlink::{Handle, new_connection};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::config::Config;
use crate::engine::{Event, NextHop};
use crate::shell::load::Interface;
use changes::{Change, Changes};
use link::LinkFacts;
pub use link::{mac_of, virtual_links};
use route::Route;
use table::{Neighbour, Place, table, use_neighbour};

/// How often the ways are looked at without a notification.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// In how many looks every route is asked for once, where nothing was changed.
const ROUTE_TURNS: usize = 10;

/// The same, while the way to a server is not known.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

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
    links: BTreeMap<u32, LinkFacts>,
    neighbours: BTreeMap<Place, Neighbour>,
    routes: BTreeMap<IpAddr, Route>,
    /// Looks so far.
    looks: usize,
    /// Whether the last look left nothing to be found out or told.
    settled: bool,
    /// Of which of them the engine was told since what is followed changed.
    told: BTreeSet<IpAddr>,
    complained: BTreeMap<IpAddr, String>,
}

fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// What a look at the way to a server gave.
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
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            routes: BTreeMap::new(),
            looks: 0,
            settled: false,
            told: BTreeSet::new(),
            complained: BTreeMap::new(),
        };
        tokio::spawn(async move {
            this.check_snats().await;
            while !events.is_closed() {
                let wait = this.refresh(&events).await;
                this.wait(Instant::now() + wait, &mut changes, &mut followed)
                    .await;
            }
        });
        Ok(())
    }

    /// Waits until it is time to look: at `due`, or where something changed.
    async fn wait(
        &mut self,
        due: Instant,
        changes: &mut Changes,
        followed: &mut watch::Receiver<Followed>,
    ) {
        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    if changes.are_lost() {
                        self.forget_routes();
                    }
                    return;
                }
                changes = changes.next() => {
                    if changes.contains(&Change::Way) {
                        self.forget_routes();
                    }
                    if changes.iter().any(|change| self.is_news(change)) {
                        return;
                    }
                }
                Ok(()) = followed.changed() => {
                    return self.follow(followed.borrow_and_update().clone());
                }
            }
        }
    }

    fn forget_routes(&mut self) {
        self.routes.clear();
        self.settled = false;
    }

    /// A thousand neighbours are confirmed anew all the time, and stay where they were.
    fn is_news(&self, change: &Change) -> bool {
        match change {
            Change::Way => true,
            Change::Neighbour(place, neighbour) => {
                let known = self.neighbours.get(place);
                known.and_then(|known| known.mac) != neighbour.mac
            }
        }
    }

    fn follow(&mut self, followed: Followed) {
        let Followed { servers, .. } = &followed;
        self.known.retain(|server, _| servers.contains(server));
        self.routes.retain(|server, _| servers.contains(server));
        self.complained.retain(|server, _| servers.contains(server));
        self.told.clear();
        self.settled = false;
        self.followed = followed;
    }

    /// Looks at the ways and tells of those that changed: at all of them, or where none
    /// can have, at those whose route is to be asked for. Gives the time until the next
    /// look.
    async fn refresh(&mut self, events: &mpsc::Sender<Event>) -> Duration {
        let mut wait = REFRESH_INTERVAL;
        let settled = std::mem::take(&mut self.settled);
        let unchanged = match in_time(self.survey()).await {
            Ok(unchanged) => unchanged,
            Err(why) => {
                for server in self.followed.servers.clone() {
                    self.complain(server, why.clone());
                }
                self.reconnect();
                return wait;
            }
        };
        let mut all_known = true;
        self.looks += 1;
        let mut used = BTreeSet::new();
        for (index, server) in self.followed.servers.clone().into_iter().enumerate() {
            if (self.looks + index).is_multiple_of(ROUTE_TURNS) {
                self.routes.remove(&server);
            } else if settled && unchanged {
                continue;
            }
            let before = self.known.get(&server).copied();
            let way = in_time(self.look(server, &mut used)).await;
            all_known &= matches!(way, Ok(Way::Known(_)));
            let route = match way {
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
        self.settled = all_known && used.is_empty();
        wait
    }

    /// Reads what the servers share. Whether it is as it was.
    async fn survey(&mut self) -> Result<bool, rtnetlink::Error> {
        let mut links = BTreeMap::new();
        for interface in &self.interfaces {
            let facts = link::facts(&self.handle, interface.index).await?;
            links.insert(interface.index, facts);
        }
        let neighbours = table(&self.handle).await?;
        let unchanged = links == self.links && neighbours == self.neighbours;
        (self.links, self.neighbours) = (links, neighbours);
        Ok(unchanged)
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

    /// Works out the way to a server. Where the kernel does not know its neighbour
    /// for sure, it is asked to find out, once for all that are `used`.
    async fn look(
        &mut self,
        server: IpAddr,
        used: &mut BTreeSet<Place>,
    ) -> Result<Way, rtnetlink::Error> {
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
            return Ok(self.local(server));
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
        let next = (interface.index, route.gateway.unwrap_or(server));
        let neighbour = self.neighbours.get(&next).copied().unwrap_or_default();
        if !neighbour.certain && used.insert(next) {
            use_neighbour(&self.handle, next).await?;
        }
        let (Some(destination), Some(link)) = (neighbour.mac, self.links.get(&interface.index))
        else {
            return Ok(Way::Resolving);
        };
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
    fn local(&self, server: IpAddr) -> Way {
        let interface = self.interfaces.first();
        let link = interface.and_then(|interface| self.links.get(&interface.index));
        let (Some(interface), Some(link)) = (interface, link) else {
            return Way::Resolving;
        };
        Way::Known(NextHop {
            hop: Hop {
                destination: link.mac.unwrap_or_default(),
                source: link.mac.unwrap_or_default(),
                ifindex: interface.index,
            },
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            snat: server,
        })
    }

    /// The route to a server, as it was when it was last asked for.
    async fn route(&mut self, server: IpAddr) -> Result<Route, rtnetlink::Error> {
        if let Some(route) = self.routes.get(&server) {
            return Ok(*route);
        }
        let route = route::route(&self.handle, server).await?;
        self.routes.insert(server, route);
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
}

/// What netlink answers, or why it does not.
async fn in_time<T>(
    question: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, String> {
    match timeout(LOOK_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|error| format!("netlink: {error}")),
        Err(_) => Err("netlink does not answer".to_owned()),
    }
}

/// Whether others than neighbours can answer to an address.
const fn routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}
