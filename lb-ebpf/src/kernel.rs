//! Wrappers around kernel helpers.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use lb_common::flow::Tick;

/// The time now. The coarse clock is as exact as a tick of the kernel (1 to
/// 10 ms) and costs a third of the exact one.
#[inline(always)]
pub fn now() -> Tick {
    // SAFETY: the helper takes nothing and only reads the clock.
    Tick::at(unsafe { bpf_ktime_get_coarse_ns() })
}
