//! The VIPs on the network: added to the NIC where the host does not have
//! them, announced to the neighbours, removed at the end.
//!
//! An address that was there before is left alone. What we add carries our
//! protocol number (`ip -d address` shows it), so that an agent that takes
//! over from a dead one knows what is ours to remove. Where something else has
//! the VIPs in hand, there is nothing to do but that.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use lb_common::addr::Mac;
use lb_common::wire::checksum;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use rtnetlink::{Handle, new_connection};
use tracing::{info, warn};

use crate::engine::{Held, Others};
use crate::shell::load::Interface;
use crate::shell::neighbours::mac_of;
use crate::shell::wire::FrameSocket;

/// IFA_PROTO of the addresses that we add: any number that nobody else uses.
const PROTOCOL: AddressProtocol = AddressProtocol::Other(0x6c);

/// The prefix length of a VIP: the host alone.
const fn host_prefix(vip: IpAddr) -> u8 {
    match vip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The VIPs of one agent.
#[derive(Debug)]
pub struct Announcement {
    handle: Handle,
    interface: Interface,
    socket: FrameSocket,
    /// Those that the network was told of.
    told: BTreeSet<IpAddr>,
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
    /// Nothing is announced yet.
    ///
    /// # Errors
    /// Netlink or a packet socket is not to be had.
    pub fn begin(interface: Interface) -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            interface,
            socket: FrameSocket::open()?,
            told: BTreeSet::new(),
        })
    }

    /// Adds what is missing of the VIPs to the NIC and tells the network of those
    /// that are new; then removes others that this agent, or a dead one before
    /// it, added, if they are to go.
    ///
    /// # Errors
    /// The kernel refused an address.
    pub async fn hold(&mut self, vips: &Held) -> io::Result<()> {
        let present = addresses(&self.handle, None);
        let present = present.await.map_err(io::Error::other)?;
        for &vip in &vips.wanted {
            if !present.iter().any(|held| held.address == vip) {
                self.add(vip).await.map_err(io::Error::other)?;
            }
        }
        let new = vips.wanted.difference(&self.told).copied();
        self.tell(new.collect()).await;
        self.told.clone_from(&vips.wanted);
        match vips.others {
            Others::Go => self.remove_all_but(&vips.wanted).await,
            Others::Stay => {}
        }
        Ok(())
    }

    async fn add(&self, vip: IpAddr) -> Result<(), rtnetlink::Error> {
        let addresses = self.handle.address();
        let mut request = addresses.add(self.interface.index, vip, host_prefix(vip));
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Protocol(PROTOCOL));
        if vip.is_ipv6() {
            // Usable at once: an address that duplicate detection holds
            // back for a second answers nobody.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            // Nobody's first choice to send from, or the host would: of
            // two addresses it takes the one whose longer prefix matches.
            // A server that holds the VIP would answer a probe from there
            // to itself.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            let attributes = &mut request.message_mut().attributes;
            attributes.extend([flags, AddressAttribute::CacheInfo(lifetimes)]);
        }
        request.execute().await?;
        info!(%vip, interface = self.interface.name, "added the VIP");
        Ok(())
    }

    /// Tells the network where VIPs are: gratuitous ARP, as an announcement
    /// (RFC 5227, 2.3), and unsolicited neighbour advertisements (RFC 4861,
    /// 7.2.6).
    async fn tell(&self, vips: Vec<IpAddr>) {
        let Ok(Some(mac)) = mac_of(&self.handle, self.interface.index).await else {
            return;
        };
        for vip in vips {
            let frame = match vip {
                IpAddr::V4(vip) => gratuitous_arp(mac, vip),
                IpAddr::V6(vip) => advertisement(mac, vip),
            };
            if let Err(error) = self.socket.send(self.interface.index, &frame) {
                warn!(%vip, %error, "cannot announce the VIP");
            }
        }
    }

    /// Removes the VIPs that this agent, or a dead one before it, added.
    pub async fn end(self) {
        self.remove_all_but(&BTreeSet::new()).await;
    }

    async fn remove_all_but(&self, wanted: &BTreeSet<IpAddr>) {
        let held = match addresses(&self.handle, Some(self.interface.index)).await {
            Ok(held) => held,
            Err(error) => {
                warn!(%error, "cannot look for the VIPs to remove");
                return;
            }
        };
        for held in held {
            if !held.ours || wanted.contains(&held.address) {
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

/// A neighbour advertisement that nobody asked for, to all nodes.
fn advertisement(mac: Mac, vip: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const ICMP: u8 = 58;
    /// Type, code, checksum; then the flag that overrides what is known.
    const HEAD: [u8; 8] = [136, 0, 0, 0, 0x20, 0, 0, 0];
    /// Target link-layer address, one unit of eight bytes.
    const OPTION: [u8; 2] = [2, 1];
    let mac = <[u8; 6]>::from(mac);
    let mut message = [&HEAD[..], &vip.octets(), &OPTION, &mac].concat();
    let length = message.len() as u16;
    let pseudo = [
        &vip.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0],
        &length.to_be_bytes(),
        &[0, 0, 0, ICMP],
    ];
    let sum = checksum::sum(&pseudo.concat()).add(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.checksum().to_ne_bytes());
    // Version 6; a hop limit of 255 proves that no router was in between.
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([ICMP, 255]);
    [
        &ALL_NODES_MAC[..],
        &mac,
        &[0x86, 0xdd],
        &ip,
        &vip.octets(),
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
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

    #[test]
    fn an_advertisement_says_who_has_the_vip() {
        let mac = Mac::from([2, 0, 0, 0, 0, 1]);
        let vip: Ipv6Addr = "fd87::100".parse().unwrap();
        let frame = advertisement(mac, vip);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // As the kernel's own, captured with `ip addr add fd87::100/64` and
        // ndisc_notify = 1, but for the checksum, which is checked by summing.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        let sum = checksum::sum(&pseudo).add(checksum::sum(&frame[54..]));
        assert_eq!(sum.fold(), 0xffff);
        assert_eq!(frame[54..62], [136, 0, frame[56], frame[57], 0x20, 0, 0, 0]);
        assert_eq!(frame[62..78], vip.octets());
        assert_eq!(frame[78..86], [2, 1, 2, 0, 0, 0, 0, 1]);
    }
}
