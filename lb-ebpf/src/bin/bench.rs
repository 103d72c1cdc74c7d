//! What the benchmarks run: a harness that gives a program a fresh packet in
//! every round, and the programs that ours is held against.
//!
//! BPF_PROG_TEST_RUN feeds a program its own output. So `bench_round_…` goes
//! first: it writes the headers anew, of whichever flow's turn it is, and
//! tail-calls the program that is measured. What the harness costs by itself
//! is measured with `bench_pass` behind it, and taken away. There is one for
//! each family and hook: a program array takes programs of one type.

#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program's entry point is no API")]

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::flow::{Flow, FlowKey};

/// The headers of a family: Ethernet, its own and TCP's.
trait Family {
    /// Bytes of them.
    const HEADERS: usize;
    /// Where the source's address ends, in its last four bytes.
    const SOURCE: usize;
    /// The same of the destination's.
    const DESTINATION: usize;
    /// Where the addresses and ports lie, which are a flow's key as it stands.
    const KEY: usize;
    /// Where the ports begin.
    const PORTS: usize = Self::HEADERS - 20;
}

impl Family for Ipv4 {
    const HEADERS: usize = 54;
    const SOURCE: usize = 26;
    const DESTINATION: usize = 30;
    const KEY: usize = 26;
}

impl Family for Ipv6 {
    const HEADERS: usize = 74;
    const SOURCE: usize = 34;
    const DESTINATION: usize = 50;
    const KEY: usize = 22;
}

/// The longest headers, in words; the last one is written in part.
const WORDS: usize = 10;
/// What a program of either kind returns where it could not go on: what none
/// of the measured ones returns.
const ABORTED: i32 = XDP_ABORTED as i32;

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
    /// 1: a round begins when the packet of the one before has its destination;
    /// 0: a CPU may work on several rounds at once.
    waits: u64,
}

#[map]
static ROUND: Array<Round> = Array::with_max_entries(1, 0);
/// The program that is measured, at XDP.
#[map]
static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The same, at TC.
#[map]
static MEASURED_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// As FLOWS is, for a look-up and nothing else.
#[map]
static BARE_V4: HashMap<FlowKey<Ipv4>, Flow<Ipv4>> = HashMap::with_max_entries(1, 0);
/// The same.
#[map]
static BARE_V6: HashMap<FlowKey<Ipv6>, Flow<Ipv6>> = HashMap::with_max_entries(1, 0);
/// Between whom [`bench_relay`] stands: their MAC addresses, each in the first
/// three of four words.
#[map]
static ENDS: Array<[u16; 4]> = Array::with_max_entries(2, 0);
/// How many frames [`bench_drop`] has swallowed.
#[map]
static SWALLOWED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes the next packet's headers and goes on to the measured program.
#[xdp]
pub fn bench_round_v4(context: XdpContext) -> u32 {
    if write_headers::<Ipv4>(context.data(), context.data_end()).is_some() {
        // SAFETY: the context is the one that the kernel called us with.
        unsafe { MEASURED.tail_call(&context, 0) };
    }
    XDP_ABORTED
}

/// The same, over IPv6.
#[xdp]
pub fn bench_round_v6(context: XdpContext) -> u32 {
    if write_headers::<Ipv6>(context.data(), context.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { MEASURED.tail_call(&context, 0) };
    }
    XDP_ABORTED
}

/// The same, at TC.
#[classifier]
pub fn bench_round_tc_v4(context: TcContext) -> i32 {
    if write_headers::<Ipv4>(context.data(), context.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { MEASURED_TC.tail_call(&context, 0) };
    }
    ABORTED
}

/// The same, at TC and over IPv6.
#[classifier]
pub fn bench_round_tc_v6(context: TcContext) -> i32 {
    if write_headers::<Ipv6>(context.data(), context.data_end()).is_some() {
        // SAFETY: as above.
        unsafe { MEASURED_TC.tail_call(&context, 0) };
    }
    ABORTED
}

/// Writes the headers of the flow whose turn it is.
#[inline(always)]
fn write_headers<F: Family>(data: usize, end: usize) -> Option<()> {
    let round = ROUND.get_ptr_mut(0)?;
    if data + F::HEADERS > end {
        return None;
    }
    // SAFETY: the map's element is there as long as the map, and one CPU at a
    // time runs this program. The packet has room for the headers; `data` is
    // aligned to a word, and addresses and ports lie at even places.
    unsafe {
        let round = &mut *round;
        let packet = data as *mut u64;
        if round.waits != 0 {
            // Nothing of it is left, but a CPU cannot know that.
            let destination = *((data + F::DESTINATION) as *const u32);
            round.state ^= u64::from(destination) & (round.waits - 1);
        }
        let mut word = 0;
        while word < F::HEADERS / 8 {
            *packet.add(word) = round.template[word];
            word += 1;
        }
        let (mut half, mut rest) = (0, round.template[F::HEADERS / 8]);
        while half < F::HEADERS % 8 / 2 {
            *packet.add(word).cast::<u16>().add(half) = rest as u16;
            rest >>= 16;
            half += 1;
        }

        let flow = next(round);
        // 16384 ports of each address, from 1024 on: see `varied`.
        let address = (round.address as u32).wrapping_add(flow >> 14);
        let port = 1024 + (flow & 0x3fff) as u16;
        let (at_address, at_port) = if round.destination == 0 {
            (data + F::SOURCE, data + F::PORTS)
        } else {
            (data + F::DESTINATION, data + F::PORTS + 2)
        };
        *(at_address as *mut u32) = address.to_be();
        *(at_port as *mut u16) = port.to_be();
    }
    Some(())
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

/// The floor at TC: does nothing.
#[classifier]
pub fn bench_pass_tc(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The least that anything does which sends a packet back.
#[xdp]
pub fn bench_swap(context: XdpContext) -> u32 {
    match swap(context.data(), context.data_end()) {
        Some(()) => XDP_TX,
        None => XDP_ABORTED,
    }
}

/// The same, at TC.
#[classifier]
pub fn bench_swap_tc(context: TcContext) -> i32 {
    match swap(context.data(), context.data_end()) {
        Some(()) => send_back(&context),
        None => ABORTED,
    }
}

#[inline(always)]
fn swap(data: usize, end: usize) -> Option<()> {
    let addresses = mac_addresses(data, end)?;
    // SAFETY: `mac_addresses` vouches for them.
    unsafe {
        let [a, b, c, d, e, f] = *addresses;
        *addresses = [d, e, f, a, b, c];
    }
    Some(())
}

/// The least that a balancer with one arm does: what comes from one of the two
/// ends goes to the other, without a look beyond the MAC addresses.
#[xdp]
pub fn bench_relay(context: XdpContext) -> u32 {
    match relay(context.data(), context.data_end()) {
        Some(()) => XDP_TX,
        None => XDP_PASS,
    }
}

/// The same, at TC.
#[classifier]
pub fn bench_relay_tc(context: TcContext) -> i32 {
    match relay(context.data(), context.data_end()) {
        Some(()) => send_back(&context),
        None => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn relay(data: usize, end: usize) -> Option<()> {
    let addresses = mac_addresses(data, end)?;
    let (one, other) = (ENDS.get(0)?, ENDS.get(1)?);
    // SAFETY: `mac_addresses` vouches for them.
    let [a, b, c, d, e, f] = unsafe { *addresses };
    // To many: ARP, which the host answers.
    if a & 1 != 0 {
        return None;
    }
    let [x, y, z, _] = if [d, e, f] == [one[0], one[1], one[2]] {
        *other
    } else if [d, e, f] == [other[0], other[1], other[2]] {
        *one
    } else {
        return None;
    };
    // SAFETY: as above.
    unsafe { *addresses = [x, y, z, a, b, c] };
    Some(())
}

/// The destination's MAC address and the source's.
#[inline(always)]
fn mac_addresses(data: usize, end: usize) -> Option<*mut [u16; 6]> {
    // A frame begins at an even address.
    (data + 12 <= end).then_some(data as *mut [u16; 6])
}

#[inline(always)]
fn send_back(context: &TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called us with; the
    // helper only notes where the packet goes once the program has returned.
    unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 }
}

/// The least that anything does which keeps flows: looks the packet's flow up.
/// Nothing waits for what it finds.
#[xdp]
pub fn bench_lookup_v4(context: XdpContext) -> u32 {
    look_up(&context, &BARE_V4, Outcome::Ignored)
}

/// The same, over IPv6.
#[xdp]
pub fn bench_lookup_v6(context: XdpContext) -> u32 {
    look_up(&context, &BARE_V6, Outcome::Ignored)
}

/// The least that anything does which rewrites packets by flows: looks the
/// packet's flow up, and stores a word of what it finds into the packet.
#[xdp]
pub fn bench_lookup_used_v4(context: XdpContext) -> u32 {
    look_up(&context, &BARE_V4, Outcome::Stored)
}

/// The same, over IPv6.
#[xdp]
pub fn bench_lookup_used_v6(context: XdpContext) -> u32 {
    look_up(&context, &BARE_V6, Outcome::Stored)
}

/// What becomes of what a look-up finds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is looked at, and nothing depends on it but a branch.
    Ignored,
    /// It is stored in the place of the destination's address.
    Stored,
}

#[inline(always)]
fn look_up<F: Family + Copy>(
    context: &XdpContext,
    bare: &HashMap<FlowKey<F>, Flow<F>>,
    outcome: Outcome,
) -> u32 {
    let data = context.data();
    if data + F::HEADERS > context.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: addresses and ports lie within the headers, in the key's order;
    // a key is bytes of any value, and may be read from any even address.
    let key = unsafe { core::ptr::read_unaligned((data + F::KEY) as *const FlowKey<F>) };
    let Some(flow) = bare.get_ptr(key) else {
        return XDP_DROP;
    };
    // SAFETY: the pointer came from a look-up in this run of the program.
    let generation = unsafe { core::ptr::read_volatile(&raw const (*flow).generation.0) };
    if outcome == Outcome::Stored {
        // SAFETY: the address lies within the headers, at an even place.
        unsafe { *((data + F::DESTINATION) as *mut u32) = generation };
    }
    if generation == 0 { XDP_DROP } else { XDP_PASS }
}

/// The kernel gives GPL-only helpers to programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
