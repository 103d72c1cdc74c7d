//! That something changed about routes, neighbours, addresses or links: never
//! what, for whoever is told looks anyway.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tracing::warn;

/// Notifications that come within so long are one change.
const BURST: Duration = Duration::from_millis(5);

/// Notifications of changes, on a connection of their own: where they come too
/// fast, the kernel drops some, and an answer may not be among them.
pub(super) struct Changes(Option<Pin<Box<dyn Stream<Item = ()> + Send>>>);

impl Changes {
    pub(super) fn follow() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Link,
        ];
        let (connection, _, notifications) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(Self(Some(Box::pin(notifications.map(|_| ())))))
    }

    /// Waits for a change. A burst of notifications is one change. Never
    /// comes back once the connection is lost; there is still the clock.
    pub(super) async fn next(&mut self) {
        let Some(notifications) = &mut self.0 else {
            return std::future::pending().await;
        };
        if notifications.next().await.is_none() {
            warn!("netlink tells of no changes any more; looking every second instead");
            self.0 = None;
            return;
        }
        tokio::time::sleep(BURST).await;
        while let Some(Some(_)) = notifications.next().now_or_never() {}
    }
}
