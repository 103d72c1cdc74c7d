//! Packets in XDP buffers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
};
use aya_ebpf::programs::XdpContext;
use lb_common::addr::Address;
use lb_common::datapath::{Departure, Packet};
use lb_common::layout::Plain;
use lb_common::verdict::Fate;
use lb_common::wire::checksum::Sum;
use lb_common::wire::eth::{EthernetHeader, VlanTag};
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader as _;

use super::{Buffer as _, Frame, Hook};

/// The largest piece that is summed by one helper call, in bytes.
const CHUNK: usize = 512;

/// No segment has as many of these. Native XDP without fragments takes frames
/// of up to about 3500 bytes.
const CHUNKS: usize = 7;

/// The packet that a program was called for.
pub type XdpPacket<'a> = Frame<'a, XdpContext>;

impl XdpPacket<'_> {
    /// Copies a header to where it belongs after the frame was extended.
    #[inline(always)]
    fn copy<T: Plain>(&mut self, from: usize, to: usize) -> Option<()> {
        let (from, to) = (self.context.at::<T>(from)?, self.context.at::<T>(to)?);
        // SAFETY: `at` vouches for both ranges, and the value is read as a
        // whole before it is written.
        unsafe { to.write(from.read()) };
        Some(())
    }

    /// Adds the sum of `LENGTH` bytes, a multiple of four, at `offset`.
    #[inline(always)]
    fn add<const LENGTH: usize>(&self, sum: u32, offset: usize) -> Option<u32> {
        let bytes = self.context.at::<[u8; LENGTH]>(offset)?;
        // SAFETY: `at` vouches for the range, and the helper only reads it.
        let sum =
            unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), LENGTH as u32, sum) };
        u32::try_from(sum).ok()
    }

    /// The sum over `length` bytes from `start` on; none where the frame is
    /// shorter, or they are too many.
    ///
    /// Where each piece begins is computed from `length`, which the verifier
    /// does not know, and not counted along: then all ways to a piece look
    /// alike to it, and it follows one of them instead of every combination.
    #[inline(never)]
    fn sum(&self, start: usize, length: usize) -> Option<Sum> {
        if length >= CHUNK * CHUNKS {
            return None;
        }
        let mut sum = 0;
        for chunk in 1..CHUNKS {
            if length < chunk * CHUNK {
                break;
            }
            sum = self.add::<CHUNK>(sum, start + (chunk - 1) * CHUNK)?;
        }
        macro_rules! add_pieces {
            ($($piece:literal)+) => {$(
                if length & $piece != 0 {
                    sum = self.add::<$piece>(sum, start + (length & !($piece * 2 - 1)))?;
                }
            )+};
        }
        add_pieces!(256 128 64 32 16 8 4);
        let mut total = Sum::default().add_u32(sum);
        if length & 2 != 0 {
            let bytes = self.context.at::<[u8; 2]>(start + (length & !3))?;
            // SAFETY: `at` vouches for the range.
            total = total.add_u16(u16::from_ne_bytes(unsafe { bytes.read() }));
        }
        if length & 1 != 0 {
            let bytes = self.context.at::<u8>(start + (length & !1))?;
            // SAFETY: `at` vouches for the range.
            let last = unsafe { bytes.read() };
            total = total.add_u16(u16::from_ne_bytes([last, 0]));
        }
        Some(total)
    }
}

impl Hook for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn action(&self, departure: &Departure) -> i32 {
        #[cfg(feature = "log")]
        log(self.context, departure.verdict.reason);
        let action = match departure.verdict.fate() {
            Fate::Pass | Fate::Deliver => XDP_PASS,
            // By the NIC that it came by, or by another one.
            Fate::Transmit | Fate::Reset | Fate::Notify if departure.ifindex == self.ifindex() => {
                XDP_TX
            }
            Fate::Transmit | Fate::Reset | Fate::Notify => {
                // SAFETY: the helper only notes where the packet goes once the
                // program has returned what it gives.
                unsafe { bpf_redirect(departure.ifindex, 0) as u32 }
            }
            Fate::Drop => XDP_DROP,
        };
        action as i32
    }
}

#[cfg(feature = "log")]
fn log(context: &XdpContext, reason: lb_common::verdict::Reason) {
    aya_log_ebpf::debug!(context, "{} {}", reason.fate().name(), reason.name());
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn ether_type(&mut self) -> Option<u16> {
        self.find_network()
    }

    #[inline(always)]
    fn available(&self) -> usize {
        self.behind_network()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one that the kernel called us with.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn window<T: Plain>(&mut self) -> Option<(&mut EthernetHeader, &mut T)> {
        // SAFETY: `&mut self` makes these windows the only ones, and helpers
        // that move the packet wait for them; `network` is what `ether_type`
        // found.
        unsafe { self.context.windows(self.network) }
    }

    #[inline(always)]
    fn transport_sum<A: Address>(&self, length: u16) -> Option<Sum> {
        self.sum(
            self.network + A::Header::LENGTH as usize,
            usize::from(length),
        )
    }

    #[inline(always)]
    fn truncate<A: Address>(&mut self) -> Option<()> {
        let kept = self.network + Headers::<A::Header>::LENGTH;
        let excess = self.length as i32 - kept as i32;
        // SAFETY: the context is the one that the kernel called us with. No
        // window is alive: `&mut self` excludes it.
        let status =
            unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast(), excess.wrapping_neg()) };
        if status != 0 {
            return None;
        }
        self.length = kept;
        Some(())
    }

    #[inline(always)]
    fn prepend<T: Plain>(&mut self, header: &T) -> Option<()> {
        let room = size_of::<T>();
        // SAFETY: the context is the one that the kernel called us with. No
        // window is alive: `&mut self` excludes it.
        let status = unsafe {
            bpf_xdp_adjust_head(self.context.as_ptr().cast(), (room as i32).wrapping_neg())
        };
        if status != 0 {
            return None;
        }
        self.length += room;
        self.copy::<EthernetHeader>(room, 0)?;
        for tag in 0..VlanTag::MAX {
            let offset = EthernetHeader::LENGTH + tag * VlanTag::LENGTH;
            if offset >= self.network {
                break;
            }
            self.copy::<VlanTag>(room + offset, offset)?;
        }
        let place = self.context.at::<T>(self.network)?;
        // SAFETY: `at` vouches for the range, and for alignment see `Buffer::windows`.
        unsafe { place.write(*header) };
        Some(())
    }
}
