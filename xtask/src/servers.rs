//! The servers that the examples run and what the benchmarks compare with, as
//! Debian packages them: what the tests of both need. Where they cannot be
//! installed, those tests are skipped, aloud; they fail where `CI` is set.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::setup::{PEERS, STREAM_MODULE, apt, has_stream_module, is_root};
use crate::step::{run as run_command, step};
use crate::toolchain::which;

/// A program of each server, and the package that brings it; those of
/// [`PEERS`], etcd among them, come on top.
const SERVERS: [(&str, &str); 7] = [
    ("redis-server", "redis-server"),
    ("redis-sentinel", "redis-sentinel"),
    ("patroni", "patroni"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("keepalived", "keepalived"),
    ("bird", "bird2"),
];
/// Debian keeps the programs of PostgreSQL, of several versions, beside PATH:
/// in `VERSION/bin` of this.
const POSTGRESQL: &str = "/usr/lib/postgresql";
/// There where systemd is the machine's init.
const SYSTEMD: &str = "/run/systemd/system";

/// What may be done about missing servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Install them: no service starts by that, or nobody minds.
    Install,
    /// Say what to type. Debian starts a service when it is installed, and at
    /// each boot from then on: that is for the owner of the machine to decide.
    Ask,
    /// Go without.
    None,
}

/// Installs those that are missing, if it may.
///
/// # Errors
/// If apt-get fails.
pub fn install() -> Result<()> {
    let mut missing: Vec<&str> = SERVERS
        .into_iter()
        .chain(PEERS)
        .filter(|(program, _)| !is_here(program))
        .map(|(_, package)| package)
        .collect();
    if !has_stream_module(Path::new("/")) {
        missing.push(STREAM_MODULE.1);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    match leave() {
        Leave::Install => {
            step("reading the lists of Debian packages", || {
                run_command(apt().args(["update", "-qq"]))
            })?;
            let mut command = apt();
            command.args(["install", "-y", "-qq", "--no-install-recommends"]);
            command.arg("--no-remove").args(&missing);
            step(
                format!("installing the servers of the tests: {packages}"),
                || run_command(&mut command),
            )
        }
        Leave::Ask => {
            eprintln!(
                "xtask: the tests of the examples and benchmarks need servers that Debian would start as services; \
                 if you do not mind: apt-get install --no-install-recommends {packages}"
            );
            Ok(())
        }
        Leave::None => {
            eprintln!(
                "xtask: tests of the examples and benchmarks will be skipped: without root and apt-get, \
                 these packages of Debian cannot be installed: {packages}"
            );
            Ok(())
        }
    }
}

fn leave() -> Leave {
    if which("apt-get").is_none() || !is_root() {
        Leave::None
    } else if Path::new(SYSTEMD).exists() && std::env::var_os("CI").is_none() {
        Leave::Ask
    } else {
        Leave::Install
    }
}

fn is_here(program: &str) -> bool {
    which(program).is_some() || is_of_postgresql(Path::new(POSTGRESQL), program)
}

fn is_of_postgresql(root: &Path, program: &str) -> bool {
    let versions = fs::read_dir(root).into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin").join(program))
        .any(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_postgresql_are_found_in_any_version() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_of_postgresql(root.path(), "postgres"));
        assert!(!is_of_postgresql(&root.path().join("none"), "postgres"));
        let bin = root.path().join("17/bin");
        fs::create_dir_all(&bin).unwrap();
        assert!(!is_of_postgresql(root.path(), "postgres"));
        fs::write(bin.join("postgres"), "").unwrap();
        assert!(is_of_postgresql(root.path(), "postgres"));
    }
}
