//! Where the services' ranges lie in SLOTS.
//!
//! A service that goes to the leader has one slot. Every other has a pair of
//! halves, one in use and one to fill: each as long as a power of two, which
//! the configuration alone decides (`config::room`), and aligned to it, so
//! that the place of the half in use tells where the idle one is, to the next
//! agent too. A half is never lent to another service: a program that read
//! the service just before a flip may still look into the half that was left.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::engine::installed::Installed;

/// What is taken of SLOTS.
pub struct Space {
    /// How many slots there are.
    capacity: u32,
    /// Ranges that do not overlap, by first slot, each with its end.
    taken: BTreeMap<u32, u32>,
    /// The idle half beside each half in use.
    idle: BTreeMap<u32, u32>,
}

impl Space {
    /// What the services in `installed` take of `capacity` slots. `half_of`
    /// tells how long the halves of a service are; `None` where it has only one
    /// range, as one that goes to the leader or is about to be removed.
    #[must_use]
    pub fn of(
        installed: &Installed,
        capacity: u32,
        half_of: impl Fn(SocketAddr) -> Option<u32>,
    ) -> Self {
        let ranges = installed.slots.iter();
        let mut space = Self {
            capacity,
            taken: ranges
                .map(|(&first, slots)| (first, first.saturating_add(length(slots))))
                .collect(),
            idle: BTreeMap::new(),
        };
        for (&listen, service) in &installed.services {
            let length = length(installed.range_of(listen));
            let Some(half) = half_of(listen).filter(|&half| length <= half) else {
                continue;
            };
            // One that lies elsewhere was placed for other servers.
            let first = service.first_slot;
            let idle = first ^ half;
            if first % half == 0
                && space.is_free(first + length, first + half)
                && space.is_free(idle, idle + half)
            {
                space.taken.insert(first, first + half);
                space.taken.insert(idle, idle + half);
                space.idle.insert(first, idle);
            }
        }
        space
    }

    /// Takes a single slot.
    #[must_use]
    pub fn take_single(&mut self) -> Option<u32> {
        self.take(1)
    }

    /// Takes a pair of halves of this length, a power of two, and gives the
    /// first.
    #[must_use]
    pub fn take_pair(&mut self, half: u32) -> Option<u32> {
        self.take(half.checked_mul(2)?)
    }

    /// The idle half beside the one at `half`; `None` where that has none.
    #[must_use]
    pub fn idle(&self, half: u32) -> Option<u32> {
        self.idle.get(&half).copied()
    }

    /// The first place that is free, as long as `length`, and aligned to it.
    fn take(&mut self, length: u32) -> Option<u32> {
        let mut first: u32 = 0;
        loop {
            let end = first.checked_add(length)?;
            if end > self.capacity {
                return None;
            }
            let Some(blocked_until) = self.overlap(first, end) else {
                self.taken.insert(first, end);
                return Some(first);
            };
            first = blocked_until.checked_next_multiple_of(length)?;
        }
    }

    fn is_free(&self, first: u32, end: u32) -> bool {
        end <= self.capacity && self.overlap(first, end).is_none()
    }

    /// The end of the last taken range that reaches into these slots.
    fn overlap(&self, first: u32, end: u32) -> Option<u32> {
        if first >= end {
            return None;
        }
        let (_, &last) = self.taken.range(..end).next_back()?;
        (last > first).then_some(last)
    }
}

fn length<T>(slots: &[T]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use lb_common::service::ServiceId;
    use lb_common::target::TargetId;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::installed::{ServiceEntry, Settings};

    const MAGLEV: u32 = 16_384;
    const CAPACITY: u32 = 1 << 20;

    fn empty() -> Space {
        Space::of(&Installed::default(), CAPACITY, |_| None)
    }

    /// Services on ports 0, 1, …, at these places.
    fn tables(ranges: &[(u32, u32)]) -> Installed {
        let mut tables = Installed::default();
        for (port, &(first_slot, slots)) in (0..).zip(ranges) {
            let entry = ServiceEntry {
                id: ServiceId(port),
                first_slot,
                slots,
                members: 0,
                settings: Settings::default(),
            };
            tables.services.insert(listen(port), entry);
            let range = vec![TargetId::NONE; slots as usize];
            tables.slots.insert(first_slot, range);
        }
        tables
    }

    fn listen(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn thirty_two_maglev_tables_fit_beside_each_other_and_no_more() {
        let mut space = empty();
        for pair in 0..32 {
            assert_eq!(space.take_pair(MAGLEV), Some(pair * 2 * MAGLEV));
        }
        assert_eq!(space.take_pair(MAGLEV), None);
        assert_eq!(space.take_single(), None);
    }

    #[test]
    fn a_thousand_single_slots_leave_room_for_31_tables() {
        let mut space = empty();
        for slot in 0..1024 {
            assert_eq!(space.take_single(), Some(slot));
        }
        for _ in 0..31 {
            assert!(space.take_pair(MAGLEV).is_some());
        }
        assert_eq!(space.take_pair(MAGLEV), None);
    }

    #[test]
    fn a_table_goes_back_and_forth_between_its_two_halves() {
        let here = Space::of(&tables(&[(0, 6)]), CAPACITY, |_| Some(8));
        assert_eq!(here.idle(0), Some(8));
        let mut there = Space::of(&tables(&[(8, 5)]), CAPACITY, |_| Some(8));
        assert_eq!(there.idle(8), Some(0));
        assert_eq!(there.take_single(), Some(16), "the idle half is its own");
    }

    #[test]
    fn a_range_that_does_not_fit_has_no_idle_half() {
        let unaligned = Space::of(&tables(&[(4, 6)]), CAPACITY, |_| Some(8));
        assert_eq!(unaligned.idle(4), None);
        let too_long = Space::of(&tables(&[(8, 9)]), CAPACITY, |_| Some(8));
        assert_eq!(too_long.idle(8), None);
    }

    #[test]
    fn a_half_that_another_service_lies_in_is_not_idle() {
        let mut space = Space::of(&tables(&[(0, 6), (12, 1)]), CAPACITY, |at| {
            (at.port() == 0).then_some(8)
        });
        assert_eq!(space.idle(0), None);
        assert_eq!(space.take_pair(2), Some(8));
        assert_eq!(space.take_pair(8), Some(16));
    }

    proptest! {
        /// What `config::room` relies on when it only adds up.
        #[test]
        fn rooms_fit_in_any_order_if_their_sum_does(exponents in prop::collection::vec(0..17_u32, 1..400)) {
            let mut space = empty();
            let mut sum: u64 = 0;
            for exponent in exponents {
                let room = 1_u32 << exponent;
                sum += u64::from(room);
                let fits = sum <= u64::from(CAPACITY);
                prop_assert_eq!(space.take(room).is_some(), fits, "{} of {}", room, sum);
                if !fits {
                    break;
                }
            }
        }
    }
}
