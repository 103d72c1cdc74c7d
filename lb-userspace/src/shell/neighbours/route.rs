//! The host's own route to a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMetric, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

/// What matters of a route.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Route {
    /// It leads to this host itself.
    pub(super) local: bool,
    pub(super) output: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

/// The route that the host would take to `server`.
pub(super) async fn route(handle: &Handle, server: IpAddr) -> Result<Route, rtnetlink::Error> {
    let message = match server {
        IpAddr::V4(server) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(server, 32)
            .build(),
        IpAddr::V6(server) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(server, 128)
            .build(),
    };
    let mut answers = std::pin::pin!(handle.route().get(message).execute());
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

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
