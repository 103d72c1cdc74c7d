//! What IPv4 and IPv6 headers have in common, as far as steering goes.

use crate::addr::Address;
use crate::layout::Plain;
use crate::verdict::Reason;

/// A network header without options, as it lies in a packet.
pub trait NetworkHeader: Plain + Default + 'static {
    /// The addresses that it carries.
    type Address: Address<Header = Self>;

    /// The Ethernet type of such packets, in network order.
    const ETHER_TYPE: u16;

    /// The header's length in bytes.
    const LENGTH: u16;

    /// The protocol number of a packet of this family inside of another.
    const ENCAPSULATED: u8;

    /// Type and code of the ICMP error for a packet that is too long.
    const TOO_BIG: (u8, u8);

    /// The protocol number of the family's ICMP.
    const ICMP: u8;

    /// Whether ICMP's checksum covers addresses: its own packet's in a pseudo
    /// header, and a quoted one's, which no checksum of their own makes up for.
    const ICMP_COVERS_ADDRESSES: bool;

    /// What a hop less adds to the sum over the whole header.
    const HOP_DELTA: u16;

    /// Whether an ICMP message of this kind is an error.
    fn icmp_error(kind: u8) -> bool;

    /// Whether a whole TCP segment follows this header at once.
    ///
    /// # Errors
    /// A reason to pass the packet on to the host.
    fn carries_tcp(&self) -> Result<(), Reason>;

    /// The packet's length in bytes, this header included; as claimed. At
    /// least [`Self::LENGTH`], or 0.
    fn packet_length(&self) -> u32;

    /// What it carries: a protocol number.
    fn protocol(&self) -> u8;

    /// The sender.
    fn source(&self) -> Self::Address;

    /// The receiver.
    fn destination(&self) -> Self::Address;

    /// Hops left.
    fn hops(&self) -> u8;

    /// Replaces both addresses, which changes what they add to a checksum by
    /// `delta`.
    fn readdress(&mut self, source: Self::Address, destination: Self::Address, delta: u16);

    /// As [`Self::readdress`], and takes a hop away.
    fn forward(&mut self, source: Self::Address, destination: Self::Address, delta: u16);

    /// The header of a packet of our own: a fresh one, with `payload` bytes of
    /// `protocol` behind it.
    fn fresh(source: Self::Address, destination: Self::Address, protocol: u8, payload: u16)
    -> Self;
}

/// The hops that our own packets may take (RFC 1700's recommendation).
pub const FRESH_HOPS: u8 = 64;
/// The protocol number of TCP.
pub const TCP: u8 = network_types::ip::IpProto::Tcp as u8;
