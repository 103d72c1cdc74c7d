//! Where the services' tables lie in SLOTS.
//!
//! Maglev tables own a pair of halves each, one in use and one to fill. A
//! half is never lent to another service: a program that read the service
//! just before a flip may still look into the half that was left. In front of
//! the pairs lie single slots, for services that go to the leader; where those
//! do not suffice, unused pairs are taken for more, from the end.

use std::collections::BTreeMap;

use lb_common::service::SLOTS_CAPACITY;

use crate::config::MAGLEV_SLOTS;
use crate::engine::plan::Installed;

const HALF: u32 = MAGLEV_SLOTS;
const PAIR: u32 = 2 * HALF;
const SINGLES: u32 = SLOTS_CAPACITY % PAIR;

/// The ranges that are in use: first slot and length.
pub struct Space {
    taken: BTreeMap<u32, usize>,
}

impl Space {
    /// What all of these tables use.
    #[must_use]
    pub fn of<'a>(tables: impl IntoIterator<Item = &'a Installed>) -> Self {
        let ranges = tables.into_iter().flat_map(|tables| &tables.slots);
        let taken = ranges.map(|(&first, slots)| (first, slots.len())).collect();
        Self { taken }
    }

    /// A single slot.
    #[must_use]
    pub fn single(&self) -> Option<u32> {
        let table_at = |first| self.taken.get(&first).is_some_and(|&length| length > 1);
        let in_use = |slot: u32| {
            let pair = pair(slot);
            self.taken.contains_key(&slot)
                || pair.is_some_and(|pair| table_at(pair) || table_at(pair + HALF))
        };
        let mut slots = (0..SINGLES).chain((SINGLES..SLOTS_CAPACITY).rev());
        slots.find(|&slot| !in_use(slot))
    }

    /// The first half of a pair.
    #[must_use]
    pub fn table(&self) -> Option<u32> {
        let mut pairs = (SINGLES..SLOTS_CAPACITY).step_by(PAIR as usize);
        pairs.find(|&pair| self.taken.range(pair..pair + PAIR).next().is_none())
    }

    /// The idle half beside the one at `half`; `None` where `half` is none.
    #[must_use]
    pub fn idle(&self, half: u32) -> Option<u32> {
        let pair = pair(half)?;
        let idle = match half - pair {
            0 => pair + HALF,
            HALF => pair,
            _ => return None,
        };
        self.taken
            .range(idle..idle + HALF)
            .next()
            .is_none()
            .then_some(idle)
    }
}

/// The first slot of the pair that `slot` lies in.
fn pair(slot: u32) -> Option<u32> {
    slot.checked_sub(SINGLES)
        .map(|offset| SINGLES + offset / PAIR * PAIR)
}

#[cfg(test)]
mod tests {
    use lb_common::target::TargetId;

    use super::*;

    fn take(tables: &mut Installed, first: u32, slots: usize) {
        let before = tables.slots.insert(first, vec![TargetId::NONE; slots]);
        assert_eq!(before, None, "slot {first} was given twice");
    }

    #[test]
    fn thirty_two_maglev_tables_fit_beside_each_other_and_no_more() {
        let mut tables = Installed::default();
        for _ in 0..32 {
            let first = Space::of([&tables]).table().unwrap();
            take(&mut tables, first, HALF as usize);
            assert!(Space::of([&tables]).idle(first).is_some());
        }
        assert_eq!(Space::of([&tables]).table(), None);
        for _ in 0..SINGLES {
            let slot = Space::of([&tables]).single().unwrap();
            take(&mut tables, slot, 1);
        }
        assert_eq!(Space::of([&tables]).single(), None);
    }

    #[test]
    fn a_thousand_single_slots_leave_room_for_31_tables() {
        let mut tables = Installed::default();
        for _ in 0..1024 {
            let slot = Space::of([&tables]).single().unwrap();
            take(&mut tables, slot, 1);
        }
        for _ in 0..31 {
            let first = Space::of([&tables]).table().unwrap();
            take(&mut tables, first, HALF as usize);
        }
        assert_eq!(Space::of([&tables]).table(), None);
    }

    #[test]
    fn a_table_goes_back_and_forth_between_its_two_halves() {
        let mut tables = Installed::default();
        let first = Space::of([&tables]).table().unwrap();
        take(&mut tables, first, HALF as usize);
        let other = Space::of([&tables]).idle(first).unwrap();
        assert_ne!(other, first);
        tables.slots.clear();
        take(&mut tables, other, HALF as usize);
        assert_eq!(Space::of([&tables]).idle(other), Some(first));
        assert_ne!(
            Space::of([&tables]).table(),
            Some(first),
            "the idle half is its own"
        );
    }

    #[test]
    fn a_range_from_elsewhere_has_no_idle_half() {
        let space = Space::of([]);
        assert_eq!(space.idle(0), None);
        assert_eq!(space.idle(SINGLES + 1), None);
    }
}
