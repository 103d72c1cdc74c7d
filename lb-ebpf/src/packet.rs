//! Packets in XDP buffers, through windows whose bounds are checked.

use core::marker::PhantomData;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::Packet;
use lb_common::wire::checksum::Sum;
use lb_common::wire::frame::Headers;
use lb_common::wire::tcp::TcpHeader;

/// Where the TCP header begins, in bytes from the frame's start.
const TCP_OFFSET: usize = Headers::LENGTH - size_of::<TcpHeader>();

/// The largest piece that is summed by one helper call, in bytes.
const CHUNK: usize = 512;

/// No segment has as many of these. Native XDP without fragments takes frames
/// of up to about 3500 bytes.
const CHUNKS: usize = 7;

/// The packet that a program was called for.
pub struct XdpPacket<'a> {
    context: &'a XdpContext,
    window: PhantomData<&'a mut Headers>,
}

impl<'a> XdpPacket<'a> {
    /// The packet of `context`.
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self {
            context,
            window: PhantomData,
        }
    }

    /// The bytes `offset..offset + LENGTH` of the frame; none where it is
    /// shorter.
    #[inline(always)]
    fn bytes<const LENGTH: usize>(&self, offset: usize) -> Option<*mut [u8; LENGTH]> {
        let start = self.context.data() + offset;
        if start + LENGTH > self.context.data_end() {
            return None;
        }
        Some(start as *mut [u8; LENGTH])
    }

    /// Adds the sum of `LENGTH` bytes, a multiple of four, at `offset`.
    #[inline(always)]
    fn add<const LENGTH: usize>(&self, sum: u32, offset: usize) -> Option<u32> {
        let bytes = self.bytes::<LENGTH>(offset)?;
        // SAFETY: `bytes` vouches for the range, and the helper only reads it.
        let sum =
            unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), LENGTH as u32, sum) };
        u32::try_from(sum).ok()
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.data_end() - self.context.data()
    }

    #[inline(always)]
    fn headers(&mut self) -> Option<&mut Headers> {
        let window = self.bytes::<{ Headers::LENGTH }>(0)?;
        // SAFETY: `bytes` vouches for the range. The buffer belongs to this
        // program until it returns, `&mut self` makes the window the only
        // one, and every bit pattern is a `Headers`. It begins on an even
        // address, as `Headers` asks for: XDP buffers keep a headroom of 256
        // bytes, and socket buffers start at 2 modulo 4 (NET_IP_ALIGN) or 0.
        Some(unsafe { &mut *window.cast::<Headers>() })
    }

    /// Where each piece begins is computed from `length`, which the verifier
    /// does not know, and not counted along: then all ways to a piece look
    /// alike to it, and it follows one of them instead of every combination.
    #[inline(always)]
    fn transport_sum(&self, length: u16) -> Option<Sum> {
        let length = usize::from(length);
        if length >= CHUNK * CHUNKS {
            return None;
        }
        let mut sum = 0;
        for chunk in 1..CHUNKS {
            if length < chunk * CHUNK {
                break;
            }
            sum = self.add::<CHUNK>(sum, TCP_OFFSET + (chunk - 1) * CHUNK)?;
        }
        macro_rules! add_pieces {
            ($($piece:literal)+) => {$(
                if length & $piece != 0 {
                    sum = self.add::<$piece>(sum, TCP_OFFSET + (length & !($piece * 2 - 1)))?;
                }
            )+};
        }
        add_pieces!(256 128 64 32 16 8 4);
        let mut total = Sum::default().add_u32(sum);
        if length & 2 != 0 {
            let bytes = self.bytes::<2>(TCP_OFFSET + (length & !3))?;
            // SAFETY: `bytes` vouches for the range.
            total = total.add_u16(u16::from_ne_bytes(unsafe { bytes.read() }));
        }
        if length & 1 != 0 {
            let bytes = self.bytes::<1>(TCP_OFFSET + (length & !1))?;
            // SAFETY: `bytes` vouches for the range.
            let [last] = unsafe { bytes.read() };
            total = total.add_u16(u16::from_ne_bytes([last, 0]));
        }
        Some(total)
    }

    #[inline(always)]
    fn truncate(&mut self) -> Option<()> {
        let excess = self.length() as i32 - Headers::LENGTH as i32;
        // SAFETY: the context is the one that the kernel called us with. No
        // window is alive: `&mut self` excludes it.
        let status =
            unsafe { bpf_xdp_adjust_tail(self.context.as_ptr().cast(), excess.wrapping_neg()) };
        (status == 0).then_some(())
    }
}
