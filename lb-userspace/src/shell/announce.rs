//! The VIPs on the network: added to the NIC where the host does not have
//! them, announced by gratuitous ARP, removed at the end.
//!
//! An address that was there before is left alone. What we add carries our
//! protocol number (`ip -d address` shows it), so that an agent that takes
//! over from a dead one knows what is ours to remove.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use lb_common::addr::Mac;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use rtnetlink::{Handle, new_connection};
use tracing::{info, warn};

use crate::shell::load::Interface;
use crate::shell::neighbours::mac_of;
use crate::shell::wire::FrameSocket;

/// IFA_PROTO of the addresses that we add: any number that nobody else uses.
const PROTOCOL: AddressProtocol = AddressProtocol::Other(0x6c);

/// The prefix length of a VIP: the host alone.
const HOST_PREFIX: u8 = 32;

/// The VIPs of one agent.
#[derive(Debug)]
pub struct Announcement {
    handle: Handle,
    interface: Interface,
    vips: BTreeSet<IpAddr>,
}

/// An address of the host.
#[derive(Debug)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    ours: bool,
    message: AddressMessage,
}

/// The host's addresses, on one NIC or on all.
///
/// # Errors
/// What the kernel says.
pub async fn addresses(
    handle: &Handle,
    index: Option<u32>,
) -> Result<Vec<HostAddress>, rtnetlink::Error> {
    let mut request = handle.address().get();
    if let Some(index) = index {
        request = request.set_link_index_filter(index);
    }
    let mut messages = std::pin::pin!(request.execute());
    let mut addresses = Vec::new();
    while let Some(message) = messages.try_next().await? {
        let mut address = None;
        let mut ours = false;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(local) => address = Some(*local),
                AddressAttribute::Address(other) => address = address.or(Some(*other)),
                AddressAttribute::Protocol(protocol) => ours = *protocol == PROTOCOL,
                _ => {}
            }
        }
        if let Some(address) = address {
            addresses.push(HostAddress {
                address,
                ours,
                message,
            });
        }
    }
    Ok(addresses)
}

impl Announcement {
    /// Adds what is missing of `vips` to `interface`, and tells the network.
    ///
    /// # Errors
    /// Netlink is not to be had, or the kernel refused an address.
    pub async fn begin(
        interface: Interface,
        vips: BTreeSet<IpAddr>,
        socket: &FrameSocket,
    ) -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        let this = Self {
            handle,
            interface,
            vips,
        };
        let present = addresses(&this.handle, None)
            .await
            .map_err(io::Error::other)?;
        for &vip in &this.vips {
            if present.iter().any(|held| held.address == vip) {
                continue;
            }
            let addresses = this.handle.address();
            let mut request = addresses.add(this.interface.index, vip, HOST_PREFIX);
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Protocol(PROTOCOL));
            request.execute().await.map_err(io::Error::other)?;
            info!(%vip, interface = this.interface.name, "added the VIP");
        }
        this.tell(socket).await;
        Ok(this)
    }

    /// Tells the network where the VIPs are: gratuitous ARP, as an
    /// announcement (RFC 5227, 2.3).
    async fn tell(&self, socket: &FrameSocket) {
        let Ok(Some(mac)) = mac_of(&self.handle, self.interface.index).await else {
            return;
        };
        for &vip in &self.vips {
            if let IpAddr::V4(vip) = vip
                && let Err(error) = socket.send(&gratuitous_arp(mac, vip))
            {
                warn!(%vip, %error, "cannot announce the VIP");
            }
        }
    }

    /// Removes the VIPs that this agent, or a dead one before it, added.
    pub async fn end(self) {
        let held = match addresses(&self.handle, Some(self.interface.index)).await {
            Ok(held) => held,
            Err(error) => {
                warn!(%error, "cannot look for the VIPs to remove");
                return;
            }
        };
        for held in held {
            if !held.ours || !self.vips.contains(&held.address) {
                continue;
            }
            let vip = held.address;
            match self.handle.address().del(held.message).execute().await {
                Ok(()) => info!(%vip, "removed the VIP"),
                Err(error) => warn!(%vip, %error, "cannot remove the VIP"),
            }
        }
    }
}

/// An ARP request for one's own address, to everybody.
fn gratuitous_arp(mac: Mac, vip: Ipv4Addr) -> Vec<u8> {
    const BROADCAST: [u8; 6] = [0xff; 6];
    const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
    /// Ethernet, IPv4, their address lengths, request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let mac = <[u8; 6]>::from(mac);
    let vip = vip.octets();
    let mut frame = Vec::with_capacity(60);
    for part in [
        &BROADCAST[..],
        &mac,
        &ETHERTYPE_ARP,
        &REQUEST,
        &mac,
        &vip,
        &[0; 6],
        &vip,
    ] {
        frame.extend_from_slice(part);
    }
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_arp_says_who_has_the_vip() {
        let mac = Mac::from([2, 0, 0, 0, 0, 1]);
        // As `arping -A -c1 -S` and tcpdump print it, padded to 60 bytes.
        let expected = "ffffffffffff0200000000010806000108000604000102000000\
                        00010a0000640000000000000a000064";
        let frame = gratuitous_arp(mac, Ipv4Addr::new(10, 0, 0, 100));
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.trim_end_matches("00").len() / 2, 42);
        assert!(hex.starts_with(expected), "{hex}");
        assert_eq!(frame.len(), 60);
    }
}
