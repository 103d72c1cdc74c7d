//! The kernel's table of neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use lb_common::addr::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::link::ethernet;

/// Where a neighbour is: the number of a NIC, and an address there.
pub(super) type Place = (u32, IpAddr);

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its Ethernet address, where it has one that works.
    pub(super) mac: Option<Mac>,
    /// Whether the kernel is sure of that, and need not find out.
    pub(super) certain: bool,
}

/// All neighbours of the host.
pub(super) async fn table(handle: &Handle) -> Result<BTreeMap<Place, Neighbour>, rtnetlink::Error> {
    let mut table = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = handle.neighbours().get().set_address_family(family);
        let entries = request.execute();
        let entries: Vec<NeighbourMessage> = entries.try_collect().await?;
        table.extend(entries.iter().filter_map(entry));
    }
    Ok(table)
}

/// What an entry says, and of whom.
pub(super) fn entry(entry: &NeighbourMessage) -> Option<(Place, Neighbour)> {
    let address = entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::V6(*address))
            }
            _ => None,
        });
    let mac = entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => ethernet(bytes),
            _ => None,
        });
    let (works, certain) = match entry.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => {
            (true, true)
        }
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => (true, false),
        _ => (false, false),
    };
    let mac = mac.filter(|_| works);
    Some(((entry.header.ifindex, address?), Neighbour { mac, certain }))
}

/// Has the kernel find out about a neighbour, as if a packet were to be sent there.
pub(super) async fn use_neighbour(
    handle: &Handle,
    (index, address): Place,
) -> Result<(), rtnetlink::Error> {
    let request = handle.neighbours().add(index, address);
    let request = request
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use);
    request.replace().execute().await
}
