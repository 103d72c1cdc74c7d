//! Packets in socket buffers: at TC ingress and egress.
//!
//! Whether a checksum is complete, or left to a NIC, or was computed over the
//! whole packet by one, only the kernel knows: its helpers change checksums as
//! each case asks for, so that many segments in one buffer (GSO) stay so.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_PSEUDO_HDR, TC_ACT_SHOT,
    TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_csum_update, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_pull_data,
};
use aya_ebpf::programs::TcContext;
use lb_common::addr::Address;
use lb_common::datapath::{Departure, Packet};
use lb_common::emit::{self, ChecksumForm};
use lb_common::layout::{Plain, bytes_of};
use lb_common::nat::{PartialChecksum, Remainder, Rewrite};
use lb_common::wire::checksum::{self, Sum};
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader;
use lb_common::wire::tcp::TcpHeader;

use lb_common::verdict::Fate;

use super::{Buffer as _, Frame, Hook};

/// What is ever looked at of a packet, in bytes: an ICMPv6 error about a
/// segment, behind an Ethernet header and two tags.
const LINEAR: usize = 136;

/// BPF_F_IPV6, since Linux 6.16: a pseudo header of IPv6, whose addresses no
/// checksum of their own covers. An older kernel refuses the flag, and takes
/// the change for one of IPv4: then the sum that a NIC computed over the whole
/// packet is wrong, which costs its receiver a computation of its own.
const IPV6: u64 = 1 << 7;

/// The packet that a program was called for.
pub type TcPacket<'a> = Frame<'a, TcContext>;

impl TcPacket<'_> {
    /// Makes sure that the headers are where windows can be opened on them.
    #[inline(always)]
    fn pull(&self) {
        if self.context.data() + LINEAR > self.context.data_end() {
            let length = if self.length < LINEAR {
                self.length
            } else {
                LINEAR
            };
            // SAFETY: the context is the one that the kernel called us with,
            // and no window is open yet. Where it fails, headers are missing.
            unsafe { bpf_skb_pull_data(self.context.skb.skb, length as u32) };
        }
    }

    /// Where the TCP checksum is, in bytes from the frame's start.
    #[inline(always)]
    fn checksum_offset<A: Address>(&self) -> usize {
        self.network + A::Header::LENGTH as usize + core::mem::offset_of!(TcpHeader, checksum)
    }

    /// Changes the TCP checksum by `delta`, as the kernel sees fit.
    #[inline(always)]
    fn change_checksum<A: Address>(&mut self, delta: u16, flags: u64) -> Option<()> {
        let offset = self.checksum_offset::<A>();
        let skb = &self.context.skb;
        skb.l4_csum_replace(offset, 0, delta as u64, flags).ok()
    }

    /// Changes the TCP checksum for addresses that changed by `delta`.
    #[inline(always)]
    fn change_pseudo_header<A: Address>(&mut self, delta: u16) -> Option<()> {
        let pseudo = BPF_F_PSEUDO_HDR as u64;
        if A::Header::ICMP_COVERS_ADDRESSES {
            let changed = self.change_checksum::<A>(delta, pseudo | IPV6);
            if changed.is_some() {
                return changed;
            }
        }
        self.change_checksum::<A>(delta, pseudo)
    }

    /// What the TCP checksum field holds; which only the kernel knows, who
    /// leaves it alone where it is partial and no address changes. Changes it.
    #[inline(always)]
    fn checksum_form<A: Address>(&mut self) -> Option<ChecksumForm> {
        let before = self.headers::<A>()?.1.tcp.checksum;
        self.change_checksum::<A>(1, 0)?;
        let after = self.headers::<A>()?.1.tcp.checksum;
        Some(if before == after {
            ChecksumForm::Partial
        } else {
            ChecksumForm::Complete
        })
    }

    /// The sum over network and TCP header.
    #[inline(always)]
    fn headers_sum<A: Address>(&mut self) -> Option<Sum> {
        let headers = self.context.at::<Headers<A::Header>>(self.network)?;
        let length = size_of::<Headers<A::Header>>() as u32;
        // SAFETY: `at` vouches for the range, and the helper only reads it.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, headers.cast(), length, 0) };
        u32::try_from(sum)
            .ok()
            .map(|sum| Sum::default().add_u32(sum))
    }

    /// Makes room for `T` before the network header, and writes it there.
    #[inline(always)]
    fn insert<T: Plain>(&mut self, header: &T, flags: u64) -> Option<()> {
        let room = size_of::<T>();
        let mode = BPF_ADJ_ROOM_MAC;
        // SAFETY: the context is the one that the kernel called us with. No
        // window is alive: `&mut self` excludes it.
        let status = unsafe { bpf_skb_adjust_room(self.context.skb.skb, room as i32, mode, flags) };
        if status != 0 {
            return None;
        }
        self.length += room;
        self.pull();
        let place = self.context.at::<T>(self.network)?;
        // SAFETY: `at` vouches for the range, and for alignment see `Buffer::windows`.
        unsafe { place.write(*header) };
        self.sum_changed(checksum::sum(bytes_of(header)).fold());
        Some(())
    }
}

impl Hook for TcPacket<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn action(&self, departure: &Departure) -> i32 {
        match departure.verdict.fate() {
            Fate::Pass | Fate::Deliver => TC_ACT_UNSPEC,
            Fate::Transmit | Fate::Reset | Fate::Notify => {
                // SAFETY: the helper only notes where the packet goes once the
                // program has returned what it gives.
                unsafe { bpf_redirect(departure.ifindex, 0) as i32 }
            }
            Fate::Drop => TC_ACT_SHOT,
        }
    }
}

impl Packet for TcPacket<'_> {
    #[inline(always)]
    fn ether_type(&mut self) -> Option<u16> {
        self.pull();
        self.find_network()
    }

    #[inline(always)]
    fn available(&self) -> usize {
        self.behind_network()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one that the kernel called us with.
        unsafe { (*self.context.skb.skb).ifindex }
    }

    #[inline(always)]
    fn window<T: Plain>(&mut self) -> Option<(&mut EthernetHeader, &mut T)> {
        // SAFETY: `&mut self` makes these windows the only ones, and helpers
        // that move the packet wait for them; `network` is what `ether_type`
        // found. That the packet is this program's own the kernel makes sure
        // of: it copies one that others hold too before a program that writes
        // begins.
        unsafe { self.context.windows(self.network) }
    }

    #[inline(always)]
    fn sum_changed(&mut self, delta: u16) {
        // SAFETY: the context is the one that the kernel called us with. It
        // refuses where no NIC computed a sum: then there is none to change.
        unsafe { bpf_csum_update(self.context.skb.skb, delta as u32) };
    }

    #[inline(always)]
    fn longest<A: Address>(&mut self, length: u32) -> u32 {
        // SAFETY: the context is the one that the kernel called us with.
        let segment = unsafe { (*self.context.skb.skb).gso_size };
        if segment == 0 {
            return length;
        }
        // A header in front makes the kernel cut shorter segments.
        match self.headers::<A>() {
            Some((_, headers)) => segment + headers.tcp.length() as u32,
            None => length,
        }
    }

    /// Never asked for: partial checksums are kept.
    #[inline(always)]
    fn transport_sum<A: Address>(&self, _: u16) -> Option<Sum> {
        None
    }

    #[inline(always)]
    fn update_checksum<N: NetworkHeader>(
        _: &mut Headers<N>,
        _: (u16, u16),
        _: PartialChecksum,
    ) -> Remainder {
        Remainder::Sum
    }

    #[inline(always)]
    fn complete<A: Address>(&mut self, rewrite: &Rewrite<A>, _: Remainder) -> Option<()> {
        if rewrite.local == 0 && A::Header::HOP_DELTA != 0 {
            self.sum_changed(A::Header::HOP_DELTA);
        }
        self.change_pseudo_header::<A>(rewrite.address_delta)?;
        self.change_checksum::<A>(rewrite.port_delta, 0)
    }

    #[inline(always)]
    fn reset<A: Address>(&mut self, _: PartialChecksum) -> Option<()> {
        self.truncate::<A>()?;
        let before = self.headers_sum::<A>()?;
        let form = self.checksum_form::<A>()?;
        emit::reset::<A>(self.headers::<A>()?.1, form);
        let after = self.headers_sum::<A>()?;
        self.sum_changed(after.subtract(before).fold());
        Some(())
    }

    #[inline(always)]
    fn quoted_sum<A: Address>(&mut self, _: PartialChecksum) -> Option<Sum> {
        let checksum = self.headers::<A>()?.1.tcp.checksum;
        let form = self.checksum_form::<A>()?;
        let headers = self.headers::<A>()?.1;
        headers.tcp.checksum = checksum;
        Some(headers.quoted_sum(form))
    }

    #[inline(always)]
    fn truncate<A: Address>(&mut self) -> Option<()> {
        let kept = self.network + Headers::<A::Header>::LENGTH;
        // SAFETY: the context is the one that the kernel called us with. No
        // window is alive: `&mut self` excludes it.
        let status = unsafe { bpf_skb_change_tail(self.context.skb.skb, kept as u32, 0) };
        if status != 0 {
            return None;
        }
        self.length = kept;
        Some(())
    }

    #[inline(always)]
    fn prepend<T: Plain>(&mut self, header: &T) -> Option<()> {
        self.insert(header, 0)
    }

    #[inline(always)]
    fn wrap<N: NetworkHeader>(&mut self, outer: &N) -> Option<()> {
        // By these the kernel knows how to cut what is inside into segments.
        let flags = if N::ETHER_TYPE == EthernetHeader::IPV4 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        };
        self.insert(outer, flags as u64)
    }
}
