//! `lb run`: the agent, in the foreground.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::{Failure, RUN_DIR};
use crate::config::value::interface_name;
use crate::shell::run::{RunOptions, run};

/// The arguments of `lb run`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        default_value = "/etc/lb/lb.toml"
    )]
    config: PathBuf,
    /// The NIC to attach to, instead of the configuration's; several: give it
    /// several times
    #[arg(long, value_name = "NAME", value_parser = interface)]
    interface: Vec<String>,
    /// Where BPF maps and links are pinned: a mounted bpffs
    #[arg(long, value_name = "DIRECTORY", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Where the admin socket is created
    #[arg(long, value_name = "DIRECTORY", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// How log lines look; RUST_LOG chooses which there are
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn interface(text: &str) -> Result<String, String> {
    interface_name(text).map(str::to_owned)
}

pub(super) fn execute(arguments: Arguments) -> Result<(), Failure> {
    let options = RunOptions {
        bpffs: arguments.bpffs,
        run_dir: arguments.run_dir,
        config_path: arguments.config,
        interfaces: arguments.interface,
    };
    let config = options.load()?;
    if config.interfaces.is_empty() {
        let config = options.config_path;
        return Err(Failure::NoInterface { config });
    }
    start_log(arguments.log_format);
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
    Ok(runtime.block_on(run(config, options))?)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
