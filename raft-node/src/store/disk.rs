//! The files of the log, numbered segments; a trait, so that a test can cut the power.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const SEGMENT_PREFIX: &str = "log-";
const UNFINISHED_FILE: &str = "log.unfinished";

/// Where segments are kept.
pub(super) trait Disk: Send + Sync + 'static {
    /// The numbers of those there are, in order.
    fn segments(&self) -> io::Result<Vec<u64>>;
    /// A segment's whole content.
    fn load(&self, segment: u64) -> io::Result<Vec<u8>>;
    /// Makes a segment that is whole and durable, or absent, whenever the power goes.
    fn create(&self, segment: u64, content: &[u8]) -> io::Result<()>;
    /// Not durable before [`Disk::sync`].
    fn write(&self, segment: u64, offset: u64, content: &[u8]) -> io::Result<()>;
    /// Makes durable what was written.
    fn sync(&self, segment: u64) -> io::Result<()>;
    /// A part of a segment, which it has.
    fn read(&self, segment: u64, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Forgets, durably, what is behind `length`.
    fn cut(&self, segment: u64, length: u64) -> io::Result<()>;
    /// Forgets a segment; after a power cut it may be there again.
    fn remove(&self, segment: u64) -> io::Result<()>;
}

/// The data directory.
pub(super) struct Directory {
    path: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Directory {
    /// The directory at `path`, which `lock` protects.
    pub(super) fn new(path: &Path, lock: File) -> Self {
        Self {
            path: path.to_owned(),
            open: Mutex::default(),
            _lock: lock,
        }
    }

    fn path_of(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{SEGMENT_PREFIX}{segment:010}"))
    }

    fn file(&self, segment: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let path = self.path_of(segment);
        let file = Arc::new(File::options().read(true).write(true).open(path)?);
        open.insert(segment, Arc::clone(&file));
        Ok(file)
    }
}

impl Disk for Directory {
    fn segments(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(SEGMENT_PREFIX));
            segments.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn load(&self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path_of(segment))
    }

    fn create(&self, segment: u64, content: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(UNFINISHED_FILE);
        let mut file = File::create(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path_of(segment))?;
        super::sync_directory(&self.path)
    }

    fn write(&self, segment: u64, offset: u64, content: &[u8]) -> io::Result<()> {
        self.file(segment)?.write_all_at(content, offset)
    }

    fn sync(&self, segment: u64) -> io::Result<()> {
        self.file(segment)?.sync_data()
    }

    fn read(&self, segment: u64, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; length];
        self.file(segment)?.read_exact_at(&mut content, offset)?;
        Ok(content)
    }

    fn cut(&self, segment: u64, length: u64) -> io::Result<()> {
        let file = self.file(segment)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn remove(&self, segment: u64) -> io::Result<()> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&segment);
        fs::remove_file(self.path_of(segment))
    }
}
