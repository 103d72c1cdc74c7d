//! `lb check`: is this configuration valid?

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use crate::config::Config;

/// The arguments of `lb check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration to check
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        default_value = "/etc/lb/lb.toml"
    )]
    config: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { config: path } = arguments;
    let config = Config::load(path)?;
    let servers = config.pools.values().map(|pool| pool.servers.len()).sum();
    writeln!(
        out,
        "{}: valid: {}, {}, {}",
        path.display(),
        count(config.services.len(), "service"),
        count(config.pools.len(), "pool"),
        count(servers, "server"),
    )?;
    Ok(out.flush()?)
}

pub(super) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
