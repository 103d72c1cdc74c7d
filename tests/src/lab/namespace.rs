//! One network namespace under `/run/netns`, as `ip netns add` makes them, so
//! that `ip netns exec` and `nsenter` find it.
//!
//! Only the network is unshared. Threads and processes that enter keep our
//! mounts, and so see the lab's bpffs (`ip netns exec` would hide it).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::process::{self, Process};
use crate::patience::insist;

/// Where named network namespaces are, by iproute2's convention.
pub const DIRECTORY: &str = "/run/netns";

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A handle to a namespace of a lab. The lab owns the namespace itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    /// The lab, by which the processes in here are known.
    lab: String,
}

impl Namespace {
    /// Makes the namespace, with its loopback up.
    pub(super) fn create(name: String, lab: &str) -> Result<Self> {
        let namespace = Self {
            name,
            lab: lab.to_owned(),
        };
        let path = namespace.path();
        make_file(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let bound = thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<()> {
                    // SAFETY: NEWNET takes no file descriptor away from
                    // anybody (only FILES would), and this thread, which
                    // alone it moves, ends here.
                    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
                    Ok(mount_bind("/proc/thread-self/ns/net", &path)?)
                })
                .join()
        });
        joined(bound)
            .with_context(|| format!("cannot make the network namespace {}", namespace.name))?;
        super::ip::ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file under `/run/netns`.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that
    /// it opens stay in the namespace wherever they are used.
    ///
    /// # Panics
    /// If `work` does, or if the namespace is gone: its lab was dropped.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join();
                work()
            });
            joined(thread.join())
        })
    }

    /// As [`enter`](Self::enter), but does not wait for `work` to end.
    pub fn background<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.join();
            work()
        })
    }

    /// Starts a process inside the namespace; its output goes to `log`.
    pub fn spawn(&self, command: Command, log: &Path) -> Result<Process> {
        // A child is born into the namespace of the thread that forks it.
        self.enter(|| Process::spawn(command, &self.lab, log))
            .with_context(|| format!("in the namespace {}", self.name))
    }

    /// Sets `/proc/sys/net/KEY` of this namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(format!("/proc/sys/net/{key}"), value))
            .with_context(|| format!("cannot set net/{key} in {}", self.name))
    }

    /// SIGKILL to every process in here, whoever started it and whatever it
    /// made of its environment; returns when none is left.
    pub fn kill_all(&self) -> Result<()> {
        let inside = [identity(self.path())?];
        let gone = insist(KILL_PATIENCE, || {
            let mut found = false;
            for pid in process::all() {
                found |= process::kill_if(pid, || is_inside(pid, &inside));
            }
            (!found).then_some(())
        });
        gone.with_context(|| format!("processes in {} do not die", self.name))
    }

    /// Moves the calling thread in, for good.
    fn join(&self) {
        let entered = File::open(self.path()).and_then(|file| {
            let network = Some(LinkNameSpaceType::Network);
            Ok(move_into_link_name_space(file.as_fd(), network)?)
        });
        entered.unwrap_or_else(|error| panic!("cannot enter {}: {error}", self.name));
    }
}

/// What tells one namespace from another: the device and inode of its file.
pub(super) type Identity = (u64, u64);

/// That of the namespace with this name, if there is one.
pub(super) fn identity_of(name: &str) -> Option<Identity> {
    identity(path_of(name)).ok()
}

/// Whether a process is in one of these. One that has ended is in none.
pub(super) fn is_inside(pid: Pid, namespaces: &[Identity]) -> bool {
    let network = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    identity(network).is_ok_and(|network| namespaces.contains(&network))
}

fn identity(path: impl AsRef<Path>) -> io::Result<Identity> {
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// What a thread has to say; its panic becomes the caller's.
pub(crate) fn joined<T>(outcome: thread::Result<T>) -> T {
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Removes the name `name`; whoever is still inside keeps the namespace alive.
/// One that does not exist is fine.
pub(super) fn remove(name: &str) -> Result<()> {
    let path = path_of(name);
    if !path.exists() {
        return Ok(());
    }
    // Not mounted: its maker died between the file and the mount.
    let _ = unmount(&path, UnmountFlags::DETACH);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    // Leave no empty directory, but never mind who else uses it.
    let _ = fs::remove_dir(DIRECTORY);
    Ok(())
}

/// Makes the file that the namespace is mounted on, and the directory for it.
fn make_file(path: &Path) -> io::Result<()> {
    loop {
        fs::create_dir_all(DIRECTORY)?;
        match File::create_new(path) {
            // Another lab went in between, and left no empty directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made.map(drop),
        }
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
