//! The store by openraft's own suite, and by what that suite does not look at: power cuts, restarts, unfinished files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Barrier, Mutex};

use openraft::entry::FromAppData;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, log_id};
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use proptest::prelude::*;
use tempfile::TempDir;

use super::disk::Disk;
use super::*;
use crate::cluster::{Entry, KvCluster, Member, SnapshotMeta, StorageError, Vote};
use crate::kv::{Batch, Command};

struct Builder;

impl StoreBuilder<KvCluster, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = TempDir::new().unwrap();
        let Store { log, machine } = open(directory.path(), 1).unwrap();
        Ok((directory, log, machine))
    }
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(Builder).unwrap();
}

/// A disk that loses at a power cut whatever was not synced.
#[derive(Clone, Default)]
struct TestDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Clone, Default)]
struct DiskState {
    segments: BTreeMap<u64, Content>,
    syncs: u64,
    /// From now on writes fail.
    broken: bool,
    /// Where a write waits before it fails.
    gate: Option<Arc<Barrier>>,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

impl TestDisk {
    fn syncs(&self) -> u64 {
        self.state.lock().unwrap().syncs
    }

    fn break_down(&self) {
        self.state.lock().unwrap().broken = true;
    }

    /// As `break_down`, but the first write does not end before somebody waits
    /// at what this returns.
    fn hang(&self) -> Arc<Barrier> {
        let gate = Arc::new(Barrier::new(2));
        let mut state = self.state.lock().unwrap();
        (state.broken, state.gate) = (true, Some(Arc::clone(&gate)));
        gate
    }

    /// What another machine would read from this disk if the power went now. Of what was not synced, it has the sectors that `kept` says.
    fn after_power_cut(&self, mut kept: impl FnMut() -> bool) -> Self {
        const SECTOR: usize = 512;
        let mut state = self.state.lock().unwrap().clone();
        for Content { now, synced } in state.segments.values_mut() {
            synced.resize(now.len(), 0);
            for (now, synced) in now.chunks_mut(SECTOR).zip(synced.chunks_mut(SECTOR)) {
                match now == synced || kept() {
                    true => synced.copy_from_slice(now),
                    false => now.copy_from_slice(synced),
                }
            }
        }
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn open(&self) -> LogStore {
        // As in a cluster of three: alone, a node waits for its disk.
        let voters = Voters::default();
        let configuration = BTreeSet::from([1, 2, 3]);
        let members = configuration.iter().map(|&id| (id, Member::default()));
        let members: BTreeMap<_, _> = members.collect();
        voters.note(0, &openraft::Membership::new(vec![configuration], members));
        LogStore::open(Arc::new(self.clone()), 1, voters).unwrap()
    }
}

impl Disk for TestDisk {
    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(self
            .state
            .lock()
            .unwrap()
            .segments
            .keys()
            .copied()
            .collect())
    }

    fn load(&self, segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.state.lock().unwrap().segments[&segment].now.clone())
    }

    fn create(&self, segment: u64, content: &[u8]) -> io::Result<()> {
        let content = Content {
            now: content.to_vec(),
            synced: content.to_vec(),
        };
        self.state.lock().unwrap().segments.insert(segment, content);
        Ok(())
    }

    fn write(&self, segment: u64, offset: u64, content: &[u8]) -> io::Result<()> {
        let gate = self.state.lock().unwrap().gate.take();
        if let Some(gate) = gate {
            gate.wait();
        }
        let mut state = self.state.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("no space left"));
        }
        let now = &mut state.segments.get_mut(&segment).unwrap().now;
        let start = usize::try_from(offset).unwrap();
        let end = start + content.len();
        let length = now.len().max(end);
        now.resize(length, 0);
        now[start..end].copy_from_slice(content);
        Ok(())
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let content = state.segments.get_mut(&segment).unwrap();
        content.synced = content.now.clone();
        state.syncs += 1;
        Ok(())
    }

    fn read(&self, segment: u64, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset).unwrap();
        Ok(self.state.lock().unwrap().segments[&segment].now[start..start + length].to_vec())
    }

    fn cut(&self, segment: u64, length: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let content = state.segments.get_mut(&segment).unwrap();
        content.now.truncate(usize::try_from(length).unwrap());
        content.synced = content.now.clone();
        Ok(())
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        self.state.lock().unwrap().segments.remove(&segment);
        Ok(())
    }
}

fn entry(term: u64, index: u64) -> Entry {
    sized_entry(term, index, 1)
}

fn sized_entry(term: u64, index: u64, value_bytes: usize) -> Entry {
    let put = Command::Put {
        key: format!("k{index}").into(),
        value: "v".repeat(value_bytes).into(),
    };
    Entry {
        log_id: log_id(term, 1, index),
        ..Entry::from_app_data(Batch::from(vec![put]))
    }
}

/// Appends, and waits for the disk.
async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry> + Send) {
    let entries: Vec<Entry> = entries.into_iter().collect();
    log.blocking_append(entries).await.unwrap();
    log.durable(log.queued()).await.unwrap();
}

/// All entries that a log has.
async fn entries_of(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(0..).await.unwrap()
}

#[tokio::test]
async fn what_the_store_reported_as_durable_survives_a_power_cut() {
    let disk = TestDisk::default();
    let mut log = disk.open();
    let vote = Vote::new_committed(3, 2);
    log.save_vote(&vote).await.unwrap();
    let found = disk.after_power_cut(|| false).open();
    assert_eq!(found.vote(), Some(vote), "the vote");

    for index in 0..20 {
        append(&mut log, [entry(3, index)]).await;
        let mut found = disk.after_power_cut(|| false).open();
        let entries = entries_of(&mut found).await;
        let last = entries.last();
        assert_eq!(last, Some(&entry(3, index)), "the entry just acknowledged");
        assert_eq!(entries.len() as u64, index + 1, "and all before it");
    }

    log.truncate(log_id(3, 1, 15)).await.unwrap();
    log.purge(log_id(3, 1, 4)).await.unwrap();
    append(&mut log, [entry(4, 15)]).await;
    let mut found = disk.after_power_cut(|| false).open();
    let state = found.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 1, 4)));
    assert_eq!(state.last_log_id, Some(log_id(4, 1, 15)));
    assert_eq!(entries_of(&mut found).await.len(), 11);
    assert_eq!(found.vote(), Some(vote));
}

#[tokio::test]
async fn an_append_waits_for_the_disk_only_where_this_node_may_be_a_quorum() {
    for (voters, waits) in [(&[1][..], true), (&[1, 2, 3], false)] {
        let disk = TestDisk::default();
        let mut log = LogStore::open(Arc::new(disk.clone()), 1, Voters::default()).unwrap();
        let configuration: BTreeSet<NodeId> = voters.iter().copied().collect();
        let members: BTreeMap<NodeId, Member> =
            voters.iter().map(|&id| (id, Member::default())).collect();
        let membership = openraft::Membership::new(vec![configuration], members);
        let first = Entry {
            log_id: log_id(0, 0, 0),
            payload: openraft::EntryPayload::Membership(membership),
        };
        append(&mut log, [first]).await;
        if waits {
            disk.break_down();
            log.blocking_append([entry(1, 1)]).await.unwrap_err();
        } else {
            let gate = disk.hang();
            log.blocking_append([entry(1, 1)]).await.unwrap();
            gate.wait();
        }
        log.durable(log.queued()).await.unwrap_err();
        log.blocking_append([entry(1, 2)]).await.unwrap_err();
        log.save_vote(&Vote::new(2, 1)).await.unwrap_err();
        log.broken().await;
    }
}

#[tokio::test]
async fn a_node_that_led_does_not_lead_on_in_that_term_after_a_restart() {
    for (stored, expected) in [
        (Vote::new_committed(3, 1), Vote::new(3, 1)),
        (Vote::new(3, 1), Vote::new(3, 1)),
        (Vote::new_committed(3, 2), Vote::new_committed(3, 2)),
        (Vote::new(3, 2), Vote::new(3, 2)),
    ] {
        let disk = TestDisk::default();
        disk.open().save_vote(&stored).await.unwrap();
        assert_eq!(disk.open().vote(), Some(expected), "{stored}");
    }
}

#[tokio::test]
async fn what_is_queued_together_costs_one_sync() {
    let disk = TestDisk::default();
    let mut log = disk.open();
    append(&mut log, [entry(1, 0)]).await;
    let before = disk.syncs();
    append(&mut log, (1..=100).map(|index| entry(1, index))).await;
    assert_eq!(disk.syncs() - before, 1);
}

#[tokio::test]
async fn the_committed_index_travels_with_the_next_write() {
    let disk = TestDisk::default();
    let mut log = disk.open();
    append(&mut log, [entry(1, 0)]).await;
    log.save_committed(Some(log_id(1, 1, 0))).await.unwrap();
    let syncs = disk.syncs();
    let committed = async || {
        disk.after_power_cut(|| false)
            .open()
            .read_committed()
            .await
            .unwrap()
    };
    assert_eq!(committed().await, None);
    log.flush().await.unwrap();
    assert_eq!(disk.syncs() - syncs, 1);
    assert_eq!(committed().await, Some(log_id(1, 1, 0)));
}

#[tokio::test]
async fn a_replication_message_stays_small_but_never_empty() {
    let mut log = TestDisk::default().open();
    append(&mut log, (0..4).map(|index| sized_entry(1, index, 200_000))).await;
    assert_eq!(log.limited_get_log_entries(0, 4).await.unwrap().len(), 1);
    append(&mut log, (4..400).map(|index| entry(1, index))).await;
    let found = log.limited_get_log_entries(4, 400).await.unwrap();
    assert_eq!(found.len(), 396);
}

#[tokio::test]
async fn a_log_of_many_segments_is_read_back_and_shrinks_when_it_is_purged() {
    let directory = TempDir::new().unwrap();
    let segments = || {
        let names = fs::read_dir(directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().starts_with("log-"))
            .count()
    };
    let open = || open(directory.path(), 1).unwrap().log;
    let mut log = open();
    let vote = Vote::new(7, 2);
    log.save_vote(&vote).await.unwrap();
    // More than is kept in memory, and several segments.
    let large = |index| sized_entry(7, index, 1 << 20);
    for index in 0..50 {
        append(&mut log, [large(index)]).await;
    }
    let expected: Vec<Entry> = (0..50).map(large).collect();
    assert!(entries_of(&mut log).await == expected, "while it is open");
    assert!(segments() > 3, "{}", segments());
    drop(log);
    let mut log = open();
    assert!(entries_of(&mut log).await == expected, "after a restart");

    log.purge(log_id(7, 1, 40)).await.unwrap();
    for index in 50..70 {
        append(&mut log, [large(index)]).await;
    }
    assert!(segments() <= 3, "{}", segments());
    drop(log);
    let mut log = open();
    assert_eq!(log.vote(), Some(vote), "it was in the first segment");
    assert!(entries_of(&mut log).await == (41..70).map(large).collect::<Vec<_>>());
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(7, 1, 40)));

    // A snapshot of the leader's that reaches farther than the log.
    log.purge(log_id(8, 2, 99)).await.unwrap();
    append(&mut log, [entry(8, 100)]).await;
    drop(log);
    assert_eq!(entries_of(&mut open()).await, [entry(8, 100)]);
}

#[tokio::test]
async fn a_log_that_lost_a_segment_or_an_older_byte_is_refused() {
    let whole = TestDisk::default();
    let mut log = whole.open();
    for index in 0..20 {
        append(&mut log, [sized_entry(1, index, 3 << 20)]).await;
    }
    drop(log);
    let segments: Vec<u64> = whole.segments().unwrap();
    assert!(segments.len() > 3);
    let refused = |disk: &TestDisk| {
        let opened = LogStore::open(Arc::new(disk.clone()), 1, Voters::default());
        matches!(opened, Err(JournalError::Damaged(_)))
    };
    for &segment in &segments[..segments.len() - 1] {
        let disk = whole.after_power_cut(|| true);
        disk.remove(segment).unwrap();
        assert!(refused(&disk), "without segment {segment}");
        let disk = whole.after_power_cut(|| true);
        disk.write(segment, 5_000_000, b"x").unwrap();
        assert!(refused(&disk), "with another byte in segment {segment}");
    }
    assert!(!refused(&whole.after_power_cut(|| true)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_a_power_cut_leaves_of_the_last_write_all_before_it_is_there(
        sizes in proptest::collection::vec(1usize..6_000, 1..8),
        last in 1usize..6_000,
        kept in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = TestDisk::default();
            let mut log = disk.open();
            for (index, &bytes) in sizes.iter().enumerate() {
                append(&mut log, [sized_entry(1, index as u64, bytes)]).await;
            }
            drop(log);
            let before = disk.after_power_cut(|| false);
            let count = sizes.len() as u64;
            let mut log = disk.open();
            append(&mut log, [sized_entry(1, count, last)]).await;
            drop(log);
            // As if the last sync had not been: what was written since is in doubt.
            for (number, content) in &mut disk.state.lock().unwrap().segments {
                content.synced = before.state.lock().unwrap().segments[number].now.clone();
            }
            let mut kept = kept.iter().cycle();
            let cut = disk.after_power_cut(|| *kept.next().unwrap());
            let mut log = cut.open();
            let found = entries_of(&mut log).await;
            let index_max = found.last().unwrap().log_id.index;
            assert!(index_max == count - 1 || index_max == count);
            // It goes on from there.
            append(&mut log, [sized_entry(2, index_max + 1, last)]).await;
            drop(log);
            let found = entries_of(&mut cut.after_power_cut(|| false).open()).await;
            assert_eq!(found.len() as u64, index_max + 2);
        });
    }
}

#[tokio::test]
async fn a_snapshot_outlives_the_process_and_an_unfinished_one_is_ignored() {
    let directory = TempDir::new().unwrap();
    let Store { mut machine, .. } = open(directory.path(), 1).unwrap();
    machine
        .apply((1..=5).map(|index| entry(2, index)))
        .await
        .unwrap();
    let built = machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    // Applied after the snapshot: only the log has it.
    machine.apply([entry(2, 6)]).await.unwrap();
    drop(machine);
    fs::write(directory.path().join("snapshot.unfinished"), "half a snap").unwrap();

    let Store { mut machine, .. } = open(directory.path(), 1).unwrap();
    assert_eq!(*machine.mark().borrow(), AppliedMark { index: 5, term: 2 });
    assert_eq!(machine.look(|applied| applied.kv.len()), 5);
    let found = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!((found.meta, found.snapshot), (built.meta, built.snapshot));
}

#[tokio::test]
async fn a_slow_build_does_not_replace_a_newer_snapshot() {
    let directory = TempDir::new().unwrap();
    let Store { machine, .. } = open(directory.path(), 1).unwrap();
    let covering = |index| snapshot::StoredSnapshot {
        meta: SnapshotMeta {
            last_log_id: Some(log_id(1, 1, index)),
            ..Default::default()
        },
        data: bytes::Bytes::from_static(b"{}"),
    };
    for (stored, expected) in [(5, 5), (9, 9), (7, 9), (9, 9), (10, 10)] {
        machine.store(&covering(stored)).unwrap();
        let found = snapshot::load(directory.path()).unwrap().unwrap();
        assert_eq!(found.meta, covering(expected).meta, "after {stored}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_snapshot_with_one_flipped_bit_never_loads(position in 0usize..10_000, bit in 0u8..8) {
        let directory = TempDir::new().unwrap();
        let snapshot = snapshot::StoredSnapshot { meta: SnapshotMeta { last_log_id: Some(log_id(4, 1, 77)), ..Default::default() }, data: bytes::Bytes::from_static(b"{\"a\":\"b\"}") };
        snapshot::save(directory.path(), &snapshot).unwrap();
        let file = directory.path().join("snapshot");
        let mut content = fs::read(&file).unwrap();
        let position = position % content.len();
        content[position] ^= 1 << bit;
        fs::write(&file, content).unwrap();
        prop_assert!(snapshot::load(directory.path()).is_err(), "position {position} bit {bit}");
    }
}
