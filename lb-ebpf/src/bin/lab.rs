//! The lab's own program: native XDP on veth loses what the peer transmits
//! by XDP_TX unless the receiving end has an XDP program too.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program's entry point is no API")]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Lets everything pass.
#[xdp]
pub fn lab_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
