//! The layout of what crosses the kernel boundary: no hidden padding, known
//! sizes, any bit pattern valid. The only `unsafe` of this crate.

use crate::addr::Ipv4;
use crate::counters::{TargetCounters, Traffic};
use crate::event::{Budget, Event};
use crate::flow::{Flow, FlowKey, Pending};
use crate::service::{Listener, Service};
use crate::target::{Generation, Target, TargetId};
use crate::wire::frame::Headers;

/// Plain memory: `repr(C)` or transparent, without padding, every bit pattern
/// a value. Such a value may be copied from and to bytes.
///
/// # Safety
/// The implementor promises just that; `assert_layout!` proves the absence
/// of padding.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer has no padding, and every bit pattern is one.
unsafe impl Plain for u32 {}

macro_rules! assert_layout {
    ($type:ty, $size:literal, $($field:ty),+) => {
        const _: () = {
            // No hidden padding: the fields fill the whole.
            assert!(size_of::<$type>() == 0 $(+ size_of::<$field>())+);
            assert!(size_of::<$type>() == $size);
        };
        // SAFETY: the assertion above leaves no room for padding, and every
        // field is an integer or an array or wrapper of integers.
        unsafe impl Plain for $type {}
        #[cfg(feature = "user")]
        // SAFETY: what is `Plain` meets the contract of `Pod`.
        unsafe impl aya::Pod for $type {}
    };
}

assert_layout!(FlowKey<Ipv4>, 12, u32, u32, u16, u16);
assert_layout!(
    Flow<Ipv4>,
    48,
    FlowKey<Ipv4>,
    u16,
    u16,
    u32,
    u32,
    u32,
    [u8; 4],
    [u8; 12],
    u16,
    u8,
    u8
);
assert_layout!(Pending<Ipv4>, 52, Flow<Ipv4>, u32);
assert_layout!(Listener<Ipv4>, 8, u32, u16, u16);
assert_layout!(Service, 12, u32, u32, u16, u16);
assert_layout!(Target<Ipv4>, 28, u32, u32, u16, u16, u16, u16, [u8; 12]);
assert_layout!(TargetId, 4, u32);
assert_layout!(Generation, 4, u32);
assert_layout!(Event<Ipv4>, 20, u32, u32, u16, u16, u32, u16, u8, u8);
assert_layout!(Budget, 8, u32, u32);
assert_layout!(Traffic, 16, u64, u64);
assert_layout!(TargetCounters, 32, u64, u64, u64, u64);
assert_layout!(Headers, 54, [u8; 14], [u8; 20], [u8; 20]);

/// A number that changes with the layout of the maps: maps that were pinned
/// under another number are not adopted.
pub const MAPS_VERSION: u32 = 1;

/// The bytes of a value.
#[must_use]
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so that all bytes are initialised; the
    // borrow keeps the value alive and unchanged.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that the first bytes of `bytes` hold; none where they are too
/// few.
#[must_use]
pub fn read_from<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes (checked above), `Plain` takes any bit
    // pattern, and the read does not ask for alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
