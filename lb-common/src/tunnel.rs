//! Tunnels: IPv4 in IPv4 (RFC 2003), IPv6 in IPv6 (RFC 2473).
//!
//! The packet inside goes on as it came, but for the hop that forwarding it
//! is. A packet that does not fit is answered with the ICMP error that path
//! MTU discovery asks for, whether or not it may be fragmented: nobody here
//! could.

use crate::addr::Address;
use crate::datapath::Packet;
use crate::nat::PartialChecksum;
use crate::steer::Case;
use crate::target::Target;
use crate::wire::icmp::Notice;
use crate::wire::network::NetworkHeader as _;

/// The way through a tunnel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tunnel<A> {
    /// Our end.
    pub source: A,
    /// The server's end.
    pub destination: A,
    /// The longest packet that the way takes, the outer header included.
    pub mtu: u32,
}

impl<A: Address> Tunnel<A> {
    /// The tunnel to a target.
    #[inline(always)]
    #[must_use]
    pub fn to(target: &Target<A>) -> Self {
        Self {
            source: target.tunnel,
            destination: target.server,
            mtu: match target.mtu {
                0 => u16::MAX as u32,
                mtu => mtu as u32,
            },
        }
    }

    /// The longest packet that fits into it.
    #[inline(always)]
    #[must_use]
    pub fn payload(&self) -> u16 {
        (self.mtu as u16).saturating_sub(A::Header::LENGTH)
    }

    /// Whether a packet of `length` bytes does not fit.
    #[inline(always)]
    #[must_use]
    pub fn is_too_narrow_for(&self, length: u32) -> bool {
        length > self.payload() as u32
    }
}

/// Wraps a packet for its way through `tunnel`.
#[inline(always)]
pub fn encapsulate<A: Address, P: Packet>(packet: &mut P, tunnel: &Tunnel<A>) -> Option<()> {
    let (_, inner) = packet.window::<A::Header>()?;
    let length = inner.packet_length() as u16;
    let outer = A::Header::fresh(
        tunnel.source,
        tunnel.destination,
        A::Header::ENCAPSULATED,
        length,
    );
    packet.wrap(&outer)
}

/// Turns a segment into the answer that says how long packets may be. It
/// quotes the headers.
#[inline(always)]
pub fn notify<A: Address, P: Packet>(
    packet: &mut P,
    case: &Case<A>,
    partial: PartialChecksum,
) -> Option<()> {
    packet.truncate::<A>()?;
    packet.headers::<A>()?.0.leave_by(case.back);
    let quoted = packet.quoted_sum::<A>(partial)?;
    let mtu = case.tunnel.payload();
    packet.prepend(&Notice::<A::Header>::too_big(
        &case.segment.key,
        mtu,
        quoted,
    ))
}
