//! The newest snapshot, in a file that is either whole or absent: written beside, fsynced, renamed into place, the directory fsynced.
//!
//! ```text
//! raft-node snapshot 1\n
//! CRC-32 of all that follows, eight hexadecimal digits\n
//! what it covers, JSON\n
//! the state machine, JSON
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;

use crate::cluster::SnapshotMeta;

const FILE: &str = "snapshot";
const UNFINISHED_FILE: &str = "snapshot.unfinished";
const MAGIC: &[u8] = b"raft-node snapshot 1\n";
/// Of the line that holds it.
const CHECKSUM_LENGTH: usize = 9;

/// A snapshot as it lies on disk and travels between nodes.
#[derive(Debug, Clone)]
pub(super) struct StoredSnapshot {
    pub meta: SnapshotMeta,
    /// The state machine, JSON.
    pub data: Bytes,
}

/// Why a snapshot file cannot be used.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{FILE}: {reason}")]
    Damaged { reason: String },
}

/// Makes `snapshot` the one that [`load`] returns, also after a power cut at any moment of this call.
pub(super) fn save(directory: &Path, snapshot: &StoredSnapshot) -> io::Result<()> {
    let StoredSnapshot { meta, data } = snapshot;
    let mut meta = serde_json::to_vec(meta)?;
    meta.push(b'\n');
    let unfinished = directory.join(UNFINISHED_FILE);
    let mut file = File::create(&unfinished)?;
    file.write_all(MAGIC)?;
    file.write_all(checksum(&[&meta, data]).as_bytes())?;
    file.write_all(&meta)?;
    file.write_all(data)?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join(FILE))?;
    super::sync_directory(directory)
}

/// The snapshot of this directory, if it has one; what a crash left unfinished is ignored.
pub(super) fn load(directory: &Path) -> Result<Option<StoredSnapshot>, LoadError> {
    let path = directory.join(FILE);
    let file = match fs::read(&path) {
        Ok(file) => Bytes::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Read { path, source }),
    };
    let damaged = |reason: &str| LoadError::Damaged {
        reason: reason.to_owned(),
    };
    let rest = file
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("unknown format"))?;
    let (expected, covered) = rest
        .split_at_checked(CHECKSUM_LENGTH)
        .ok_or_else(|| damaged("cut off"))?;
    if checksum(&[covered]).as_bytes() != expected {
        return Err(damaged("checksum mismatch"));
    }
    let meta_length = covered
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(covered.len());
    let meta = serde_json::from_slice(&covered[..meta_length])
        .map_err(|error| damaged(&error.to_string()))?;
    let data_start = (MAGIC.len() + CHECKSUM_LENGTH + meta_length + 1).min(file.len());
    Ok(Some(StoredSnapshot {
        meta,
        data: file.slice(data_start..),
    }))
}

/// The checksum's line.
fn checksum(parts: &[&[u8]]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    format!("{:08x}\n", hasher.finalize())
}
