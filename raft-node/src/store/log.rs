//! The log and the vote in redb. What openraft is told to be durable is on disk: redb's commit ends with an fsync.
//!
//! Writes run on tokio's blocking threads, so that a slow disk never holds up a probe or a heartbeat. The committed index costs no write
//! of its own: it travels with the next transaction, and may lag after a crash, which only means that fewer entries are applied before
//! the leader speaks.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::{LOG, META, meta, read_meta};
use crate::cluster::{Entry, KvCluster, LogId, StorageError, Vote};

/// How many bytes of entries one AppendEntries message carries; one entry always goes, however large.
const READ_BYTES_MAX: usize = 256 << 10;

/// A handle on the log; clones share one database.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    /// The newest committed id that openraft named, on disk or not yet.
    committed: Mutex<Option<LogId>>,
}

impl LogStore {
    pub(super) fn open(database: Database) -> Result<Self, String> {
        let committed = read_meta(&database, meta::COMMITTED)?;
        read_meta::<Vote>(&database, meta::VOTE)?;
        let log = Self {
            shared: Arc::new(Shared {
                database,
                committed: Mutex::new(committed),
            }),
        };
        // A damaged log must stop the node here, with its reason, and not in the middle of a replication.
        log.read(0.., usize::MAX)
            .map_err(|error| format!("log: {error}"))?;
        Ok(log)
    }

    /// The last id in the log, or the last purged one where the log is empty.
    ///
    /// # Errors
    /// The database's own, as text.
    pub fn last_log_id(&self) -> Result<Option<LogId>, String> {
        let last = self.last_entry_id().map_err(|error| error.to_string())?;
        match last {
            Some(id) => Ok(Some(id)),
            None => read_meta(&self.shared.database, meta::PURGED),
        }
    }

    /// The stored vote, if there was ever one.
    ///
    /// # Errors
    /// The database's own, as text.
    pub fn vote(&self) -> Result<Option<Vote>, String> {
        read_meta(&self.shared.database, meta::VOTE)
    }

    /// Writes what still waits for a transaction: called once, at a clean stop.
    ///
    /// # Errors
    /// The database's own.
    pub async fn flush(&self) -> Result<(), StorageError> {
        self.write(|_| Ok(()))
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }

    fn last_entry_id(&self) -> Result<Option<LogId>, redb::Error> {
        let transaction = self.shared.database.begin_read()?;
        let table = transaction.open_table(LOG)?;
        let Some((_, bytes)) = table.last()? else {
            return Ok(None);
        };
        Ok(Some(decode(bytes.value())?.log_id))
    }

    /// Entries of `range` in order, stopping before `bytes_max` is exceeded, but never before the first.
    fn read(
        &self,
        range: impl RangeBounds<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, redb::Error> {
        let transaction = self.shared.database.begin_read()?;
        let table = transaction.open_table(LOG)?;
        let mut entries = Vec::new();
        let mut bytes_read = 0;
        for row in table.range::<u64>((bound(range.start_bound()), bound(range.end_bound())))? {
            let (_, bytes) = row?;
            bytes_read += bytes.value().len();
            if bytes_read > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(decode(bytes.value())?);
        }
        Ok(entries)
    }

    /// Runs `change` and the pending committed id as one durable transaction, off the async threads.
    async fn write<F>(&self, change: F) -> Result<(), redb::Error>
    where
        F: FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let write = move || {
            let transaction = shared.database.begin_write()?;
            let committed = *shared
                .committed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(committed) = committed {
                put_meta(&transaction, meta::COMMITTED, &committed)?;
            }
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written,
            Err(stopped) => Err(redb::Error::Io(std::io::Error::other(stopped))),
        }
    }
}

impl RaftLogReader<KvCluster> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, StorageError>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(range, usize::MAX)
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, READ_BYTES_MAX)
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }
}

impl RaftLogStorage<KvCluster> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<KvCluster>, StorageError> {
        let last_purged_log_id =
            read_meta(&self.shared.database, meta::PURGED).map_err(unreadable)?;
        let last_log_id = self.last_log_id().map_err(unreadable)?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.write(move |transaction| put_meta(transaction, meta::VOTE, &vote))
            .await
            .map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.vote().map_err(unreadable)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        *self
            .shared
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(*self
            .shared
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<KvCluster>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows = entries
            .into_iter()
            .map(|entry| serde_json::to_vec(&entry).map(|bytes| (entry.log_id.index, bytes)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| StorageIOError::write_logs(&error))?;
        let written = self
            .write(move |transaction| {
                let mut table = transaction.open_table(LOG)?;
                for (index, bytes) in &rows {
                    table.insert(index, bytes.as_slice())?;
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => Err(StorageIOError::write_logs(&error).into()),
        }
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.write(move |transaction| {
            transaction
                .open_table(LOG)?
                .retain_in(since.index.., |_, _| false)?;
            Ok(())
        })
        .await
        .map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.write(move |transaction| {
            put_meta(transaction, meta::PURGED, &upto)?;
            transaction
                .open_table(LOG)?
                .retain_in(..=upto.index, |_, _| false)?;
            Ok(())
        })
        .await
        .map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

fn put_meta<T: serde::Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), redb::Error> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    transaction
        .open_table(META)?
        .insert(name, bytes.as_slice())?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Entry, redb::Error> {
    let entry: Entry =
        serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    Ok(entry)
}

fn unreadable(reason: String) -> StorageError {
    StorageIOError::read_logs(openraft::AnyError::error(reason)).into()
}

fn bound(bound: Bound<&u64>) -> Bound<u64> {
    bound.cloned()
}
