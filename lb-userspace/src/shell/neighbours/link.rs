//! What matters of the NICs.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use lb_common::addr::Mac;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo};

use super::connect;

/// What a way carries where the kernel says nothing: Ethernet's.
const MTU: u32 = 1500;

/// What matters of a NIC.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LinkFacts {
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
}

/// The facts of the NIC with number `index`.
pub(super) async fn facts(handle: &Handle, index: u32) -> Result<LinkFacts, rtnetlink::Error> {
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
    Ok(facts(handle, index).await?.mac)
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

/// An Ethernet address; `None` where it is one of another kind.
pub(super) fn ethernet(bytes: &[u8]) -> Option<Mac> {
    <[u8; 6]>::try_from(bytes).ok().map(Mac::from)
}
