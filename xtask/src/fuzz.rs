//! `cargo xtask fuzz`: until the time is up or something is found, random
//! packets through the host's code, guided by what they reach ([`wire`]), and
//! through the kernel program and the host's code, which must not differ.

mod wire;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::step::{run as run_command, step};
use crate::toolchain::search_path_variable;
use crate::workspace::Workspace;
use crate::{build, setup, test};

/// Which tests of `tests/it` share the time: each mode with each family.
const TESTS: &str = "equivalence::kernel_and_host_are_one";
/// How many those are.
const TESTS_COUNT: u32 = 6;

#[derive(Args)]
pub struct Options {
    /// For how long, in all.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// What to fuzz; both, half of the time each, where none is named.
    #[arg(long)]
    target: Option<Target>,
    /// Where to begin; a number that depends on the time, if not given. A seed means the same packets everywhere.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the wire fuzzer once, on a file that it left behind when it found something.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "target", "seed"])]
    replay: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The parser and the host's data path, guided by coverage. Needs no root.
    Wire,
    /// The kernel program beside the host's data path.
    Kernel,
}

impl Options {
    /// For how long `target` is fuzzed; none where it is not asked for.
    fn share(&self, target: Target) -> Option<Duration> {
        let all = Duration::from_secs(60) * self.minutes;
        match self.target {
            None => Some(all / 2),
            Some(one) => (one == target).then_some(all),
        }
    }
}

/// Builds what it needs, and fuzzes.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(file) = &options.replay {
        let file = file.canonicalize();
        return wire::replay(workspace, &file.context("cannot read what to replay")?);
    }
    let seed = options.seed.unwrap_or_else(seed_of_now);
    let kernel_share = options.share(Target::Kernel);
    if kernel_share.is_some() {
        setup::need_root("load the kernel program")?;
    }
    if let Some(share) = options.share(Target::Wire) {
        wire::fuzz(workspace, share, seed)?;
    }
    match kernel_share {
        Some(share) => kernel(workspace, share, seed),
        None => Ok(()),
    }
}

/// The tests print their seeds and counts, and fail with the seed and the packet
/// where kernel and host differ.
fn kernel(workspace: &Workspace, share: Duration, seed: u64) -> Result<()> {
    setup::run(workspace, &setup::Options::for_building())?;
    build::kernel(workspace, build::Options::default())?;
    let binary = step("building the kernel fuzzer", || compile(workspace))?;
    let seconds = (share / TESTS_COUNT).as_secs();
    let mut fuzzer = Command::new(binary);
    fuzzer
        .args([TESTS, "--test-threads=1", "--nocapture"])
        .env("PATH", search_path_variable())
        .env("LB_FUZZ_SEED", seed.to_string())
        .env("LB_FUZZ_SECONDS", seconds.to_string())
        .env_remove("LB_FUZZ_PACKETS");
    step(lasting("the kernel program", share, seed), || {
        run_command(&mut fuzzer)
    })
}

fn lasting(what: &str, share: Duration, seed: u64) -> String {
    let seconds = share.as_secs();
    format!("fuzzing {what} for {seconds} s, from seed {seed} on")
}

/// A seed that is another one each time, and leaves room for those after it.
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs()) << 32
}

/// Compiles `tests/it`, and nothing that it does not need.
fn compile(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--release", "-p", "lb-tests", "--test", "it", "--no-run"]);
    built(&mut cargo, test::executable)
}

/// The executable that `cargo` builds, as `named` in one of its messages.
fn built(cargo: &mut Command, named: fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let output = cargo
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the fuzzer does not compile");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut binaries = text.lines().filter_map(named);
    binaries.next().context("cargo built no fuzzer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared_by_what_is_asked_for() {
        let options = |target| Options {
            minutes: 10,
            target,
            seed: None,
            replay: None,
        };
        let minutes = |number: u64| Some(Duration::from_secs(60 * number));
        let both = options(None);
        assert_eq!(both.share(Target::Wire), minutes(5));
        assert_eq!(both.share(Target::Kernel), minutes(5));
        let wire = options(Some(Target::Wire));
        assert_eq!(wire.share(Target::Wire), minutes(10));
        assert_eq!(wire.share(Target::Kernel), None);
    }
}
