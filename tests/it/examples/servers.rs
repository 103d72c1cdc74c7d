//! An example's servers on the lab's nodes, started by its own `node.sh`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use lb_tests::binaries;
use lb_tests::lab::{Lab, Process};

use crate::failover::ip;

/// How a node is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// SIGKILL to all that runs on it. Its kernel closes their connections.
    Kill,
    /// The same, but nothing that its kernel has to say about it gets out: as
    /// if somebody had pulled the plug.
    Power,
}

/// The servers of a lab. Killed when dropped.
pub struct Servers {
    script: PathBuf,
    /// That of each node's `node.sh`; `None` where the node is lost.
    running: Vec<Option<Process>>,
}

impl Servers {
    /// Starts every node.
    pub fn start(lab: &Lab, example: &str) -> Result<Self> {
        // Copied to where any user may read it: some servers do not run as
        // root, and a clone may be anywhere.
        let directory = lab.run_directory().join(example);
        copy(&directory_of(example), &directory)?;
        let mut servers = Self {
            script: directory.join("node.sh"),
            running: lab.nodes().iter().map(|_| None).collect(),
        };
        for id in 1..=servers.running.len() {
            servers.start_node(lab, id)?;
        }
        Ok(servers)
    }

    /// Starts all that runs on node `id`, on the data that it has, if any.
    pub fn start_node(&mut self, lab: &Lab, id: usize) -> Result<()> {
        let node = lab.node(id);
        ip(lab.switch(), &format!("link set n{id} up"));
        let mut command = Command::new("sh");
        command.arg(&self.script).arg(id.to_string());
        command.arg(lab.data_directory().join(format!("n{id}")));
        command.env("PATH", search_path()?);
        let log = lab.run_directory().join(format!("n{id}.log"));
        self.running[id - 1] = Some(node.spawn(command, &log)?);
        Ok(())
    }

    /// Loses node `id`, and all that runs on it.
    pub fn lose(&mut self, lab: &Lab, id: usize, loss: Loss) -> Result<()> {
        if loss == Loss::Power {
            ip(lab.switch(), &format!("link set n{id} down"));
        }
        lab.node(id).kill_all()?;
        self.running[id - 1] = None;
        Ok(())
    }

    /// The ends of all nodes' logs, for messages.
    pub fn logs(&self) -> String {
        let running = (1..).zip(&self.running);
        let logs = running.map(|(id, process)| match process {
            Some(process) => format!("n{id}'s log ends:\n{}\n", process.last_lines(20)),
            None => format!("n{id} does not run\n"),
        });
        logs.collect()
    }
}

/// Where an example is.
pub fn directory_of(example: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).join(example)
}

/// With the project's own binaries.
fn search_path() -> Result<std::ffi::OsString> {
    let ours = binaries::find("raft-node")?;
    let ours = ours.parent().context("a binary has a directory")?;
    let others = env::var_os("PATH").unwrap_or_default();
    let all = [ours.to_owned()]
        .into_iter()
        .chain(env::split_paths(&others));
    Ok(env::join_paths(all)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries = fs::read_dir(from).with_context(|| format!("no example {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
