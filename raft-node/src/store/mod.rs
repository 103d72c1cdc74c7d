//! What a node keeps on disk: the log and the vote in numbered segments, the newest snapshot in a file of its own.
//!
//! The state machine lives in memory and is rebuilt from the snapshot and the log. The directory belongs to one node id and, while a
//! node runs, to one process, which holds the lock on the file `lock`.

mod disk;
mod entries;
mod frame;
mod journal;
mod log;
mod machine;
mod snapshot;
mod voters;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::cluster::NodeId;

use disk::Directory;
use journal::{FORMAT, JournalError};
use voters::Voters;

pub use log::{LogBroken, LogStore, Queued};
pub use machine::{Applied, AppliedMark, Machine};

const LOCK_FILE: &str = "lock";
/// What format 1 kept the log in.
const DATABASE_FILE: &str = "raft.redb";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory, or a file in it, cannot be created, read or written.
    #[error("cannot use data directory {}", path.display())]
    Directory {
        /// The directory as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("data directory {} is in use by another process", path.display())]
    InUse {
        /// The directory as given.
        path: PathBuf,
    },
    /// The directory was made by a node of another number.
    #[error("data directory {} belongs to node {owner}, not to node {wanted}; give each node a directory of its own", path.display())]
    OtherNode {
        /// The directory as given.
        path: PathBuf,
        /// The node that it belongs to.
        owner: NodeId,
        /// The node that was to be started.
        wanted: NodeId,
    },
    /// The directory was made by another version of this program.
    #[error("data directory {} has format {found}, this program reads format {FORMAT}; remove this node from the cluster and add it anew under another id, with an empty directory", path.display())]
    OtherFormat {
        /// The directory as given.
        path: PathBuf,
        /// The format that the directory names.
        found: u64,
    },
    /// The files are not what this program wrote.
    #[error(
        "data directory {} is damaged: {reason}; replace this node: remove it from the cluster and add it anew under another id, with an empty directory",
        path.display()
    )]
    Damaged {
        /// The directory as given.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}

/// A node's opened data directory, in the two parts that openraft wants.
pub struct Store {
    /// The log and the vote.
    pub log: LogStore,
    /// The state machine and its snapshots.
    pub machine: Machine,
}

/// Opens the data directory of `node`, creating it where it is missing.
///
/// # Errors
/// See [`OpenError`]; nothing is changed in a directory that is refused.
pub fn open(path: &Path, node: NodeId) -> Result<Store, OpenError> {
    let directory = |source| OpenError::Directory {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(directory)?;
    if path.join(DATABASE_FILE).exists() {
        return Err(OpenError::OtherFormat {
            path: path.to_owned(),
            found: 1,
        });
    }
    let disk = Arc::new(Directory::new(path, lock(path)?));
    let voters = Voters::default();
    let machine = Machine::open(path, voters.clone())?;
    let log = LogStore::open(disk, node, voters).map_err(|error| match error {
        JournalError::Io(source) => directory(source),
        JournalError::OtherNode(owner) => OpenError::OtherNode {
            path: path.to_owned(),
            owner,
            wanted: node,
        },
        JournalError::OtherFormat(found) => OpenError::OtherFormat {
            path: path.to_owned(),
            found,
        },
        JournalError::Damaged(reason) => OpenError::Damaged {
            path: path.to_owned(),
            reason,
        },
    })?;
    Ok(Store { log, machine })
}

/// The lock, which the system gives back when the process ends.
fn lock(path: &Path) -> Result<File, OpenError> {
    let locked = File::create(path.join(LOCK_FILE))
        .map_err(TryLockError::Error)
        .and_then(|file| file.try_lock().map(|()| file));
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse {
            path: path.to_owned(),
        },
        TryLockError::Error(source) => OpenError::Directory {
            path: path.to_owned(),
            source,
        },
    })
}

/// Makes the directory's own entries durable: a file created or renamed in it exists after a power cut only then.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
