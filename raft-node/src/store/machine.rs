//! The state machine as openraft drives it: applies committed entries in memory, builds and installs snapshots.
//!
//! `apply` does no IO: after a crash the state is rebuilt from the snapshot and the log. A snapshot is durable before the log that it
//! replaces may be purged.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use tokio::sync::watch;

use super::OpenError;
use super::snapshot::{self, LoadError, StoredSnapshot};
use super::voters::Voters;
use crate::cluster::{
    Entry, KvCluster, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership,
};
use crate::kv::{Kv, Outcomes};

/// The state after the last applied entry.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The last entry that the state includes.
    pub last: Option<LogId>,
    /// The newest membership among those entries.
    pub membership: StoredMembership,
    /// The keys and values.
    pub kv: Kv,
}

/// How far the state machine is: cheap to watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppliedMark {
    /// Index of the last applied entry, 0 for none.
    pub index: u64,
    /// Term of the last applied entry, 0 for none.
    pub term: u64,
}

impl From<Option<LogId>> for AppliedMark {
    fn from(last: Option<LogId>) -> Self {
        last.map(|id| Self {
            index: id.index,
            term: id.leader_id.term,
        })
        .unwrap_or_default()
    }
}

/// A handle on the state machine; clones share it.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    voters: Voters,
    applied: RwLock<Applied>,
    mark: watch::Sender<AppliedMark>,
    /// What the snapshot file holds. Locked while the file is replaced, so that a slow build never overwrites a newer install.
    stored: Mutex<Option<SnapshotMeta>>,
}

impl Machine {
    pub(super) fn open(directory: &Path, voters: Voters) -> Result<Self, OpenError> {
        let damaged = |reason| OpenError::Damaged {
            path: directory.to_owned(),
            reason,
        };
        let snapshot = match snapshot::load(directory) {
            Ok(snapshot) => snapshot,
            Err(LoadError::Read { source, .. }) => {
                return Err(OpenError::Directory {
                    path: directory.to_owned(),
                    source,
                });
            }
            Err(error @ LoadError::Damaged { .. }) => return Err(damaged(error.to_string())),
        };
        let applied = match &snapshot {
            Some(snapshot) => {
                restore(snapshot).map_err(|error| damaged(format!("snapshot: {error}")))?
            }
            None => Applied::default(),
        };
        note_voters(&voters, &applied.membership);
        let mark = watch::Sender::new(applied.last.into());
        let stored = Mutex::new(snapshot.map(|snapshot| snapshot.meta));
        let directory = directory.to_owned();
        Ok(Self {
            shared: Arc::new(Shared {
                directory,
                voters,
                applied: RwLock::new(applied),
                mark,
                stored,
            }),
        })
    }

    /// Runs `look` on the current state. Entries are not applied meanwhile: keep it short.
    pub fn look<T>(&self, look: impl FnOnce(&Applied) -> T) -> T {
        look(
            &self
                .shared
                .applied
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Follows how far the state machine is.
    pub fn mark(&self) -> watch::Receiver<AppliedMark> {
        self.shared.mark.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Applied) -> T) -> T {
        let mut applied = self
            .shared
            .applied
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut applied);
        self.shared.mark.send_replace(applied.last.into());
        changed
    }

    /// Replaces the snapshot file, unless it already covers as much.
    pub(super) fn store(&self, snapshot: &StoredSnapshot) -> std::io::Result<()> {
        let mut stored = self
            .shared
            .stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if stored
            .as_ref()
            .is_some_and(|stored| stored.last_log_id > snapshot.meta.last_log_id)
        {
            return Ok(());
        }
        snapshot::save(&self.shared.directory, snapshot)?;
        *stored = Some(snapshot.meta.clone());
        Ok(())
    }
}

impl RaftSnapshotBuilder<KvCluster> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let applied = self.look(Applied::clone);
        let machine = self.clone();
        let built = blocking(move || {
            let data = Bytes::from(serde_json::to_vec(&applied.kv)?);
            let meta = SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership,
                snapshot_id: snapshot_id(applied.last, &data),
            };
            let snapshot = StoredSnapshot { meta, data };
            machine.store(&snapshot)?;
            Ok(snapshot)
        })
        .await;
        let StoredSnapshot { meta, data } =
            built.map_err(|error| StorageIOError::write_snapshot(None, &error))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(data),
        })
    }
}

impl RaftStateMachine<KvCluster> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.look(|applied| (applied.last, applied.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(self.change(|applied| {
            entries
                .into_iter()
                .map(|entry| apply_entry(applied, entry))
                .collect()
        }))
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Bytes>, StorageError> {
        Ok(Box::new(Bytes::new()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Bytes>,
    ) -> Result<(), StorageError> {
        let machine = self.clone();
        let received = StoredSnapshot {
            meta: meta.clone(),
            data: *snapshot,
        };
        let restored = blocking(move || {
            let restored = restore(&received)?;
            machine.store(&received)?;
            Ok(restored)
        })
        .await
        .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        note_voters(&self.shared.voters, &restored.membership);
        self.change(|applied| *applied = restored);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let directory = self.shared.directory.clone();
        let loaded =
            blocking(move || snapshot::load(&directory).map_err(std::io::Error::other)).await;
        let snapshot = loaded.map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(snapshot.map(|StoredSnapshot { meta, data }| Snapshot {
            meta,
            snapshot: Box::new(data),
        }))
    }
}

fn apply_entry(applied: &mut Applied, entry: Entry) -> Outcomes {
    applied.last = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Outcomes::default(),
        EntryPayload::Normal(batch) => applied.kv.apply(&batch),
        EntryPayload::Membership(membership) => {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            Outcomes::default()
        }
    }
}

fn note_voters(voters: &Voters, membership: &StoredMembership) {
    if let Some(id) = membership.log_id() {
        voters.note(id.index, membership.membership());
    }
}

fn restore(snapshot: &StoredSnapshot) -> Result<Applied, serde_json::Error> {
    let StoredSnapshot { meta, data } = snapshot;
    let kv = serde_json::from_slice(data)?;
    Ok(Applied {
        last: meta.last_log_id,
        membership: meta.last_membership.clone(),
        kv,
    })
}

/// The same state at the same entry has the same id, whichever node built it.
fn snapshot_id(last: Option<LogId>, data: &[u8]) -> String {
    let mark = AppliedMark::from(last);
    format!("{}-{}-{:08x}", mark.term, mark.index, crc32fast::hash(data))
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, AnyError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(AnyError::new(&error)),
        Err(stopped) => Err(AnyError::new(&stopped)),
    }
}
