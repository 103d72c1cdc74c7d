//! The kernel program: entry points, and what a verdict means to the hook.
//!
//! No policy stands here. A packet goes through `lb_common::datapath`, which
//! reaches it through `packet` and the tables through `maps`.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program's entry point is no API")]

mod kernel;
mod maps;
mod packet;
mod report;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::datapath::{self, Packet as _};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Fate;

use crate::maps::Maps;
use crate::packet::XdpPacket;

/// Set by the agent before it loads the program: not 0 where packets remain
/// socket buffers (generic XDP), whose partial checksums the kernel finishes.
#[unsafe(no_mangle)]
static KEEP_PARTIAL_CHECKSUMS: u8 = 0;

/// Steers what arrives on a NIC. Full NAT, one-armed: what leaves, leaves
/// through the NIC that it came by.
#[xdp]
pub fn lb(context: XdpContext) -> u32 {
    let mut packet = XdpPacket::new(&context);
    let length = packet.length();
    let verdict = datapath::process(&mut packet, &Maps, partial_checksum(), kernel::now);
    report::count(&verdict, length);
    report::tell(&verdict, &mut packet);
    #[cfg(feature = "log")]
    log(&context, verdict.reason);
    match verdict.fate() {
        Fate::Pass => XDP_PASS,
        Fate::Transmit | Fate::Reset => XDP_TX,
        Fate::Drop => XDP_DROP,
    }
}

#[cfg(feature = "log")]
fn log(context: &XdpContext, reason: lb_common::verdict::Reason) {
    aya_log_ebpf::debug!(context, "{} {}", reason.fate().name(), reason.name());
}

fn partial_checksum() -> PartialChecksum {
    // SAFETY: the static is valid and nobody writes to it once the program
    // is loaded. Volatile, because the agent changes it before that, where
    // the compiler cannot see it.
    let keep = unsafe { core::ptr::read_volatile(&raw const KEEP_PARTIAL_CHECKSUMS) };
    if keep == 0 {
        PartialChecksum::Finish
    } else {
        PartialChecksum::Keep
    }
}

/// The kernel gives GPL-only helpers to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
