//! That something changed about neighbours, and what; that something changed about
//! routes, addresses or links, and never what: whoever is told looks anyway.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tracing::warn;

use super::table::{Neighbour, Place, entry};

/// Notifications that come within so long are one change.
const BURST: Duration = Duration::from_millis(5);

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// What the kernel knows of a neighbour.
    Neighbour(Place, Neighbour),
    /// Routes, rules, addresses or links.
    Way,
}

impl Change {
    /// `None`: what nobody needs to know.
    fn read(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Self> {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                entry(&message).map(|(place, neighbour)| Self::Neighbour(place, neighbour))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                entry(&message).map(|(place, _)| Self::Neighbour(place, Neighbour::default()))
            }
            _ => Some(Self::Way),
        }
    }
}

/// Notifications of changes, on a connection of their own: where they come too
/// fast, the kernel drops some, and an answer may not be among them.
pub(super) struct Changes {
    /// `None`: the connection is lost.
    notifications: Option<Pin<Box<dyn Stream<Item = Option<Change>> + Send>>>,
    /// What was heard and not passed on yet: who waits for us may stop to.
    heard: Vec<Change>,
}

impl Changes {
    pub(super) fn follow() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Link,
        ];
        let (connection, _, notifications) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let changes = notifications.map(|(message, _)| Change::read(message.payload));
        Ok(Self {
            notifications: Some(Box::pin(changes)),
            heard: Vec::new(),
        })
    }

    /// Whether nobody tells of changes any more.
    pub(super) const fn are_lost(&self) -> bool {
        self.notifications.is_none()
    }

    /// Waits for changes; those of a burst come together. Never comes back once
    /// the connection is lost; there is still the clock.
    pub(super) async fn next(&mut self) -> Vec<Change> {
        let Some(notifications) = &mut self.notifications else {
            return std::future::pending().await;
        };
        if self.heard.is_empty() {
            let Some(first) = notifications.next().await else {
                warn!("netlink tells of no changes any more; looking every second instead");
                self.notifications = None;
                return vec![Change::Way];
            };
            self.heard.extend(first);
        }
        tokio::time::sleep(BURST).await;
        while let Some(Some(change)) = notifications.next().now_or_never() {
            self.heard.extend(change);
        }
        std::mem::take(&mut self.heard)
    }
}
