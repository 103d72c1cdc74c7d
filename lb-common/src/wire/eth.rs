//! The Ethernet II header, and the VLAN tags behind it.

use network_types::eth::{EthHdr, EtherType};

use crate::addr::Mac;
use crate::target::Hop;

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
    /// The header's length in bytes, without tags.
    pub const LENGTH: usize = size_of::<Self>();
    /// `ether_type` of an IPv4 packet, as loaded.
    pub const IPV4: u16 = EtherType::Ipv4 as u16;
    /// `ether_type` of an IPv6 packet, as loaded.
    pub const IPV6: u16 = EtherType::Ipv6 as u16;

    /// The header of a frame that leaves through `hop`.
    #[inline(always)]
    #[must_use]
    pub const fn new(hop: Hop, ether_type: u16) -> Self {
        Self {
            destination: hop.destination,
            source: hop.source,
            ether_type,
        }
    }

    /// Sends the frame through `hop`.
    #[inline(always)]
    pub fn leave_by(&mut self, hop: Hop) {
        self.destination = hop.destination;
        self.source = hop.source;
    }
}

/// A VLAN tag (IEEE 802.1Q): what follows an `ether_type` that says so.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VlanTag {
    /// Priority and VLAN, in network order.
    pub control: u16,
    /// What the frame carries, in network order.
    pub ether_type: u16,
}

impl VlanTag {
    /// The tag's length in bytes.
    pub const LENGTH: usize = size_of::<Self>();
    /// How many tags a frame may have: a customer's and a provider's.
    pub const MAX: usize = 2;

    /// Whether a tag follows this `ether_type`.
    #[inline(always)]
    #[must_use]
    pub const fn follows(ether_type: u16) -> bool {
        ether_type == EtherType::Ieee8021q as u16 || ether_type == EtherType::Ieee8021ad as u16
    }
}

const _: () = assert!(size_of::<EthernetHeader>() == EthHdr::LEN);
