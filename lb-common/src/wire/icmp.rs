//! ICMP errors (RFC 792, RFC 4443) about a TCP segment, and the window that
//! holds all that is read or written of one.

use crate::addr::{Address as _, Port};
use crate::flow::FlowKey;
use crate::layout::bytes_of;
use crate::verdict::Reason;
use crate::wire::checksum::{self, Sum};
use crate::wire::frame::Headers;
use crate::wire::network::NetworkHeader;
use crate::wire::tcp::TcpHeader;

/// The header as it lies in a packet, 16-bit fields in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IcmpHeader {
    /// What kind of message this is.
    pub kind: u8,
    /// What kind of its kind.
    pub code: u8,
    /// The checksum over the message; ICMPv6: and a pseudo header.
    pub checksum: u16,
    /// For "fragmentation needed" and "packet too big" the MTU; in IPv4 only
    /// the second word.
    pub rest: [u16; 2],
}

/// What an error quotes of the TCP header at least (RFC 792).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuotedTcp {
    /// The sender's port.
    pub source: Port,
    /// The receiver's port.
    pub destination: Port,
    sequence: [u16; 2],
}

/// A network header without options, an ICMP error, and what it quotes: the
/// network header of the segment that it is about, and the ports.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IcmpError<N> {
    /// Of the error.
    pub network: N,
    /// Of the error.
    pub icmp: IcmpHeader,
    /// Of the segment.
    pub quoted: N,
    /// Of the segment.
    pub tcp: QuotedTcp,
}

/// What comes before a quoted segment: with it, an ICMP error of our own.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notice<N> {
    /// The network header.
    pub network: N,
    /// The ICMP header.
    pub icmp: IcmpHeader,
}

impl<N: NetworkHeader> Notice<N> {
    /// The error that says to the sender of a segment with `key` that only
    /// packets of `mtu` bytes get through. Its headers follow, whose sum is
    /// `quoted`.
    #[inline(always)]
    #[must_use]
    pub fn too_big(key: &FlowKey<N::Address>, mtu: u16, quoted: Sum) -> Self {
        let length = (size_of::<IcmpHeader>() + size_of::<Headers<N>>()) as u16;
        let (kind, code) = N::TOO_BIG;
        let mut icmp = IcmpHeader {
            kind,
            code,
            rest: [0, mtu.to_be()],
            ..IcmpHeader::default()
        };
        let mut sum = quoted.add(checksum::sum(bytes_of(&icmp)));
        if N::ICMP_COVERS_ADDRESSES {
            let addresses = key.source.sum().add(key.destination.sum());
            let protocol = (N::ICMP as u16).to_be();
            sum = sum.add(addresses).add_u16(protocol).add_u16(length.to_be());
        }
        icmp.checksum = sum.checksum();
        Self {
            network: N::fresh(key.destination, key.source, N::ICMP, length),
            icmp,
        }
    }
}

const _: () = assert!(size_of::<QuotedTcp>() < size_of::<TcpHeader>());

impl<N: NetworkHeader> IcmpError<N> {
    /// Whether this is an error about a segment, where `available` bytes are
    /// there from the network header on. It is sent to whom the segment came
    /// from; anything else is a forgery.
    ///
    /// # Errors
    /// [`Reason::NotTcp`]: a reason to pass the packet on to the host.
    #[inline(always)]
    pub fn check(&self, available: usize) -> Result<(), Reason> {
        let packet = self.network.packet_length() as usize;
        if self.network.protocol() != N::ICMP
            || !N::icmp_error(self.icmp.kind)
            || packet > available
            || packet < size_of::<Self>()
            || self.quoted.carries_tcp().is_err()
            || self.quoted.source() != self.network.destination()
        {
            return Err(Reason::NotTcp);
        }
        Ok(())
    }

    /// Addresses and ports of the segment that the error is about.
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> FlowKey<N::Address> {
        FlowKey {
            source: self.quoted.source(),
            destination: self.quoted.destination(),
            source_port: self.tcp.source,
            destination_port: self.tcp.destination,
        }
    }
}
