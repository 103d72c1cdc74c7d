//! `lb` in a lab's balancer namespace: its configuration, its process, and
//! what it says over its socket.

pub mod build;
mod configuration;
mod report;
pub mod succession;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

pub use self::configuration::{Configuration, Entry, Hook, POOL, READ_SERVICE, WRITE_SERVICE};
pub use self::report::{
    Flow, Flows, Pool, Server, Service, ServiceCount, Stats, Status, Target, TargetCount,
    VerdictCount,
};
use crate::binaries;
use crate::lab::{Lab, Namespace, Process};
use crate::patience::wait_for;
use crate::traffic::sampling::Sampler;

/// How long `lb` may take to leave on SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running, or killed, `lb`. Killed when dropped; its maps and its link stay
/// pinned in the lab's bpffs until the lab is gone.
#[derive(Debug)]
pub struct Balancer {
    namespace: Namespace,
    configuration: PathBuf,
    bpffs: PathBuf,
    run: PathBuf,
    log: PathBuf,
    log_filter: Option<&'static str>,
    program: Option<PathBuf>,
    process: Option<Process>,
}

impl Balancer {
    /// Writes the configuration and starts `lb`. Does not wait.
    pub fn start(lab: &Lab, configuration: &Configuration) -> Result<Self> {
        let mut balancer = Self::with_configuration(lab, &configuration.to_toml())?;
        balancer.start_again()?;
        Ok(balancer)
    }

    /// One that does not run yet; `toml` becomes its `lb.toml` as it is.
    pub fn with_configuration(lab: &Lab, toml: &str) -> Result<Self> {
        let run = lab.run_directory().to_owned();
        let bpffs = lab.bpffs().to_owned();
        Self::in_directories(lab.balancer(), run, bpffs, toml)
    }

    /// As [`with_configuration`](Self::with_configuration), on another host of
    /// the lab; `name` sets its files and its pins apart from those of others.
    pub fn on_host(lab: &Lab, host: &Namespace, name: &str, toml: &str) -> Result<Self> {
        let (run, bpffs) = (lab.run_directory().join(name), lab.bpffs().join(name));
        for directory in [&run, &bpffs] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Self::in_directories(host, run, bpffs, toml)
    }

    /// One for each of the lab's balancers, all with the same `toml`; none runs
    /// yet.
    pub fn on_each(lab: &Lab, toml: &str) -> Result<Vec<Self>> {
        let hosts = lab.balancers().iter();
        hosts
            .map(|host| Self::on_host(lab, host, host.name(), toml))
            .collect()
    }

    fn in_directories(
        namespace: &Namespace,
        run: PathBuf,
        bpffs: PathBuf,
        toml: &str,
    ) -> Result<Self> {
        let configuration = run.join("lb.toml");
        fs::write(&configuration, toml)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        Ok(Self {
            namespace: namespace.clone(),
            configuration,
            log: run.join("lb.log"),
            bpffs,
            run,
            log_filter: None,
            program: None,
            process: None,
        })
    }

    /// The command that starts `lb` on this lab: also for a second one that is
    /// to be refused.
    pub fn command(&self) -> Result<Command> {
        let mut command = match &self.program {
            Some(program) => Command::new(program),
            None => Command::new(binaries::find("lb")?),
        };
        command.arg("run");
        command.arg("--config").arg(&self.configuration);
        command.arg("--bpffs").arg(&self.bpffs);
        command.arg("--run-dir").arg(&self.run);
        if let Some(filter) = self.log_filter {
            command.env("RUST_LOG", filter);
        }
        Ok(command)
    }

    /// What it logs from its next start on, as RUST_LOG has it.
    pub fn set_log_filter(&mut self, filter: &'static str) {
        self.log_filter = Some(filter);
    }

    /// The program that is started from now on, instead of the project's own.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = Some(program);
    }

    /// Starts `lb` where it does not run: with the maps and the link that the
    /// one before it left, if it left any.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "lb runs already");
        self.process = Some(self.namespace.spawn(self.command()?, &self.log)?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and waits until it has left.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let status = self.running()?.terminate(PATIENCE)?;
        self.process = None;
        Ok(status)
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// Its exit status, if it ended by itself.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.exit_status()
    }

    /// As [`exit_status`](Self::exit_status), once: then it can be started
    /// again.
    pub fn take_dead(&mut self) -> Option<ExitStatus> {
        let status = self.exit_status()?;
        self.process = None;
        Some(status)
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its admin socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("lb.sock")
    }

    /// The file of its configuration.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// The file of what it prints.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that it printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of that, for messages.
    pub fn last_lines(&self, count: usize) -> String {
        let log = self.output();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// `lb status --json`.
    pub fn status(&self) -> Result<Status> {
        self.ask("status")
    }

    /// `lb stats --json`.
    pub fn stats(&self) -> Result<Stats> {
        self.ask("stats")
    }

    /// `lb flows --json`.
    pub fn flows(&self) -> Result<Flows> {
        self.ask("flows")
    }

    /// `lb reload`: what it prints, or what is wrong.
    pub fn reload(&self) -> Result<String> {
        self.lb(&["reload"])
    }

    /// What a command prints; its standard error where it fails.
    pub fn lb(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binaries::find("lb")?);
        command.args(arguments).arg("--socket").arg(self.socket());
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The directory of its pins.
    pub fn pins(&self) -> Result<PathBuf> {
        let mut found = fs::read_dir(self.bpffs.join("lb"))?.flatten();
        Ok(found.next().context("lb has pinned nothing")?.path())
    }

    /// Writes another configuration; nobody reads it yet.
    pub fn write(&self, configuration: &Configuration) -> Result<()> {
        fs::write(&self.configuration, configuration.to_toml())?;
        Ok(())
    }

    /// What a verb of the command line prints with `--json`.
    pub fn ask<T: DeserializeOwned>(&self, verb: &str) -> Result<T> {
        ask(&self.socket(), verb)
    }

    /// Looks at `lb status` again and again, also while `lb` is gone.
    pub fn watch_status(&self, pause: Duration) -> Sampler<Result<Status>> {
        let socket = self.socket();
        Sampler::start(&self.namespace, pause, move || ask(&socket, "status"))
    }

    /// Waits until `holds` is true of what `lb status` says.
    pub fn wait_for_status(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = Err(anyhow::anyhow!("never asked"));
        let found = wait_for(patience, || {
            if let Some(status) = self.exit_status() {
                return Some(Err(anyhow::anyhow!("lb ended ({status})")));
            }
            last = self.status();
            match &last {
                Ok(status) if holds(status) => Some(Ok(status.clone())),
                _ => None,
            }
        });
        let complaint = match found {
            Some(Ok(status)) => return Ok(status),
            Some(Err(ended)) => ended,
            None => anyhow::anyhow!("waited {patience:?}; lb status: {last:?}"),
        };
        let end = self.last_lines(20);
        Err(complaint.context(format!("{what}: in vain; its log ends:\n{end}\n")))
    }

    /// Waits until both services have a target.
    pub fn wait_until_serving(&mut self, patience: Duration) -> Result<Status> {
        self.wait_for_status("waiting for both services", patience, |status| {
            [WRITE_SERVICE, READ_SERVICE]
                .iter()
                .all(|name| !status.targets(name).is_empty())
        })
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("lb does not run")
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, verb: &str) -> Result<T> {
    let output = Command::new(binaries::find("lb")?)
        .args([verb, "--json", "--socket"])
        .arg(socket)
        .output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`lb {verb}` failed: {}", stderr.trim());
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`lb {verb} --json` printed something else"))
}
