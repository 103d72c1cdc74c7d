//! The lab's own programs.
//!
//! - `lab_pass`: native XDP on veth loses what the peer transmits by XDP_TX
//!   unless the receiving end has an XDP program too.
//! - `lab_decap`: the end of an IPIP tunnel, for kernels without the driver.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program's entry point is no API")]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Bytes of an Ethernet header.
const ETH: usize = 14;
/// Bytes of the outer headers, which have no options and no extensions.
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Where an Ethernet header names its payload, and the names.
const ETHER_TYPE: usize = 12;
const ETHER_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_IPV6: [u8; 2] = [0x86, 0xdd];
/// Where an IPv4 header has its length, its fragment bits, its payload's name.
const IPV4_LENGTH: usize = ETH;
const IPV4_FRAGMENT: usize = ETH + 6;
const IPV4_PROTOCOL: usize = ETH + 9;
/// Where an IPv6 header names its payload.
const IPV6_NEXT: usize = ETH + 6;
/// The name of IPv4 as a payload of IPv4, and of IPv6 as one of IPv6.
const IN_IPV4: u8 = 4;
const IN_IPV6: u8 = 41;

/// Lets everything pass.
#[xdp]
pub fn lab_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Takes the outer header off tunnelled packets; lets everything pass.
#[xdp]
pub fn lab_decap(context: XdpContext) -> u32 {
    let stripped = match read(&context, ETHER_TYPE) {
        Some(ETHER_IPV4) if is_tunnelled_ipv4(&context) == Some(true) => strip::<IPV4>(&context),
        Some(ETHER_IPV6) if read(&context, IPV6_NEXT) == Some([IN_IPV6]) => strip::<IPV6>(&context),
        _ => Some(()),
    };
    if stripped.is_some() {
        XDP_PASS
    } else {
        XDP_DROP
    }
}

/// Whether it is a whole packet with a header of the usual length, and holds
/// another one.
#[inline(always)]
fn is_tunnelled_ipv4(context: &XdpContext) -> Option<bool> {
    let [length] = read(context, IPV4_LENGTH)?;
    let [fragment, offset] = read(context, IPV4_FRAGMENT)?;
    let [protocol] = read(context, IPV4_PROTOCOL)?;
    let is_whole = fragment & 0x3f == 0 && offset == 0;
    Some(length == 0x45 && is_whole && protocol == IN_IPV4)
}

/// Moves the Ethernet header over the `OUTER` bytes that follow it, and takes
/// these off; none if the packet could not be changed.
#[inline(always)]
fn strip<const OUTER: usize>(context: &XdpContext) -> Option<()> {
    let header: [u8; ETH] = read(context, 0)?;
    // SAFETY: the context is the one that the kernel called us with. Nothing
    // holds a pointer into the packet.
    let status = unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), OUTER as i32) };
    if status != 0 {
        return None;
    }
    let start = at::<ETH>(context, 0)?;
    // SAFETY: `at` vouches for the range, and the packet is ours until we
    // return.
    unsafe { start.write(header) };
    Some(())
}

/// The bytes from `offset` on; none where the packet is shorter.
#[inline(always)]
fn read<const LENGTH: usize>(context: &XdpContext, offset: usize) -> Option<[u8; LENGTH]> {
    let bytes = at::<LENGTH>(context, offset)?;
    // SAFETY: `at` vouches for the range, and arrays of bytes are aligned
    // anywhere.
    Some(unsafe { bytes.read() })
}

#[inline(always)]
fn at<const LENGTH: usize>(context: &XdpContext, offset: usize) -> Option<*mut [u8; LENGTH]> {
    let start = context.data() + offset;
    if start + LENGTH > context.data_end() {
        return None;
    }
    Some(start as *mut [u8; LENGTH])
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
