//! Network and TCP header as one window, and the segment that they describe.

use crate::emit::ChecksumForm;
use crate::flow::FlowKey;
use crate::layout::bytes_of;
use crate::nat::{self, PartialChecksum};
use crate::verdict::Reason;
use crate::wire::checksum::{self, Sum};
use crate::wire::network::NetworkHeader;
use crate::wire::tcp::{Flags, TcpHeader};

/// A network header without options and the TCP header behind it: with the
/// Ethernet header all that the data path reads or writes of a segment. TCP
/// options follow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers<N> {
    /// IPv4 or IPv6.
    pub network: N,
    /// TCP.
    pub tcp: TcpHeader,
}

/// One TCP segment as parsed from a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment<A> {
    /// Addresses and ports.
    pub key: FlowKey<A>,
    /// Control bits.
    pub flags: Flags,
    /// Sequence number of the first byte, in host order.
    pub sequence: u32,
    /// Acknowledgment number, in host order.
    pub acknowledgment: u32,
    /// The longest packet that it takes on the wire: its own length in bytes,
    /// unless the kernel cuts it into several.
    pub length: u32,
    /// Hops left.
    pub hops: u8,
    /// Always 0: see [`crate::verdict::Verdict::reserved`].
    pub reserved: [u8; 2],
}

impl<N: NetworkHeader> Headers<N> {
    /// The length of the window in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// Whether these headers describe a segment, where `available` bytes are
    /// there from the network header on.
    ///
    /// # Errors
    /// A reason to pass the packet on to the host.
    #[inline(always)]
    pub fn check(&self, available: usize) -> Result<(), Reason> {
        self.network.carries_tcp()?;
        let packet = self.network.packet_length();
        let header = self.tcp.length();
        if packet as usize > available
            || header < size_of::<TcpHeader>() as u16
            || packet < N::LENGTH as u32 + header as u32
        {
            return Err(Reason::Malformed);
        }
        Ok(())
    }

    /// The segment that these headers describe.
    #[inline(always)]
    #[must_use]
    pub fn segment(&self) -> Segment<N::Address> {
        Segment {
            key: self.key(),
            flags: self.tcp.flags,
            sequence: self.tcp.sequence(),
            acknowledgment: self.tcp.acknowledgment(),
            length: self.network.packet_length(),
            hops: self.network.hops(),
            reserved: [0; 2],
        }
    }

    /// Addresses and ports.
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> FlowKey<N::Address> {
        FlowKey {
            source: self.network.source(),
            destination: self.network.destination(),
            source_port: self.tcp.source,
            destination_port: self.tcp.destination,
        }
    }

    /// The TCP header's and the payload's length in bytes.
    #[inline(always)]
    #[must_use]
    pub fn tcp_length(&self) -> u16 {
        (self.network.packet_length() as u16).wrapping_sub(N::LENGTH)
    }

    /// Whether the sender left the TCP checksum to its NIC: then the field
    /// holds the pseudo header's sum and no more.
    ///
    /// One complete checksum in 65536 looks the same by chance.
    #[inline(always)]
    #[must_use]
    pub fn checksum_partial(&self) -> bool {
        let (source, destination) = (self.network.source(), self.network.destination());
        let pseudo = nat::pseudo_sum(source, destination, self.tcp_length());
        self.tcp.checksum == pseudo.fold()
    }

    /// What the TCP checksum field holds where the hook treats it like this.
    #[inline(always)]
    #[must_use]
    pub fn checksum_form(&self, partial: PartialChecksum) -> ChecksumForm {
        match partial {
            PartialChecksum::Keep if self.checksum_partial() => ChecksumForm::Partial,
            PartialChecksum::Keep | PartialChecksum::Finish => ChecksumForm::Complete,
        }
    }

    /// The sum over these headers, nothing behind them, as they will be once a
    /// partial checksum is finished.
    #[inline(always)]
    #[must_use]
    pub fn quoted_sum(&self, form: ChecksumForm) -> Sum {
        match form {
            ChecksumForm::Complete => checksum::sum(bytes_of(self)),
            // Finished, the field holds the complement of the sum over the TCP
            // header: with it, that sums to what was in the field before, its
            // complement.
            ChecksumForm::Partial => {
                checksum::sum(bytes_of(&self.network)).add_u16(!self.tcp.checksum)
            }
        }
    }

    /// The payload's length in bytes.
    #[inline(always)]
    #[must_use]
    pub fn payload_length(&self) -> u16 {
        self.tcp_length().wrapping_sub(self.tcp.length())
    }
}
