//! The layout of what crosses the kernel boundary: no hidden padding, known
//! sizes, any bit pattern valid. The only `unsafe` of this crate.

use crate::addr::{Address, Ipv4, Ipv6, Port};
use crate::counters::{TargetCounters, Traffic};
use crate::event::{Budget, Event};
use crate::filter::Filter;
use crate::flow::{Flow, FlowKey, Pending};
use crate::limit::SourceState;
use crate::reaping::Candidate;
use crate::service::{Listener, Prefix, Rule, Service, SourceKey};
use crate::tables::Affinity;
use crate::target::{Generation, Hop, Load, Snat, Target, TargetId};
use crate::wire::eth::{EthernetHeader, VlanTag};
use crate::wire::frame::Headers;
use crate::wire::icmp::{IcmpError, IcmpHeader, Notice, QuotedTcp};
use crate::wire::ipv4::Ipv4Header;
#[cfg(not(target_arch = "bpf"))]
use crate::wire::ipv4::{join, split};
use crate::wire::ipv6::Ipv6Header;
use crate::wire::network::NetworkHeader;
use crate::wire::tcp::TcpHeader;

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

/// For a type of both families: its size with IPv4 and with IPv6 addresses.
macro_rules! assert_layouts {
    ($type:ident, $v4:literal, $v6:literal, $($field:tt),+) => {
        const _: () = {
            assert!(size_of::<$type<Ipv4>>() == 0 $(+ size_of::<assert_layouts!(@ $field Ipv4)>())+);
            assert!(size_of::<$type<Ipv6>>() == 0 $(+ size_of::<assert_layouts!(@ $field Ipv6)>())+);
            assert!(size_of::<$type<Ipv4>>() == $v4);
            assert!(size_of::<$type<Ipv6>>() == $v6);
        };
        // SAFETY: the assertions above leave no room for padding with the two
        // addresses that there are, and every field is an integer or an array
        // or wrapper of integers.
        unsafe impl<A: Address> Plain for $type<A> {}
        #[cfg(feature = "user")]
        // SAFETY: what is `Plain` meets the contract of `Pod`.
        unsafe impl<A: Address> aya::Pod for $type<A> {}
    };
    (@ A $address:ident) => { $address };
    (@ ($type:ident<A>) $address:ident) => { $type<$address> };
    (@ $field:tt $address:ident) => { $field };
}

assert_layouts!(FlowKey, 12, 36, A, A, u16, u16);
assert_layouts!(Flow, 36, 48, A, u16, u16, u32, u32, Hop, u16, u16);
assert_layouts!(Pending, 48, 60, (Flow<A>), u32, u32, u32);
assert_layouts!(Candidate, 16, 40, (FlowKey<A>), u32);
assert_layouts!(Listener, 8, 20, A, u16, u16);
assert_layouts!(
    Target, 48, 84, A, A, A, Hop, u32, u16, u16, u16, u16, u16, u16, u16, u8, u8
);
assert_layouts!(Snat, 8, 20, A, u16, u16);
assert_layouts!(SourceKey, 8, 20, A, u16, u16);
assert_layouts!(Prefix, 8, 20, u32, A);
assert_layout!(Hop, 16, [u8; 6], [u8; 6], u32);
assert_layout!(
    Service, 36, u32, u32, u32, u32, u32, u32, u32, u32, u16, u8, u8
);
assert_layout!(Filter, 4096, [u64; 512]);
assert_layout!(TargetId, 4, u32);
assert_layout!(Generation, 4, u32);
assert_layout!(Rule, 4, u32);
assert_layout!(Load, 8, u32, u32);
assert_layout!(SourceState, 16, u64, u32, u32);
assert_layout!(Affinity, 12, u32, u32, u32);
assert_layout!(Event, 44, FlowKey<Ipv6>, u32, u16, u8, u8);
assert_layout!(Budget, 8, u32, u32);
assert_layout!(Traffic, 16, u64, u64);
assert_layout!(TargetCounters, 32, u64, u64, u64, u64);
assert_layout!(EthernetHeader, 14, [u8; 12], u16);
assert_layout!(VlanTag, 4, u16, u16);
assert_layout!(Ipv4Header, 20, [u8; 10], u16, [u16; 4]);
assert_layout!(Ipv6Header, 40, [u8; 8], [u32; 8]);
assert_layout!(IcmpHeader, 8, u8, u8, u16, [u16; 2]);
assert_layout!(QuotedTcp, 8, u16, u16, [u16; 2]);
assert_layout!(TcpHeader, 20, u16, u16, [u16; 4], [u8; 2], [u16; 3]);

// SAFETY: both parts are plain and of even length, and ask for even addresses:
// there is no room for padding between them or behind.
unsafe impl<N: NetworkHeader> Plain for Headers<N> {}

// SAFETY: as for `Headers`.
unsafe impl<N: NetworkHeader> Plain for IcmpError<N> {}

// SAFETY: as for `Headers`.
unsafe impl<N: NetworkHeader> Plain for Notice<N> {}

/// A [`FlowKey`] at an even address, as it lies in a packet.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct PackedKey<A>(FlowKey<A>);

impl<A: Address> PackedKey<A> {
    /// The key in its place in the headers: addresses and ports lie there in
    /// the same order, and nothing between them.
    #[inline(always)]
    pub const fn of(headers: &Headers<A::Header>) -> &Self {
        let start = A::Header::LENGTH as usize - 2 * size_of::<A>();
        const { assert!(size_of::<Self>() == 2 * size_of::<A>() + 2 * size_of::<Port>()) };
        // SAFETY: a network header ends with both addresses, and the TCP header
        // behind it begins with both ports, so that the key lies within the
        // headers; these are plain, and ask for the same alignment.
        unsafe { &*core::ptr::from_ref(headers).byte_add(start).cast() }
    }
}

impl<'a, A> From<&'a FlowKey<A>> for &'a PackedKey<A> {
    #[inline(always)]
    fn from(key: &'a FlowKey<A>) -> Self {
        // SAFETY: a packed key consists of a key, and asks for less alignment.
        unsafe { &*core::ptr::from_ref(key).cast() }
    }
}

impl<A: Address> From<PackedKey<A>> for FlowKey<A> {
    #[inline(always)]
    fn from(PackedKey(key): PackedKey<A>) -> Self {
        key
    }
}

/// The 32-bit words that lie at an even address.
///
/// In the kernel by one instruction each. The compiler would take four: it
/// goes by the alignment that is promised, the verifier by the one that is there.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn load_words(from: &[[u16; 2]; 4]) -> [u32; 4] {
    let (a, b, c, d);
    // SAFETY: reads what `from` borrows, and nothing else.
    unsafe {
        core::arch::asm!(
            "{a} = *(u32 *)({from} + 0)",
            "{b} = *(u32 *)({from} + 4)",
            "{c} = *(u32 *)({from} + 8)",
            "{d} = *(u32 *)({from} + 12)",
            from = in(reg) from,
            a = out(wreg) a,
            b = out(wreg) b,
            c = out(wreg) c,
            d = out(wreg) d,
            options(pure, readonly, nostack),
        );
    }
    [a, b, c, d]
}

/// The inverse of [`load_words`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn store_words(to: &mut [[u16; 2]; 4], [a, b, c, d]: [u32; 4]) {
    // SAFETY: writes what `to` borrows, and nothing else.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({to} + 0) = {a}",
            "*(u32 *)({to} + 4) = {b}",
            "*(u32 *)({to} + 8) = {c}",
            "*(u32 *)({to} + 12) = {d}",
            to = in(reg) to,
            a = in(wreg) a,
            b = in(wreg) b,
            c = in(wreg) c,
            d = in(wreg) d,
            options(nostack),
        );
    }
}

/// The same elsewhere.
#[cfg(not(target_arch = "bpf"))]
#[must_use]
pub fn load_words(from: &[[u16; 2]; 4]) -> [u32; 4] {
    from.map(join)
}

/// The same elsewhere.
#[cfg(not(target_arch = "bpf"))]
pub fn store_words(to: &mut [[u16; 2]; 4], words: [u32; 4]) {
    *to = words.map(split);
}

/// A number that changes with the layout of the maps: maps that were pinned
/// under another number are not adopted.
pub const MAPS_VERSION: u32 = 5;

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

/// The value in place of the first words; none where they are too few.
///
/// # Panics
/// Where `T` asks for another alignment than a word's.
#[must_use]
pub fn view<T: Plain>(words: &mut [u16]) -> Option<&mut T> {
    assert!(align_of::<T>() <= align_of::<u16>());
    if size_of_val(words) < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes and they are aligned (checked above), the
    // borrow is the only one, and `Plain` takes and leaves any bit pattern.
    Some(unsafe { &mut *words.as_mut_ptr().cast() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees<A: Address>(headers: &Headers<A::Header>) {
        assert_eq!(FlowKey::from(*PackedKey::<A>::of(headers)), headers.key());
    }

    #[test]
    fn a_key_in_place_is_the_key_that_is_put_together() {
        let bytes: [u8; 60] = core::array::from_fn(|at| at as u8 + 1);
        // SAFETY: headers are plain, ask for even addresses, and are no longer
        // than these bytes; the read does not mind the address.
        unsafe {
            agrees::<Ipv4>(
                &bytes
                    .as_ptr()
                    .cast::<Headers<Ipv4Header>>()
                    .read_unaligned(),
            );
            agrees::<Ipv6>(
                &bytes
                    .as_ptr()
                    .cast::<Headers<Ipv6Header>>()
                    .read_unaligned(),
            );
        }
    }
}
