//! `cargo xtask run`: the lab, the tour, or `lb` on a real interface.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::step::shown;
use crate::toolchain::search_path_variable;
use crate::workspace::Workspace;
use crate::{build, setup};

#[derive(Args)]
pub struct Options {
    /// Run the tour: write, read, kill the leader, measure, check; no questions.
    #[arg(long, conflicts_with_all = ["interface", "config"])]
    tour: bool,
    /// Front the servers of --config on this interface of the host.
    #[arg(long, requires = "config", value_name = "IF")]
    interface: Option<String>,
    /// The configuration of `lb`, for --interface.
    #[arg(long, requires = "interface", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Sets up, builds, and becomes the program that was asked for.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::need_root("create network namespaces and attach XDP programs")?;
    setup::run(workspace, &setup::Options::for_running())?;
    build::everything(workspace, build::Options::default())?;
    let mut command = program(workspace, options);
    command.env("PATH", search_path_variable());
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", shown(&command))))
}

fn program(workspace: &Workspace, options: &Options) -> Command {
    if let (Some(interface), Some(config)) = (&options.interface, &options.config) {
        let mut lb = Command::new(workspace.release_binary("lb"));
        lb.args(["run", "--interface", interface])
            .arg("--config")
            .arg(config);
        return lb;
    }
    let mut lab = Command::new(workspace.release_binary("lab"));
    lab.arg(if options.tour { "tour" } else { "up" });
    lab
}
