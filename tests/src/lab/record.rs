//! What a lab owns, on disk, so that whoever starts next can clean up after
//! an owner that was killed.
//!
//! The record is written before the first thing it names is made. Its owner
//! holds a lock on it: the kernel lets go of the lock when the owner dies, so
//! that a record that can be locked is a dead lab's. All of this happens
//! under a lock on the directory, one process at a time.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::{ip, namespace, process};
use crate::patience::insist;

/// Where the records and the run directories of all labs are.
pub const DIRECTORY: &str = "/run/lb-lab";

/// Everything that a lab leaves on the machine unless it is torn down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The lab's name; its processes carry it in `LB_LAB`.
    pub lab: String,
    /// Its owner, for messages only: the lock decides who is alive.
    pub owner: u32,
    /// Names under `/run/netns`.
    pub namespaces: Vec<String>,
    /// The link in root's own namespace.
    pub root_link: Option<String>,
    /// Where a bpffs is mounted.
    pub bpffs: PathBuf,
    /// Removed with all that is in them, after the unmount.
    pub directories: Vec<PathBuf>,
}

/// A record that this process has written and holds the lock of.
#[derive(Debug)]
pub(super) struct Claim {
    record: Record,
    #[expect(dead_code, reason = "held for its lock")]
    locked: File,
}

impl Claim {
    /// Cleans up what dead labs left, then claims everything that `record`
    /// names.
    ///
    /// # Errors
    /// If a living lab has this name, or if something that `record` names
    /// exists and no lab's record accounts for it.
    pub fn new(record: Record) -> Result<Self> {
        let _directory = lock_directory()?;
        sweep()?;
        let path = path_of(&record.lab);
        if let Ok(text) = fs::read(&path) {
            let owner = serde_json::from_slice::<Record>(&text).map(|record| record.owner);
            bail!(
                "the lab `{}` is running already (pid {}); end that one first",
                record.lab,
                owner.unwrap_or_default()
            );
        }
        for name in &record.namespaces {
            if Path::new(namespace::DIRECTORY).join(name).exists() {
                bail!("there is a network namespace `{name}` that is no lab's; remove it first");
            }
        }
        if let Some(link) = &record.root_link
            && link_exists(link)
        {
            bail!("there is a network link `{link}` that is no lab's; remove it first");
        }
        // Locked and complete before it has its name: nobody ever sees less.
        let new = path.with_extension("new");
        let locked =
            File::create(&new).with_context(|| format!("cannot make {}", new.display()))?;
        locked.lock()?;
        serde_json::to_writer(&locked, &record)?;
        fs::rename(&new, &path)?;
        Ok(Self { record, locked })
    }

    /// Removes everything that the record names, then the record.
    pub fn release(&self) -> Result<()> {
        let _directory = lock_directory()?;
        let outcome = tear_down(&self.record);
        leave_directory();
        outcome
    }
}

/// Cleans up what dead owners left.
pub fn clean_up() -> Result<()> {
    let _directory = lock_directory()?;
    let outcome = sweep();
    leave_directory();
    outcome
}

/// Tears down every lab whose owner is dead.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(DIRECTORY)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => {}
            // Its writer died before it was complete, and so before anything
            // that it names was made.
            Some("new") => {
                fs::remove_file(&path)?;
                continue;
            }
            _ => continue,
        }
        let file = File::open(&path)?;
        let record: Record = serde_json::from_reader(&file)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if !is_abandoned(&file, record.owner)? {
            continue;
        }
        tear_down(&record)
            .with_context(|| format!("cannot clean up after the dead lab `{}`", record.lab))?;
    }
    Ok(())
}

/// Whether nobody holds the lock of a record. Where its owner was killed while
/// it started a process, that one holds it, too, until it becomes a program.
fn is_abandoned(record: &File, owner: u32) -> Result<bool> {
    let tried = insist(Duration::from_secs(2), || match record.try_lock() {
        Ok(()) => Some(Ok(true)),
        Err(TryLockError::WouldBlock) => {
            let lives = Path::new("/proc").join(owner.to_string()).exists();
            lives.then_some(Ok(false))
        }
        Err(TryLockError::Error(error)) => Some(Err(error)),
    });
    Ok(tried.transpose()?.unwrap_or(false))
}

/// Removes all that `record` names; what is gone already is fine. Each step is
/// tried, whatever becomes of the others; the record goes last, and stays
/// where one of them failed.
fn tear_down(record: &Record) -> Result<()> {
    let Record {
        lab,
        owner: _,
        namespaces,
        root_link,
        bpffs,
        directories,
    } = record;
    let mut outcome = kill_processes(record);
    if let Some(link) = root_link
        && link_exists(link)
    {
        outcome = outcome.and(ip::ip(&["link", "del", link]));
    }
    for name in namespaces {
        outcome = outcome.and(namespace::remove(name));
    }
    // Not mounted is fine; anything else makes the removal below fail.
    let _ = unmount(bpffs, UnmountFlags::DETACH);
    for directory in directories {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("cannot remove {}", directory.display());
                outcome = outcome.and(Err(anyhow::Error::new(error).context(what)));
            }
            _ => {}
        }
    }
    outcome?;
    fs::remove_file(path_of(lab)).context("cannot remove the lab's record")
}

/// Leaves no empty directory. Other labs may be in it: then it stays.
fn leave_directory() {
    let _ = fs::remove_dir(DIRECTORY);
}

/// Kills every process of the lab, and waits until they are gone: until then
/// they keep its namespaces alive. They carry its name; and whatever is in its
/// namespaces is one, since some servers wipe their environment.
fn kill_processes(record: &Record) -> Result<()> {
    let names = record.namespaces.iter();
    // But where a user looks on, who may have a shell in there.
    let names = names.filter(|_| record.root_link.is_none());
    let namespaces: Vec<_> = names
        .filter_map(|name| namespace::identity_of(name))
        .collect();
    let lab = &record.lab;
    let gone = insist(Duration::from_secs(5), || {
        let mut found = false;
        for pid in process::all() {
            found |= process::kill_if(pid, || {
                process::is_marked(pid, lab) || namespace::is_inside(pid, &namespaces)
            });
        }
        (!found).then_some(())
    });
    if gone.is_none() {
        bail!("processes of the lab `{lab}` do not die");
    }
    Ok(())
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn path_of(lab: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{lab}.json"))
}

/// Makes the directory and locks it until the file is dropped.
fn lock_directory() -> Result<File> {
    loop {
        fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
        let Ok(directory) = File::open(DIRECTORY) else {
            continue;
        };
        directory.lock()?;
        // The one that we waited for may have removed it at its end.
        let ours = directory.metadata()?;
        if fs::metadata(DIRECTORY).is_ok_and(|now| now.ino() == ours.ino()) {
            return Ok(directory);
        }
    }
}
