//! `cargo xtask chaos`: builds, and becomes the program that strikes at random
//! and checks what clients saw.

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
    /// For how long; one episode of a little more than a minute at least.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// The first episode's seed, the next one's is one more; a number that depends on the time, if not given. A seed means the same
    /// faults and requests; when they meet, the machine decides.
    #[arg(long)]
    seed: Option<u64>,
    /// Check a history that was kept, and do nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "seed"])]
    check: Option<PathBuf>,
}

/// Sets up, builds, and becomes the program that strikes.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let Options {
        minutes,
        seed,
        check,
    } = options;
    let mut command = Command::new(workspace.release_binary("chaos"));
    if let Some(file) = check {
        command.arg("--check").arg(file);
    } else {
        setup::need_root("load kernel programs and create network namespaces")?;
        command.args(["--minutes", &minutes.to_string()]);
        command.args(
            seed.iter()
                .flat_map(|seed| ["--seed".to_owned(), seed.to_string()]),
        );
        command.arg("--out").arg(workspace.chaos_directory());
    }
    setup::run(workspace, &setup::Options::for_running())?;
    build::everything(workspace, build::Options::default())?;
    command.env("PATH", search_path_variable());
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", shown(&command))))
}
