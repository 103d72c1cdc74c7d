//! Packets in the kernel's buffers, through windows whose bounds are checked.

mod tc;
mod xdp;

use core::marker::PhantomData;

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

/// The packet that a program was called for, in the memory that its context
/// describes.
pub struct Frame<'a, C> {
    context: &'a C,
    /// The frame's length in bytes, as it came. Kept, because the verifier
    /// refuses what the compiler makes of a difference of pointers here and
    /// there.
    length: usize,
    /// Where the network header begins, in bytes from the frame's start.
    network: usize,
    window: PhantomData<&'a mut EthernetHeader>,
}

impl<'a, C: Buffer> Frame<'a, C> {
    /// The packet of `context`.
    #[inline(always)]
    pub fn new(context: &'a C) -> Self {
        Self {
            context,
            length: context.length(),
            network: EthernetHeader::LENGTH,
            window: PhantomData,
        }
    }

    /// Finds the network header; gives the Ethernet type before it.
    #[inline(always)]
    fn find_network(&mut self) -> Option<u16> {
        let (ether_type, network) = self.context.ether_type()?;
        self.network = network;
        Some(ether_type)
    }

    /// How many bytes there are from the network header on.
    #[inline(always)]
    fn behind_network(&self) -> usize {
        self.length - self.network
    }
}

/// The memory that holds a packet, as a program's context describes it: it
/// belongs to the program until that returns, but for what helpers do to it,
/// after which the context describes it anew.
pub trait Buffer {
    /// The address of its first byte.
    fn start(&self) -> usize;
    /// The address behind its last byte.
    fn end(&self) -> usize;
    /// The frame's length in bytes, also of what lies elsewhere.
    fn length(&self) -> usize;

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

    #[inline(always)]
    fn length(&self) -> usize {
        self.data_end() - self.data()
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

    #[inline(always)]
    fn length(&self) -> usize {
        self.len() as usize
    }
}
