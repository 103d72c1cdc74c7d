//! Wrappers around kernel helpers, and atomic operations on map memory.

use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
};
use lb_common::flow::Tick;

/// The time now. The coarse clock is as exact as a tick of the kernel (1 to
/// 10 ms) and costs a third of the exact one.
#[inline(always)]
pub fn now() -> Tick {
    // SAFETY: the helper takes nothing and only reads the clock.
    Tick::at(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Microseconds since the host started, exactly.
#[inline(always)]
pub fn microseconds() -> u64 {
    // SAFETY: the helper takes nothing and only reads the clock.
    unsafe { bpf_ktime_get_ns() / 1000 }
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes nothing and changes nothing of ours.
    unsafe { bpf_get_prandom_u32() }
}

/// Atomic operations, written out: Rust has none for this target that read,
/// change and write, since they came to BPF with its third instruction set.
#[cfg(target_arch = "bpf")]
mod atomic {
    use core::arch::asm;

    macro_rules! fetch {
        ($name:ident, $instruction:literal) => {
            #[inline(always)]
            pub unsafe fn $name(word: *mut u32, operand: u32) -> u32 {
                let mut value = operand;
                // SAFETY: as the caller promises.
                unsafe {
                    asm!(
                        concat!("{value} = ", $instruction, "((u32 *)({word} + 0), {value})"),
                        word = in(reg) word,
                        value = inout(wreg) value,
                        options(nostack),
                    );
                }
                value
            }
        };
    }

    fetch!(fetch_add, "atomic_fetch_add");
    fetch!(fetch_or, "atomic_fetch_or");
}

/// The same elsewhere, where nothing but the lints looks at this crate.
#[cfg(not(target_arch = "bpf"))]
mod atomic {
    use core::sync::atomic::{AtomicU32, Ordering};

    pub unsafe fn fetch_add(word: *mut u32, addend: u32) -> u32 {
        // SAFETY: as the caller promises.
        unsafe { AtomicU32::from_ptr(word) }.fetch_add(addend, Ordering::Relaxed)
    }

    pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
        // SAFETY: as the caller promises.
        unsafe { AtomicU32::from_ptr(word) }.fetch_or(bits, Ordering::Relaxed)
    }
}

/// Adds to a word, atomically; gives the word before.
///
/// # Safety
/// `word` is valid, aligned, and other CPUs change it by atomic operations
/// alone.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u32, addend: u32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { atomic::fetch_add(word, addend) }
}

/// Sets bits of a word, atomically; gives the word before.
///
/// # Safety
/// As for [`fetch_add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { atomic::fetch_or(word, bits) }
}
