//! The store by openraft's own suite, and by what that suite does not look at: power cuts, restarts, unfinished files.

use std::fs;
use std::io;
use std::sync::Mutex;

use openraft::entry::FromAppData;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, log_id};
use openraft::{RaftLogReader, RaftSnapshotBuilder};
use proptest::prelude::*;
use redb::StorageBackend;
use tempfile::TempDir;

use super::*;
use crate::cluster::{Entry, KvCluster, SnapshotMeta, StorageError, Vote};
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
#[derive(Debug, Clone, Default)]
struct Disk {
    state: std::sync::Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    now: Vec<u8>,
    synced: Vec<u8>,
    syncs: u64,
}

impl Disk {
    fn syncs(&self) -> u64 {
        self.state.lock().unwrap().syncs
    }

    /// What another machine would read from this disk if the power went now.
    fn after_power_cut(&self) -> Disk {
        let synced = self.state.lock().unwrap().synced.clone();
        let state = DiskState {
            now: synced.clone(),
            synced,
            syncs: 0,
        };
        Disk {
            state: std::sync::Arc::new(Mutex::new(state)),
        }
    }

    fn open(&self) -> LogStore {
        let database = Database::builder()
            .create_with_backend(self.clone())
            .unwrap();
        if read_meta::<u64>(&database, meta::FORMAT).unwrap().is_none() {
            write_claim(&database, 1).unwrap();
        }
        LogStore::open(database).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.state.lock().unwrap().now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state
            .lock()
            .unwrap()
            .now
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.synced = state.now.clone();
        state.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.state.lock().unwrap().now[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn entry(term: u64, index: u64) -> Entry {
    let put = Command::Put {
        key: format!("k{index}").into(),
        value: format!("{term}").into(),
    };
    Entry {
        log_id: log_id(term, 1, index),
        ..Entry::from_app_data(Batch(vec![put]))
    }
}

#[tokio::test]
async fn what_the_store_reported_as_durable_survives_a_power_cut() {
    let disk = Disk::default();
    let mut log = disk.open();
    let vote = Vote::new_committed(3, 1);
    log.save_vote(&vote).await.unwrap();
    assert_eq!(
        disk.after_power_cut().open().vote().unwrap(),
        Some(vote),
        "the vote"
    );

    for index in 1..=20 {
        // Returns when the callback has reported the entry as flushed.
        log.blocking_append([entry(3, index)]).await.unwrap();
        let mut found = disk.after_power_cut().open();
        let entries = found.try_get_log_entries(0..).await.unwrap();
        assert_eq!(
            entries.last(),
            Some(&entry(3, index)),
            "the entry just acknowledged"
        );
        assert_eq!(entries.len() as u64, index, "and all before it");
    }

    log.truncate(log_id(3, 1, 15)).await.unwrap();
    log.purge(log_id(3, 1, 4)).await.unwrap();
    let mut found = disk.after_power_cut().open();
    let state = found.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 1, 4)));
    assert_eq!(state.last_log_id, Some(log_id(3, 1, 14)));
    assert_eq!(found.try_get_log_entries(0..).await.unwrap().len(), 10);
}

#[tokio::test]
async fn many_entries_in_one_append_cost_one_sync() {
    let disk = Disk::default();
    let mut log = disk.open();
    log.blocking_append([entry(1, 1)]).await.unwrap();
    let before = disk.syncs();
    log.blocking_append((2..=100).map(|index| entry(1, index)))
        .await
        .unwrap();
    assert_eq!(disk.syncs() - before, 1);
}

#[tokio::test]
async fn the_committed_index_travels_with_the_next_write() {
    let disk = Disk::default();
    let mut log = disk.open();
    log.blocking_append([entry(1, 1)]).await.unwrap();
    log.save_committed(Some(log_id(1, 1, 1))).await.unwrap();
    let syncs = disk.syncs();
    assert_eq!(
        disk.after_power_cut()
            .open()
            .read_committed()
            .await
            .unwrap(),
        None
    );
    log.flush().await.unwrap();
    assert_eq!(disk.syncs() - syncs, 1);
    let found = disk
        .after_power_cut()
        .open()
        .read_committed()
        .await
        .unwrap();
    assert_eq!(found, Some(log_id(1, 1, 1)));
}

#[tokio::test]
async fn a_replication_message_stays_small_but_never_empty() {
    let mut log = Disk::default().open();
    let large = |index| {
        let put = Command::Put {
            key: "k".into(),
            value: "v".repeat(200_000).into(),
        };
        Entry {
            log_id: log_id(1, 1, index),
            ..Entry::from_app_data(Batch(vec![put]))
        }
    };
    log.blocking_append((1..=4).map(large)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(1, 5).await.unwrap().len(), 1);
    log.blocking_append((5..=400).map(|index| entry(1, index)))
        .await
        .unwrap();
    assert_eq!(
        log.limited_get_log_entries(5, 401).await.unwrap().len(),
        396
    );
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
