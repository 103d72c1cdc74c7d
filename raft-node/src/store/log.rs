//! The log and the vote, as openraft drives them.
//!
//! A thread of its own writes and syncs; all that was queued meanwhile goes into its next frame. openraft 0.9 waits for an append before it
//! does anything else, so it is told at once that the entries are written, and those who *say* so to others wait for the disk: a follower
//! before it acknowledges ([`crate::rpc`]), a leader before it counts a follower's acknowledgement, and with it its own copy
//! ([`crate::network`]). So the leader's fsync and its followers' run side by side, and the leader's core never waits for a disk. ADR 0025
//! has the proof that nothing unsafe comes of it, and what it needs: a node that restarts never leads in a term in which it led before.

use std::fmt::Debug;
use std::io;
use std::mem;
use std::ops::RangeBounds;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};
use thiserror::Error;
use tokio::sync::watch;

use super::disk::Disk;
use super::entries::Entries;
use super::journal::{self, Journal, JournalError, Record};
use super::voters::Voters;
use crate::cluster::{Entry, KvCluster, LogId, NodeId, StorageError, Vote};

/// How many bytes of entries one AppendEntries message carries; one entry always goes, however large.
const READ_BYTES_MAX: usize = 256 << 10;

/// The disk refused to write; nothing is written after that.
#[derive(Debug, Clone, Error)]
#[error("cannot write the log: {0}")]
pub struct LogBroken(Arc<str>);

/// A moment in the life of the log: what was queued before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued(u64);

/// A handle on the log; clones share it. The thread ends with the last of them.
#[derive(Clone)]
pub struct LogStore {
    thread: Arc<WriterThread>,
}

struct WriterThread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    voters: Voters,
    state: Mutex<State>,
    /// Notified when there is something to write, or nothing more will come.
    work: Condvar,
    /// What is on disk.
    durable: watch::Sender<Result<Queued, LogBroken>>,
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The committed id costs no write of its own: it travels with the next one.
    committed_is_news: bool,
    entries: Entries,
    queue: Vec<Record>,
    queued: Queued,
    closed: bool,
}

impl LogStore {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        node: NodeId,
        voters: Voters,
    ) -> Result<Self, JournalError> {
        let (journal, entries) = Journal::open(Arc::clone(&disk), node)?;
        let meta = journal.meta();
        let state = State {
            vote: meta.vote.map(|vote| never_again(vote, node)),
            committed: meta.committed,
            committed_is_news: false,
            entries,
            queue: Vec::new(),
            queued: Queued(0),
            closed: false,
        };
        let shared = Arc::new(Shared {
            disk,
            voters,
            state: Mutex::new(state),
            work: Condvar::new(),
            durable: watch::Sender::new(Ok(Queued(0))),
        });
        shared.note_memberships()?;
        let handle = thread::Builder::new().name("log".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.write_all(journal)
        })?;
        let thread = WriterThread {
            shared,
            handle: Some(handle),
        };
        Ok(Self {
            thread: Arc::new(thread),
        })
    }

    /// The last id in the log, or the last purged one where the log is empty.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared().lock().entries.last_id()
    }

    /// The vote, if there was ever one.
    pub fn vote(&self) -> Option<Vote> {
        self.shared().lock().vote
    }

    /// All that was written until now.
    pub fn queued(&self) -> Queued {
        self.shared().lock().queued
    }

    /// Returns when `queued` is on disk.
    ///
    /// # Errors
    /// Where it will never be.
    pub async fn durable(&self, queued: Queued) -> Result<(), LogBroken> {
        let mut durable = self.shared().durable.subscribe();
        let reached =
            durable.wait_for(|durable| durable.as_ref().map_or(true, |now| *now >= queued));
        match reached.await.as_deref() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(broken)) => Err(broken.clone()),
            // The sender lives in the store that this is a handle on.
            Err(_closed) => Err(LogBroken("the log is closed".into())),
        }
    }

    /// Returns when the disk refused to write.
    pub async fn broken(&self) -> LogBroken {
        match self.durable(Queued(u64::MAX)).await {
            Ok(()) => std::future::pending().await,
            Err(broken) => broken,
        }
    }

    /// Writes what still waits for another write: called once, at a clean stop.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub async fn flush(&self) -> Result<(), LogBroken> {
        let queued = {
            let mut state = self.shared().lock();
            match (state.committed_is_news, state.committed) {
                (true, Some(committed)) => self
                    .shared()
                    .queue(&mut state, [Record::Committed(committed)]),
                _ => state.queued,
            }
        };
        self.durable(queued).await
    }

    fn shared(&self) -> &Shared {
        &self.thread.shared
    }

    /// Queues `records`, after `change` has made them true in memory.
    fn change(
        &self,
        records: impl IntoIterator<Item = Record>,
        change: impl FnOnce(&mut State),
    ) -> Queued {
        let mut state = self.shared().lock();
        change(&mut state);
        self.shared().queue(&mut state, records)
    }

    /// Entries of `range` in order, stopping before `bytes_max` is exceeded, but never before the first.
    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = self.shared().lock();
        let mut found = Vec::new();
        let mut bytes_read = 0;
        for slot in state.entries.range(range) {
            bytes_read += slot.bytes;
            if bytes_read > bytes_max && !found.is_empty() {
                break;
            }
            found.push((slot.entry.clone(), slot.place));
        }
        drop(state);
        let entries = found.into_iter().map(|found| match found {
            (Some(entry), _) => Ok(entry),
            (None, Some(place)) => journal::read_entry(&*self.shared().disk, place),
            (None, None) => Err(io::Error::other(
                "an entry is neither in memory nor on disk",
            )),
        });
        entries.collect()
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(handle) = self.handle.take() {
            // What it could not write it has reported.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, state: &mut State, records: impl IntoIterator<Item = Record>) -> Queued {
        state.queue.extend(records);
        state.queued.0 += 1;
        self.work.notify_one();
        state.queued
    }

    /// The thread: writes what is queued, until the store is closed or the disk refuses.
    fn write_all(&self, mut journal: Journal) {
        while let Some((mut records, queued, committed)) = self.next() {
            records.extend(committed.map(Record::Committed));
            match journal.write(&records) {
                Ok(places) => {
                    let mut state = self.lock();
                    for (id, place) in places {
                        state.entries.settle(id, place);
                    }
                    state.entries.evict();
                    drop(state);
                    let _before = self.durable.send_replace(Ok(queued));
                }
                // Never tried again: what a failed fsync was to write may be lost, whatever a second one says.
                Err(error) => {
                    let broken = LogBroken(error.to_string().into());
                    let _before = self.durable.send_replace(Err(broken));
                    return;
                }
            }
        }
    }

    /// Waits for something to write; `None` where nothing more will come.
    fn next(&self) -> Option<(Vec<Record>, Queued, Option<LogId>)> {
        let mut state = self.lock();
        while state.queue.is_empty() && !state.closed {
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.queue.is_empty() {
            return None;
        }
        let committed = match mem::take(&mut state.committed_is_news) {
            true => state.committed,
            false => None,
        };
        Some((mem::take(&mut state.queue), state.queued, committed))
    }

    /// Finds the memberships in the log.
    fn note_memberships(&self) -> io::Result<()> {
        let state = self.lock();
        for slot in state.entries.range(..) {
            let entry = match (&slot.entry, slot.place) {
                (Some(entry), _) => entry,
                (None, Some(place)) => &journal::read_entry(&*self.disk, place)?,
                (None, None) => continue,
            };
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.voters.note(slot.id.index, membership);
            }
        }
        Ok(())
    }
}

/// The vote that a node goes on with after a start: as it was, but of its own office it keeps the candidacy only.
///
/// openraft 0.9 would let it lead on in the same term, and it may lack entries that it sent to others in that term.
fn never_again(vote: Vote, node: NodeId) -> Vote {
    let voted_for = vote.leader_id.voted_for();
    match voted_for == Some(node) {
        true => Vote::new(vote.leader_id.term, node),
        false => vote,
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
        let state = self.shared().lock();
        Ok(LogState {
            last_purged_log_id: state.entries.purged(),
            last_log_id: state.entries.last_id(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let queued = self.change([Record::Vote(*vote)], |state| state.vote = Some(*vote));
        let written = self.durable(queued).await;
        written.map_err(|broken| StorageIOError::write_vote(AnyError::new(&broken)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut state = self.shared().lock();
        state.committed = committed;
        state.committed_is_news = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared().lock().committed)
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.shared().voters.note(entry.log_id.index, membership);
            }
        }
        let records = entries.iter().cloned().map(Record::Entry);
        let queued = self.change(records.collect::<Vec<_>>(), |state| {
            for entry in &entries {
                state.entries.push(entry.clone(), None);
            }
        });
        // Alone it waits for nobody's acknowledgement, and so nobody's waits for this disk.
        if self.shared().voters.may_be_one() {
            self.durable(queued).await.map_err(not_written)?;
        }
        // What the disk refused earlier ends the node here.
        if let Err(broken) = &*self.shared().durable.borrow() {
            return Err(not_written(broken.clone()));
        }
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.shared().voters.truncate(since.index);
        let queued = self.change([Record::Truncated(since.index)], |state| {
            state.entries.truncate(since.index);
        });
        self.durable(queued).await.map_err(not_written)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.shared().voters.purge(upto.index);
        self.change([Record::Purged(upto)], |state| state.entries.purge(upto));
        Ok(())
    }
}

fn not_written(broken: LogBroken) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&broken)).into()
}
