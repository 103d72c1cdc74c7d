//! The kernel program: entry points, and what a verdict means to the hook.
//!
//! No policy stands here. A packet goes through `lb_common::datapath`, which
//! reaches it through `packet` and the tables through `tables`.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(missing_docs, reason = "a program's entry point is no API")]

mod kernel;
mod maps;
mod packet;
mod reap;
mod report;
mod steps;
mod tables;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Fate;

use crate::packet::{Hook as _, TcPacket, XdpPacket};

/// Set by the agent before it loads the program: not 0 where packets remain
/// socket buffers (generic XDP), whose partial checksums the kernel finishes.
#[unsafe(no_mangle)]
static KEEP_PARTIAL_CHECKSUMS: u8 = 0;

/// Steers what arrives on a NIC.
#[xdp]
pub fn lb(context: XdpContext) -> u32 {
    steps::steer(&mut XdpPacket::new(&context), partial_checksum()) as u32
}

/// Takes IPv4 connections out of FLOWS, for the agent.
#[xdp]
pub fn lb_reap_v4(context: XdpContext) -> u32 {
    reap::reap::<Ipv4>(&context)
}

/// Takes IPv6 connections out of FLOWS, for the agent.
#[xdp]
pub fn lb_reap_v6(context: XdpContext) -> u32 {
    reap::reap::<Ipv6>(&context)
}

/// Steers what arrives on a NIC, at TC ingress.
#[classifier]
pub fn lb_tc(context: TcContext) -> i32 {
    steps::steer(&mut TcPacket::new(&context), PartialChecksum::Keep)
}

/// Rewrites what servers on this host reply, at TC egress.
#[classifier]
pub fn lb_egress(context: TcContext) -> i32 {
    let mut packet = TcPacket::new(&context);
    let length = packet.length();
    let Some(verdict) = steps::steer_reply(&mut packet) else {
        return TC_ACT_UNSPEC;
    };
    report::count(&verdict, length);
    match verdict.fate() {
        Fate::Pass | Fate::Transmit | Fate::Deliver => TC_ACT_UNSPEC,
        Fate::Reset | Fate::Notify | Fate::Drop => TC_ACT_SHOT,
    }
}

#[inline(always)]
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
