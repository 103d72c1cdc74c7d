//! The entries of the log as they are found again: where each is on disk, and the newest of them in memory, too.
//!
//! What a follower, the state machine and the disk want next are the newest, so that they are seldom read back.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use openraft::EntryPayload;

use crate::cluster::{Entry, LogId};

/// How many bytes of entries that are on disk stay in memory.
const MEMORY_BYTES_MAX: usize = 8 << 20;
/// What an entry costs besides its keys and values, roughly.
const ENTRY_BYTES: usize = 64;
const COMMAND_BYTES: usize = 32;

/// Where an entry is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub length: usize,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Slot {
    pub id: LogId,
    /// How many bytes it takes, roughly.
    pub bytes: usize,
    /// In memory; always, until it is on disk.
    pub entry: Option<Entry>,
    /// On disk.
    pub place: Option<Place>,
}

/// The entries after the purged ones, without a gap.
#[derive(Debug, Default)]
pub(super) struct Entries {
    purged: Option<LogId>,
    /// The index of the first, where there is one.
    first: u64,
    slots: VecDeque<Slot>,
    /// How many of the first are on disk only.
    on_disk_only: usize,
    memory_bytes: usize,
}

impl Entries {
    /// The index that the next entry has; where there is none yet, openraft says.
    pub(super) fn next_index(&self) -> u64 {
        match self.slots.is_empty() {
            true => self.purged.map_or(0, |id| id.index + 1),
            false => self.first + self.slots.len() as u64,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The last purged id.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The id of the last entry, or the last purged one.
    pub(super) fn last_id(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// Adds an entry at the end: that it has [`Entries::next_index`] is the caller's to know.
    pub(super) fn push(&mut self, entry: Entry, place: Option<Place>) {
        if self.slots.is_empty() {
            self.first = entry.log_id.index;
        }
        let bytes = size(&entry);
        self.memory_bytes += bytes;
        self.slots.push_back(Slot {
            id: entry.log_id,
            bytes,
            entry: Some(entry),
            place,
        });
    }

    /// Notes where an entry is, if it is still the one that was written there.
    pub(super) fn settle(&mut self, id: LogId, place: Place) {
        let Some(at) = id.index.checked_sub(self.first) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(at as usize)
            && slot.id == id
        {
            slot.place = Some(place);
        }
    }

    /// Forgets all from `since` on.
    pub(super) fn truncate(&mut self, since: u64) {
        while self.next_index() > since
            && let Some(slot) = self.slots.pop_back()
        {
            self.forget(&slot);
        }
        self.on_disk_only = self.on_disk_only.min(self.slots.len());
    }

    /// Forgets all up to `upto`, whether there are so many or not.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index > upto.index) {
            return;
        }
        while self.first <= upto.index
            && let Some(slot) = self.slots.pop_front()
        {
            self.forget(&slot);
            self.on_disk_only = self.on_disk_only.saturating_sub(1);
            self.first += 1;
        }
        self.purged = Some(upto);
    }

    /// Lets go of the oldest that are on disk, until the rest is small enough.
    pub(super) fn evict(&mut self) {
        while self.memory_bytes > MEMORY_BYTES_MAX
            && let Some(slot) = self.slots.get_mut(self.on_disk_only)
            && slot.place.is_some()
        {
            slot.entry = None;
            self.memory_bytes -= slot.bytes;
            self.on_disk_only += 1;
        }
    }

    /// Those of `range` that there are.
    pub(super) fn range(&self, range: impl RangeBounds<u64>) -> impl Iterator<Item = &Slot> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let place = |index: u64| {
            index
                .saturating_sub(self.first)
                .min(self.slots.len() as u64) as usize
        };
        let (start, end) = (place(start), place(end));
        self.slots.range(start..end.max(start))
    }

    fn forget(&mut self, slot: &Slot) {
        if slot.entry.is_some() {
            self.memory_bytes -= slot.bytes;
        }
    }
}

fn size(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(batch) => {
            let commands = batch.0.iter();
            commands
                .map(|command| command.len_bytes() + COMMAND_BYTES)
                .sum()
        }
        EntryPayload::Membership(membership) => membership.nodes().count() * ENTRY_BYTES,
        EntryPayload::Blank => 0,
    };
    ENTRY_BYTES + payload
}

#[cfg(test)]
mod tests {
    use openraft::entry::FromAppData;
    use openraft::testing::log_id;

    use super::*;
    use crate::kv::{Batch, Command};

    const PLACE: Place = Place {
        segment: 1,
        offset: 0,
        length: 1,
    };

    fn entry(term: u64, index: u64, value_bytes: usize) -> Entry {
        let put = Command::Put {
            key: "k".into(),
            value: "v".repeat(value_bytes).into(),
        };
        Entry {
            log_id: log_id(term, 1, index),
            ..Entry::from_app_data(Batch::from(vec![put]))
        }
    }

    fn indexes(entries: &Entries, range: impl RangeBounds<u64>) -> Vec<u64> {
        entries.range(range).map(|slot| slot.id.index).collect()
    }

    #[test]
    fn entries_are_found_by_index_after_cuts_at_both_ends() {
        let mut entries = Entries::default();
        (0..10).for_each(|index| entries.push(entry(1, index, 1), None));
        entries.truncate(8);
        entries.purge(log_id(1, 1, 2));
        assert_eq!(indexes(&entries, ..), [3, 4, 5, 6, 7]);
        assert_eq!(indexes(&entries, 5..7), [5, 6]);
        assert_eq!(indexes(&entries, 0..=3), [3]);
        assert_eq!(indexes(&entries, 8..), [0; 0]);
        assert_eq!(
            (entries.next_index(), entries.last_id()),
            (8, Some(log_id(1, 1, 7)))
        );
        // A snapshot that covers more than there is.
        entries.purge(log_id(2, 1, 20));
        assert_eq!(
            (entries.next_index(), entries.last_id()),
            (21, Some(log_id(2, 1, 20)))
        );
        entries.purge(log_id(1, 1, 4));
        assert_eq!(entries.next_index(), 21);
    }

    #[test]
    fn what_is_not_on_disk_stays_in_memory() {
        let mut entries = Entries::default();
        (0..4).for_each(|index| entries.push(entry(1, index, MEMORY_BYTES_MAX / 2), None));
        let in_memory = |entries: &Entries| -> Vec<bool> {
            entries.range(..).map(|slot| slot.entry.is_some()).collect()
        };
        entries.evict();
        assert_eq!(in_memory(&entries), [true; 4]);
        entries.settle(log_id(1, 1, 0), PLACE);
        entries.settle(log_id(1, 1, 2), PLACE);
        entries.settle(log_id(9, 1, 1), PLACE);
        entries.evict();
        assert_eq!(in_memory(&entries), [false, true, true, true]);
        entries.settle(log_id(1, 1, 1), PLACE);
        entries.evict();
        assert_eq!(in_memory(&entries), [false, false, false, true]);
        entries.truncate(1);
        entries.push(entry(2, 1, 1), None);
        entries.evict();
        assert_eq!(in_memory(&entries), [false, true]);
        entries.purge(log_id(2, 1, 1));
        assert_eq!((entries.memory_bytes, entries.on_disk_only), (0, 0));
    }
}
