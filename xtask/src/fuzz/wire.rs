//! The coverage-guided fuzzer: built with stable Rust and any C++ compiler,
//! with the flags that cargo-fuzz passes to a nightly, but for the sanitizer's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{built, lasting};
use crate::setup;
use crate::step::{output_of, run as run_command, step};
use crate::workspace::Workspace;

/// A counter on every edge and a look at every comparison, for libFuzzer; and
/// the checks that a release leaves out.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// The longest input in bytes: as long as what the kernel fuzzer sends.
const INPUT_MAX: usize = 3523;

/// Fuzzes for as long as `share` says. What was reached before is where it
/// begins, and the rows.
pub fn fuzz(workspace: &Workspace, share: Duration, seed: u64) -> Result<()> {
    let binary = build(workspace)?;
    let directory = workspace.fuzz_directory();
    let [corpus, found] = ["corpus", "found"].map(|name| directory.join(name));
    for directory in [&corpus, &found] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let seeds = directory.join("seeds");
    let prefix = found.join(format!("{seed}-"));
    // libFuzzer takes 32 bits, and 0 for one of its own.
    let short_seed = (seed ^ (seed >> 32)) as u32 | 1;
    let mut fuzzer = Command::new(binary);
    fuzzer
        .arg(format!("-max_total_time={}", share.as_secs()))
        .arg(format!("-max_len={INPUT_MAX}"))
        .arg(format!("-seed={short_seed}"))
        .arg(format!("-artifact_prefix={}", prefix.display()))
        .args(["-timeout=10", "-print_final_stats=1"])
        .args([&corpus, &seeds])
        .env("LB_FUZZ_SEEDS", &seeds);
    let what = lasting("the wire format", share, seed);
    let Err(error) = step(what, || run_command(&mut fuzzer)) else {
        return Ok(());
    };
    match found_at(&found, &format!("{seed}-")) {
        Some(file) => Err(error.context(format!(
            "found something; to see it again: cargo xtask fuzz --replay {}",
            file.display()
        ))),
        None => Err(error),
    }
}

/// Runs the fuzzer on one input.
pub fn replay(workspace: &Workspace, file: &Path) -> Result<()> {
    let binary = build(workspace)?;
    let what = format!("replaying {}", file.display());
    step(what, || run_command(Command::new(binary).arg(file)))
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    setup::run(workspace, &setup::Options::for_fuzzing())?;
    let host = host_triple().context("rustc does not say what it compiles for")?;
    let mut cargo = workspace.cargo("build");
    cargo
        .args(["--release", "-p", "lb-tests", "--features", "fuzz"])
        // Named, so that build scripts and macros are not instrumented.
        .args(["--bin", "wire-fuzzer", "--target", &host])
        .arg("--target-dir")
        .arg(workspace.fuzz_directory().join("build"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    step("building the wire fuzzer", || built(&mut cargo, executable))
}

/// The executable that one line of cargo's messages names.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    Some(message["executable"].as_str()?.into())
}

fn host_triple() -> Option<String> {
    let printed = output_of(Command::new("rustc").arg("-vV"))?;
    let host = printed.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
}

/// What libFuzzer left in `directory` under a name that begins with `prefix`.
fn found_at(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_from_what_an_earlier_run_found() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["12-crash-abc", "1-crash-def"] {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        let found = found_at(directory.path(), "1-").unwrap();
        assert!(found.ends_with("1-crash-def"));
        assert_eq!(found_at(directory.path(), "3-"), None);
    }

    #[test]
    fn the_binary_is_told_from_libraries() {
        let line = r#"{"reason":"compiler-artifact","executable":"/t/wire-fuzzer"}"#;
        assert_eq!(executable(line), Some("/t/wire-fuzzer".into()));
        let library = r#"{"reason":"compiler-artifact","executable":null}"#;
        assert_eq!(executable(library), None);
    }
}
