//! Packets in the kernel's buffers, through windows whose bounds are checked.

mod tc;
mod xdp;

use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::datapath::{Departure, Packet};
use lb_common::layout::Plain;
use lb_common::wire::eth::{EthernetHeader, VlanTag};

pub use tc::TcPacket;
pub use xdp::XdpPacket;

/// What a program's hook makes of a packet.
pub trait Hook: Packet {
    /// The frame's length in bytes.
    fn length(&self) -> usize;
    /// What the program returns: never negative, but for -1.
    fn action(&self, departure: &Departure) -> i32;
}

/// The memory that holds a packet, as a program's context describes it: it
/// belongs to the program until that returns, but for what helpers do to it,
/// after which the context describes it anew.
pub trait Buffer {
    /// The address of its first byte.
    fn start(&self) -> usize;
    /// The address behind its last byte.
    fn end(&self) -> usize;

    /// The `T` at `offset` of the frame; none where it is shorter.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.start() + offset;
        if start + size_of::<T>() > self.end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// The Ethernet type behind the VLAN tags, and where the network header
    /// begins, in bytes from the frame's start.
    #[inline(always)]
    fn ether_type(&self) -> Option<(u16, usize)> {
        let mut network = EthernetHeader::LENGTH;
        // SAFETY: `at` vouches for the range; every bit pattern is a header.
        let mut ether_type = unsafe { (*self.at::<EthernetHeader>(0)?).ether_type };
        for _ in 0..VlanTag::MAX {
            if !VlanTag::follows(ether_type) {
                break;
            }
            // SAFETY: as above.
            ether_type = unsafe { (*self.at::<VlanTag>(network)?).ether_type };
            network += VlanTag::LENGTH;
        }
        Some((ether_type, network))
    }

    /// The Ethernet header, and the headers that begin at `network`; none
    /// where the frame is shorter.
    ///
    /// # Safety
    /// While the windows are in use there are no others, and no helper is
    /// called that moves the packet. `network` lies behind the Ethernet header.
    #[inline(always)]
    unsafe fn windows<'a, T: Plain>(
        &self,
        network: usize,
    ) -> Option<(&'a mut EthernetHeader, &'a mut T)> {
        let eth = self.at::<EthernetHeader>(0)?;
        let headers = self.at::<T>(network)?;
        // SAFETY: `at` vouches for both ranges, which do not overlap; that the
        // windows are the only ones the caller does. Every bit pattern is a
        // header. They begin on even addresses, as headers ask for: XDP
        // buffers keep a headroom of 256 bytes, and socket buffers start at 2
        // modulo 4 (NET_IP_ALIGN) or 0.
        Some(unsafe { (&mut *eth, &mut *headers) })
    }
}

impl Buffer for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl Buffer for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}
