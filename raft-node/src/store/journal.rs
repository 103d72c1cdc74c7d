//! The log on disk: frames of records in numbered segments, the newest of which grows.
//!
//! ```text
//! raft-node log 2\n
//! a frame: the node's number, the vote, the committed and the purged id, as they were when the segment was begun
//! frames of changes
//! zeros
//! ```
//!
//! A segment can go when all its entries are purged: what else it said stands at the beginning of the next. Zeros are written ahead of the
//! frames, because an fsync of blocks that a file already has is about half as long as one that also notes new ones.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::disk::Disk;
use super::entries::{Entries, Place};
use super::frame;
use crate::cluster::{Entry, LogId, NodeId, Vote};

/// Raised when the meaning of what is stored changes. 1 was a database of another kind.
pub(super) const FORMAT: u64 = 2;
const MAGIC: &[u8] = b"raft-node log 2\n";
const MAGIC_OF_ANY_FORMAT: &[u8] = b"raft-node log ";

/// A segment that is longer is the last of its kind; a frame goes into one segment whole.
const SEGMENT_BYTES: u64 = 16 << 20;
/// How far zeros are written ahead at a time.
const AHEAD_BYTES: u64 = 256 << 10;

/// What a log says besides its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

/// One change to the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Record {
    /// Whose log it is.
    Owner(NodeId),
    /// A vote, which replaces the one before.
    Vote(Vote),
    /// How far the log is known to be committed.
    Committed(LogId),
    /// All entries up to this are gone.
    Purged(LogId),
    /// All entries from this index on are gone.
    Truncated(u64),
    /// The entry after the last.
    Entry(Entry),
}

/// Why a log cannot be opened.
#[derive(Debug, Error)]
pub(super) enum JournalError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("belongs to node {0}")]
    OtherNode(NodeId),
    #[error("has format {0}")]
    OtherFormat(u64),
    #[error("{0}")]
    Damaged(String),
}

/// The end of the log, where it grows.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    node: NodeId,
    meta: Meta,
    /// All segments; the last is the one that grows.
    segments: Vec<Segment>,
    /// Where the next frame goes.
    end: u64,
    /// How long the file is, with the zeros.
    length: u64,
    /// The last frame's.
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    /// The highest index of an entry in it.
    index_max: Option<u64>,
}

impl Journal {
    /// Opens the log of `node`; begins it where there is none.
    pub(super) fn open(disk: Arc<dyn Disk>, node: NodeId) -> Result<(Self, Entries), JournalError> {
        let mut journal = Self {
            disk,
            node,
            meta: Meta::default(),
            segments: Vec::new(),
            end: 0,
            length: 0,
            number: 0,
        };
        let mut replay = Replay::default();
        let numbers = journal.disk.segments()?;
        for &number in &numbers {
            let newest = numbers.last() == Some(&number);
            journal.load(number, newest, &mut replay)?;
        }
        if numbers.is_empty() {
            journal.begin_segment()?;
        }
        let entries = replay
            .finish(&journal.meta)
            .map_err(JournalError::Damaged)?;
        Ok((journal, entries))
    }

    /// What the log says besides its entries.
    pub(super) fn meta(&self) -> Meta {
        self.meta
    }

    /// Makes `records` durable, all in one fsync; returns where the entries among them are.
    pub(super) fn write(&mut self, records: &[Record]) -> io::Result<Vec<(LogId, Place)>> {
        let Unsealed { mut frame, entries } = encode(records)?;
        if self.end + frame.len() as u64 > SEGMENT_BYTES {
            self.begin_segment()?;
            self.remove_purged();
        }
        frame::seal(&mut frame, self.number + 1);
        let segment = self.newest();
        let end = self.end + frame.len() as u64;
        if end > self.length {
            let length = end.next_multiple_of(AHEAD_BYTES);
            let zeros = vec![0; (length - self.length) as usize];
            self.disk.write(segment, self.length, &zeros)?;
            self.length = length;
        }
        self.disk.write(segment, self.end, &frame)?;
        self.disk.sync(segment)?;
        let places = entries.into_iter().map(|(id, within)| {
            let place = Place {
                segment,
                offset: self.end + within.start as u64,
                length: within.len(),
            };
            (id, place)
        });
        let places = places.collect();
        self.number += 1;
        self.end = end;
        for record in records {
            self.note(record);
        }
        Ok(places)
    }

    fn newest(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.number)
    }

    /// Keeps in mind what the next segment begins with, and what may go with this one.
    fn note(&mut self, record: &Record) {
        match record {
            Record::Owner(_) | Record::Truncated(_) => {}
            Record::Vote(vote) => self.meta.vote = Some(*vote),
            Record::Committed(id) => self.meta.committed = Some(*id),
            Record::Purged(id) => self.meta.purged = Some(*id),
            Record::Entry(entry) => {
                if let Some(segment) = self.segments.last_mut() {
                    segment.index_max = segment.index_max.max(Some(entry.log_id.index));
                }
            }
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let Meta {
            vote,
            committed,
            purged,
        } = self.meta;
        let mut records = vec![Record::Owner(self.node)];
        records.extend(vote.map(Record::Vote));
        records.extend(committed.map(Record::Committed));
        records.extend(purged.map(Record::Purged));
        let Unsealed { mut frame, .. } = encode(&records)?;
        self.number += 1;
        frame::seal(&mut frame, self.number);
        let content = [MAGIC, &frame].concat();
        let number = self.newest() + 1;
        self.disk.create(number, &content)?;
        self.segments.push(Segment {
            number,
            index_max: None,
        });
        self.end = content.len() as u64;
        self.length = self.end;
        Ok(())
    }

    /// Removes the oldest segments that hold nothing but what is purged.
    fn remove_purged(&mut self) {
        let purged = self.meta.purged.map(|id| id.index);
        let needed = |segment: &Segment| segment.index_max > purged;
        let oldest = self.segments.iter().position(needed);
        // The newest stays, whatever is in it.
        let count = oldest.unwrap_or(usize::MAX).min(self.segments.len() - 1);
        for segment in self.segments.drain(..count) {
            if let Err(error) = self.disk.remove(segment.number) {
                tracing::warn!(segment = segment.number, %error, "a segment of the log that is not needed any more stays");
            }
        }
    }

    fn load(&mut self, number: u64, newest: bool, replay: &mut Replay) -> Result<(), JournalError> {
        let content = self.disk.load(number)?;
        let damaged = |at: usize, what: &str| {
            JournalError::Damaged(format!("segment {number} of the log, at byte {at}: {what}"))
        };
        check_format(&content).map_err(|fault| fault.unwrap_or_else(|| damaged(0, "not a log")))?;
        let before = (!self.segments.is_empty()).then_some(self.number);
        let scan = frame::scan(&content, MAGIC.len(), before)
            .map_err(|at| damaged(at, "checksum mismatch"))?;
        self.segments.push(Segment {
            number,
            index_max: None,
        });
        if scan.bodies.is_empty() {
            return Err(damaged(MAGIC.len(), "checksum mismatch"));
        }
        for body in &scan.bodies {
            let mut at = body.start;
            while at < body.end {
                let (record, rest) = postcard::take_from_bytes(&content[at..body.end])
                    .map_err(|error| damaged(at, &error.to_string()))?;
                let next = body.end - rest.len();
                let place = Place {
                    segment: number,
                    offset: at as u64,
                    length: next - at,
                };
                self.note(&record);
                replay
                    .record(record, place, self.node)?
                    .map_err(|what| damaged(at, &what))?;
                at = next;
            }
        }
        (self.number, self.end) = (scan.last_number, scan.end as u64);
        self.length = content.len() as u64;
        // Behind the last frame are zeros, or what a power cut left of one that nobody was told of.
        if content[scan.end..].iter().any(|&byte| byte != 0) {
            if !newest {
                return Err(damaged(scan.end, "checksum mismatch"));
            }
            self.disk.cut(number, self.end)?;
            self.length = self.end;
        }
        Ok(())
    }
}

/// `Err(None)` where the file is something else.
fn check_format(content: &[u8]) -> Result<(), Option<JournalError>> {
    if content.starts_with(MAGIC) {
        return Ok(());
    }
    let line = content.split(|&byte| byte == b'\n').next();
    let format = line
        .and_then(|line| line.strip_prefix(MAGIC_OF_ANY_FORMAT))
        .and_then(|format| std::str::from_utf8(format).ok()?.parse().ok());
    Err(format.map(JournalError::OtherFormat))
}

/// A frame that is still to be sealed.
struct Unsealed {
    frame: Vec<u8>,
    /// Where in it each entry is.
    entries: Vec<(LogId, Range<usize>)>,
}

fn encode(records: &[Record]) -> io::Result<Unsealed> {
    let mut frame = vec![0; frame::HEADER_LENGTH];
    let mut entries = Vec::new();
    for record in records {
        let start = frame.len();
        postcard::to_io(record, &mut frame).map_err(io::Error::other)?;
        if let Record::Entry(entry) = record {
            entries.push((entry.log_id, start..frame.len()));
        }
    }
    Ok(Unsealed { frame, entries })
}

/// The entry that is at a place.
pub(super) fn read_entry(disk: &dyn Disk, place: Place) -> io::Result<Entry> {
    let content = disk.read(place.segment, place.offset, place.length)?;
    match postcard::from_bytes(&content) {
        Ok(Record::Entry(entry)) => Ok(entry),
        Ok(_) => Err(io::Error::other(
            "a log record is not the entry that it was",
        )),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What the records say, one after the other.
#[derive(Default)]
struct Replay {
    entries: Entries,
    owner: Option<NodeId>,
    /// Entries up to here went with their segments; they must have been purged.
    gone: Option<u64>,
}

impl Replay {
    /// # Errors
    /// The outer: this is another node's log. The inner: what does not fit.
    fn record(
        &mut self,
        record: Record,
        place: Place,
        node: NodeId,
    ) -> Result<Result<(), String>, JournalError> {
        match record {
            Record::Owner(owner) if owner != node => return Err(JournalError::OtherNode(owner)),
            Record::Owner(owner) => self.owner = Some(owner),
            Record::Vote(_) | Record::Committed(_) => {}
            Record::Purged(upto) => self.entries.purge(upto),
            Record::Truncated(since) => self.entries.truncate(since),
            Record::Entry(entry) => return Ok(self.entry(entry, place)),
        }
        Ok(Ok(()))
    }

    fn entry(&mut self, entry: Entry, place: Place) -> Result<(), String> {
        let index = entry.log_id.index;
        let next = self.entries.next_index();
        if index > next && self.entries.is_empty() && self.gone.is_none() {
            self.gone = Some(index - 1);
        } else if index != next {
            return Err(format!("entry {index} where {next} is due"));
        }
        self.entries.push(entry, Some(place));
        self.entries.evict();
        Ok(())
    }

    fn finish(self, meta: &Meta) -> Result<Entries, String> {
        match self.gone {
            Some(gone) if meta.purged.is_none_or(|purged| purged.index < gone) => {
                Err(format!("the log lacks entries up to {gone}"))
            }
            _ => Ok(self.entries),
        }
    }
}
