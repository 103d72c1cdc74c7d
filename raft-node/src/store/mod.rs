//! What a node keeps on disk: the log and the vote in one redb file, the newest snapshot in a file of its own.
//!
//! The state machine lives in memory and is rebuilt from the snapshot and the log. The directory belongs to one node id and, while a
//! node runs, to one process (redb locks its file).

mod log;
mod machine;
mod snapshot;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableDefinition};
use thiserror::Error;

use crate::cluster::NodeId;

pub use log::LogStore;
pub use machine::{Applied, AppliedMark, Machine};

const DATABASE_FILE: &str = "raft.redb";
/// Raised when the meaning of what is stored changes.
const FORMAT: u64 = 1;

/// Log index → JSON of the entry.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Single values: see the `meta` names below.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The keys of [`META`]; values are JSON.
mod meta {
    pub const FORMAT: &str = "format";
    pub const NODE: &str = "node";
    pub const VOTE: &str = "vote";
    pub const COMMITTED: &str = "committed";
    pub const PURGED: &str = "purged";
}

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
    #[error("data directory {} has format {found}, this program reads format {FORMAT}", path.display())]
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
    let database = open_database(path)?;
    claim(&database, path, node)?;
    sync_directory(path).map_err(directory)?;
    let machine = Machine::open(path)?;
    let log = LogStore::open(database).map_err(|reason| OpenError::Damaged {
        path: path.to_owned(),
        reason,
    })?;
    Ok(Store { log, machine })
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    let file = path.join(DATABASE_FILE);
    // redb reports most damage as an error and some as a panic; both mean the same to the operator.
    let opened = std::panic::catch_unwind(|| Database::create(&file));
    let damaged = |reason| OpenError::Damaged {
        path: path.to_owned(),
        reason,
    };
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            Err(OpenError::Directory {
                path: path.to_owned(),
                source,
            })
        }
        Ok(Err(error)) => Err(damaged(format!("{DATABASE_FILE}: {error}"))),
        Err(_panic) => Err(damaged(format!("{DATABASE_FILE} is not readable"))),
    }
}

/// Writes the node's number into a new directory, or checks it in an old one.
fn claim(database: &Database, path: &Path, node: NodeId) -> Result<(), OpenError> {
    let damaged = |reason: String| OpenError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let owner = read_meta::<NodeId>(database, meta::NODE).map_err(damaged)?;
    let format = read_meta::<u64>(database, meta::FORMAT).map_err(damaged)?;
    match (format, owner) {
        (None, None) => write_claim(database, node).map_err(|error| damaged(error.to_string())),
        (Some(FORMAT), Some(owner)) if owner == node => Ok(()),
        (Some(FORMAT), Some(owner)) => Err(OpenError::OtherNode {
            path: path.to_owned(),
            owner,
            wanted: node,
        }),
        (Some(FORMAT), None) | (None, Some(_)) => {
            Err(damaged(format!("{DATABASE_FILE} does not say whose it is")))
        }
        (Some(found), _) => Err(OpenError::OtherFormat {
            path: path.to_owned(),
            found,
        }),
    }
}

fn write_claim(database: &Database, node: NodeId) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(META)?;
        table.insert(meta::FORMAT, FORMAT.to_string().as_bytes())?;
        table.insert(meta::NODE, node.to_string().as_bytes())?;
        transaction.open_table(LOG)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads one value of [`META`]; `None` where it was never written.
fn read_meta<T: serde::de::DeserializeOwned>(
    database: &Database,
    name: &str,
) -> Result<Option<T>, String> {
    let transaction = database.begin_read().map_err(|error| error.to_string())?;
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let Some(value) = table.get(name).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(value.value())
        .map_err(|error| format!("{name} is not readable: {error}"))?;
    Ok(Some(value))
}

/// Makes the directory's own entries durable: a file created or renamed in it exists after a power cut only then.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
