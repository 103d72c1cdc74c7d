//! The Ethernet II header.

use network_types::eth::{EthHdr, EtherType};

use crate::addr::Mac;

/// The header as it lies in a packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EthernetHeader {
    /// The receiver.
    pub destination: Mac,
    /// The sender.
    pub source: Mac,
    /// What the frame carries, in network order.
    pub ether_type: u16,
}

impl EthernetHeader {
    /// `ether_type` of an IPv4 packet without a VLAN tag, as loaded.
    pub const IPV4: u16 = EtherType::Ipv4 as u16;
}

const _: () = assert!(size_of::<EthernetHeader>() == EthHdr::LEN);
