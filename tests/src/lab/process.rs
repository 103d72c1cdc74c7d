//! A child process that ends with its owner.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::patience::insist;

/// Names the lab in the environment of its processes, so that whoever cleans
/// up after a dead owner kills these and no others.
pub const LAB_VARIABLE: &str = "LB_LAB";

/// A running child, and the file that its output goes to. Killed and reaped
/// when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in the calling thread's namespaces; its output is
    /// added to `log`.
    pub(super) fn spawn(mut command: Command, lab: &str, log: &Path) -> Result<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .env(LAB_VARIABLE, lab)
            // Ctrl-C is for the owner, who lets its children leave in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that it, and processes before it on the same log, printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, if it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal; to a process that has ended, nothing.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exit_status().is_some() {
            return Ok(());
        }
        // Not reaped before `exit_status` says so: the id is still its own.
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id that is none")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills it (SIGKILL) and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// If it has not ended after `patience`; it then runs on.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match insist(patience, || self.exit_status()) {
            Some(status) => Ok(status),
            None => bail!(
                "{} (pid {}) ignored SIGTERM for {patience:?}; its log ends:\n{}",
                self.name,
                self.pid(),
                self.last_lines(20)
            ),
        }
    }

    /// The end of its log, for error messages.
    pub fn last_lines(&self, count: usize) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; all that matters is that it is gone.
        let _ = self.kill();
    }
}

/// All processes of the machine but this one.
pub(super) fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &i32| u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Kills `pid` if `is_ours`; whether it was.
pub(super) fn kill_if(pid: Pid, is_ours: impl FnOnce() -> bool) -> bool {
    // Opened first, so that the one we look at is the one we kill.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let ours = is_ours();
    if ours {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    ours
}

/// Whether the lab's name stands in its environment. What cannot be read is
/// none of its: a process that has ended, or that is only waiting to be reaped.
pub(super) fn is_marked(pid: Pid, lab: &str) -> bool {
    let mark = format!("{LAB_VARIABLE}={lab}");
    fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).is_ok_and(|environment| {
        environment
            .split(|&byte| byte == 0)
            .any(|variable| variable == mark.as_bytes())
    })
}
