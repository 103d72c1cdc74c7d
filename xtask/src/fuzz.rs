//! `cargo xtask fuzz`: random packets through the kernel program and through
//! the host's code, until the time is up or they differ.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::step::{run as run_command, step};
use crate::toolchain::search_path_variable;
use crate::workspace::Workspace;
use crate::{build, setup, test};

/// Which tests of `tests/it` share the time: each mode with each family.
const TESTS: &str = "equivalence::kernel_and_host_are_one";
/// How many those are.
const TESTS_COUNT: u32 = 4;

#[derive(Args)]
pub struct Options {
    /// For how long, in all.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Where to begin; a number that depends on the time, if not given. A seed means the same packets everywhere.
    #[arg(long)]
    seed: Option<u64>,
}

impl Options {
    /// How long each of the tests may take.
    fn share(&self) -> Duration {
        Duration::from_secs(60) * self.minutes / TESTS_COUNT
    }
}

/// Builds what it needs, and fuzzes. The tests print their seeds and counts,
/// and fail with the seed and the packet where kernel and host differ.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::need_root("load the kernel program")?;
    setup::run(workspace, &setup::Options::for_building())?;
    build::kernel(workspace, build::Options::default())?;
    let binary = step("building the fuzzer", || compile(workspace))?;
    let seed = options.seed.unwrap_or_else(seed_of_now);
    let mut fuzzer = Command::new(binary);
    fuzzer
        .args([TESTS, "--test-threads=1", "--nocapture"])
        .env("PATH", search_path_variable())
        .env("LB_FUZZ_SEED", seed.to_string())
        .env("LB_FUZZ_SECONDS", options.share().as_secs().to_string())
        .env_remove("LB_FUZZ_PACKETS");
    let minutes = options.minutes;
    let what = format!("fuzzing for {minutes} min, from seed {seed} on");
    step(what, || run_command(&mut fuzzer))
}

/// A seed that is another one each time, and leaves room for those after it.
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs()) << 32
}

/// Compiles `tests/it`, and nothing that it does not need.
fn compile(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--release", "-p", "lb-tests", "--test", "it", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the fuzzer does not compile");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut binaries = text.lines().filter_map(test::executable);
    binaries.next().context("cargo built no test binary")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared_by_all_tests() {
        let options = Options {
            minutes: 10,
            seed: None,
        };
        assert_eq!(options.share() * TESTS_COUNT, Duration::from_secs(600));
    }
}
