//! What the benchmarks run: a harness that gives a program a fresh packet in
//! every round, and the programs that ours is held against.
//!
//! BPF_PROG_TEST_RUN feeds a program its own output. So `bench_round` goes
//! first: it writes the headers anew, of whichever flow's turn it is, and
//! tail-calls the program that is measured. What the harness costs by itself
//! is measured with `bench_pass` behind it, and taken away.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program's entry point is no API")]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::addr::Ipv4;
use lb_common::flow::{Flow, FlowKey};

/// Ethernet, IPv4 and TCP, in words; the last one is written in part.
const WORDS: usize = 7;
/// Bytes of these headers.
const HEADERS: usize = 54;
/// Where addresses and ports lie, which are a flow's key as it stands.
const ADDRESSES: usize = 26;

/// What the next round's packet looks like. Words only: `datapath.rs` of the
/// tests writes them in this order.
#[repr(C)]
pub struct Round {
    /// The headers, but for the address and port that vary.
    template: [u64; WORDS],
    /// The random sequence's state, or the number of the last flow.
    state: u64,
    /// How many flows there are.
    flows: u64,
    /// 0: a random flow each time; else: one flow after the other.
    in_order: u64,
    /// 0: the source varies; else: the destination.
    destination: u64,
    /// The first flow's address.
    address: u64,
}

#[map]
static ROUND: Array<Round> = Array::with_max_entries(1, 0);
/// The program that is measured.
#[map]
static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// As FLOWS is, for a look-up and nothing else.
#[map]
static BARE: HashMap<FlowKey<Ipv4>, Flow<Ipv4>> = HashMap::with_max_entries(1, 0);
/// How many frames [`bench_drop`] has swallowed.
#[map]
static SWALLOWED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes the next packet's headers and goes on to the measured program.
#[xdp]
pub fn bench_round(context: XdpContext) -> u32 {
    let (data, end) = (context.data(), context.data_end());
    let Some(round) = ROUND.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    if data + HEADERS > end {
        return XDP_ABORTED;
    }
    // SAFETY: the map's element is there as long as the map, and one CPU at a
    // time runs this program. The packet has room for the headers: 6 words, a
    // half and a quarter; `data` is aligned to a word.
    unsafe {
        let round = &mut *round;
        let packet = data as *mut u64;
        *packet = round.template[0];
        *packet.add(1) = round.template[1];
        *packet.add(2) = round.template[2];
        *packet.add(3) = round.template[3];
        *packet.add(4) = round.template[4];
        *packet.add(5) = round.template[5];
        *packet.add(6).cast::<u32>() = round.template[6] as u32;
        *packet.add(6).cast::<u16>().add(2) = (round.template[6] >> 32) as u16;

        let flow = next(round);
        // 16384 ports of each address, from 1024 on: see `varied`.
        let address = (round.address as u32).wrapping_add(flow >> 14);
        let port = 1024 + (flow & 0x3fff) as u16;
        let (at_address, at_port) = (ADDRESSES, ADDRESSES + 8);
        if round.destination == 0 {
            *((data + at_address) as *mut u32) = address.to_be();
            *((data + at_port) as *mut u16) = port.to_be();
        } else {
            *((data + at_address + 4) as *mut u32) = address.to_be();
            *((data + at_port + 2) as *mut u16) = port.to_be();
        }
        MEASURED.tail_call(&context, 0);
    }
    XDP_ABORTED
}

/// The number of the flow whose turn it is.
#[inline(always)]
fn next(round: &mut Round) -> u32 {
    if round.in_order == 0 {
        // Knuth's MMIX: the upper half is random enough to miss every cache.
        round.state = round
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        return (((round.state >> 32) * round.flows) >> 32) as u32;
    }
    round.state += 1;
    if round.state >= round.flows {
        round.state = 0;
    }
    round.state as u32
}

/// The floor: does nothing.
#[xdp]
pub fn bench_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Swallows what the frame generator sends, and counts it.
#[xdp]
pub fn bench_drop(_: XdpContext) -> u32 {
    if let Some(swallowed) = SWALLOWED.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's own, and programs on one CPU do
        // not interrupt each other.
        unsafe { *swallowed += 1 };
    }
    XDP_DROP
}

/// The least that anything does which sends a packet back.
#[xdp]
pub fn bench_swap(context: XdpContext) -> u32 {
    let data = context.data();
    if data + 12 > context.data_end() {
        return XDP_ABORTED;
    }
    let addresses = data as *mut [u16; 6];
    // SAFETY: the packet has these twelve bytes, and begins at an even address.
    unsafe {
        let [a, b, c, d, e, f] = *addresses;
        *addresses = [d, e, f, a, b, c];
    }
    XDP_TX
}

/// The least that anything does which keeps flows: looks the packet's flow up.
#[xdp]
pub fn bench_lookup(context: XdpContext) -> u32 {
    let data = context.data();
    if data + HEADERS > context.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: addresses and ports lie within the headers, in the key's order,
    // and each is aligned in it as in the key.
    let key = unsafe { *((data + ADDRESSES) as *const [u16; 6]) };
    // SAFETY: a key is twelve bytes of any value.
    let key = unsafe { core::mem::transmute::<[u16; 6], FlowKey<Ipv4>>(key) };
    let Some(flow) = BARE.get_ptr(key) else {
        return XDP_DROP;
    };
    // SAFETY: the pointer came from a look-up in this run of the program.
    let target = unsafe { core::ptr::read_volatile(&raw const (*flow).target.0) };
    if target == 0 { XDP_DROP } else { XDP_PASS }
}

/// The kernel gives GPL-only helpers to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
