//! `cargo xtask test`: every test of the workspace, and one summary.
//!
//! Cargo compiles the test binaries, we run them: the privileged ones one
//! test at a time (they share the machine's two or more cores, and measure),
//! the others as they like.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::step::{run as run_command, step};
use crate::toolchain::search_path_variable;
use crate::workspace::Workspace;
use crate::{build, servers, setup};

/// The test binary that needs root, namespaces and quiet.
const PRIVILEGED: &str = "tests/it";

#[derive(Args)]
pub struct Options {
    /// Run only the tests whose name contains this.
    filter: Option<String>,
}

/// Sets up, builds, and runs every test.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace, &setup::Options::for_running())?;
    servers::install()?;
    build::everything(workspace, build::Options::default())?;
    let binaries = step("building the tests", || compile(workspace, Selection::All))?;
    let filter = options.filter.as_deref();
    let mut results = run_all(&binaries, filter)?;
    if filter.is_none() {
        results.push(doc_tests(workspace));
    }
    summarise(&results)
}

/// Builds and runs the tests that need neither root nor the lab.
pub fn unprivileged(workspace: &Workspace) -> Result<()> {
    let binaries = step("building the unit tests", || {
        compile(workspace, Selection::Unit)
    })?;
    summarise(&run_all(&binaries, None)?)
}

/// Which test binaries to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selection {
    All,
    Unit,
}

/// A compiled test binary.
#[derive(Debug, PartialEq, Eq)]
struct Binary {
    /// The package's directory and the target: `raft-node/it`.
    name: String,
    package: PathBuf,
    executable: PathBuf,
}

/// What became of one binary's tests.
struct Outcome {
    name: String,
    counts: Counts,
    took: Duration,
    succeeded: bool,
}

/// Numbers of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

fn compile(workspace: &Workspace, selection: Selection) -> Result<Vec<Binary>> {
    let mut cargo = workspace.cargo("test");
    // Always the same packages: another selection means other features, and
    // dependencies that are compiled twice.
    cargo.args([
        "--release",
        "--workspace",
        "--exclude",
        "lb-ebpf",
        "--no-run",
    ]);
    cargo.arg("--message-format=json-render-diagnostics");
    if selection == Selection::Unit {
        cargo.args(["--lib", "--bins"]);
    }
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(test_binary).collect())
}

/// Reads one line of cargo's messages; `None` for all but test binaries.
fn test_binary(line: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    let directory = package.file_name()?.to_string_lossy();
    let target = message["target"]["name"].as_str()?;
    Some(Binary {
        name: format!("{directory}/{target}"),
        package: package.to_owned(),
        executable: message["executable"].as_str()?.into(),
    })
}

/// The executable that one line of cargo's messages names, if it is a test's.
pub fn executable(line: &str) -> Option<PathBuf> {
    Some(test_binary(line)?.executable)
}

fn run_all(binaries: &[Binary], filter: Option<&str>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    // The quick ones first.
    let (slow, quick): (Vec<_>, Vec<_>) = binaries
        .iter()
        .partition(|binary| binary.name == PRIVILEGED);
    for binary in quick.into_iter().chain(slow) {
        outcomes.push(run_one(binary, filter)?);
    }
    Ok(outcomes)
}

fn run_one(binary: &Binary, filter: Option<&str>) -> Result<Outcome> {
    eprintln!("xtask: tests of {}", binary.name);
    let mut command = Command::new(&binary.executable);
    command
        .current_dir(&binary.package)
        .env("CARGO_MANIFEST_DIR", &binary.package)
        .env("PATH", search_path_variable());
    command.args(filter);
    if binary.name == PRIVILEGED {
        command.arg("--test-threads=1");
        // What they measured is worth reading also where they pass.
        command.arg("--show-output");
    }
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", binary.executable.display()))?;
    let mut counts = Counts::default();
    let stdout = child.stdout.take().context("the child has no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = parse_result(&line) {
            counts = result;
        }
    }
    Ok(Outcome {
        name: binary.name.clone(),
        counts,
        took: begun.elapsed(),
        succeeded: child.wait()?.success(),
    })
}

/// Reads libtest's last line: `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        match what {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "ignored" => counts.ignored = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

fn doc_tests(workspace: &Workspace) -> Outcome {
    let begun = Instant::now();
    let mut cargo = workspace.cargo("test");
    cargo.args(["--release", "--workspace", "--exclude", "lb-ebpf", "--doc"]);
    let succeeded = step("running the examples in the docs", || {
        run_command(&mut cargo)
    })
    .is_ok();
    Outcome {
        name: "doc examples".into(),
        counts: Counts::default(),
        took: begun.elapsed(),
        succeeded,
    }
}

fn summarise(outcomes: &[Outcome]) -> Result<()> {
    let mut total = Counts::default();
    let mut failed = Vec::new();
    eprintln!(
        "\n{:<28} {:>7} {:>7} {:>8} {:>8}",
        "tests of", "passed", "failed", "ignored", "seconds"
    );
    for Outcome {
        name,
        counts,
        took,
        succeeded,
    } in outcomes
    {
        if *counts == Counts::default() && *succeeded {
            // Of no interest: a binary without tests, or none that was asked for.
            continue;
        }
        eprintln!(
            "{name:<28} {:>7} {:>7} {:>8} {:>8.1}{}",
            counts.passed,
            counts.failed,
            counts.ignored,
            took.as_secs_f64(),
            if *succeeded { "" } else { "  FAILED" }
        );
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.ignored += counts.ignored;
        if !succeeded {
            failed.push(name.as_str());
        }
    }
    eprintln!(
        "{:<28} {:>7} {:>7} {:>8}",
        "all", total.passed, total.failed, total.ignored
    );
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if total.passed == 0 {
        bail!("not one test ran");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_test_binary_is_understood() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(
            parse_result(line),
            Some(Counts {
                passed: 12,
                failed: 1,
                ignored: 2
            })
        );
        assert_eq!(parse_result("test a::b ... ok"), None);
    }

    #[test]
    fn test_binaries_are_told_from_other_artifacts() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"name":"it"},"profile":{"test":true},"executable":"/t/it-1"}"#;
        let expected = Binary {
            name: PRIVILEGED.into(),
            package: "/w/tests".into(),
            executable: "/t/it-1".into(),
        };
        assert_eq!(test_binary(test), Some(expected));
        assert_eq!(test_binary(&test.replace("true", "false")), None);
        assert_eq!(test_binary("not json"), None);
    }

    #[test]
    fn a_failed_binary_fails_the_run_even_without_a_failed_test() {
        let outcome = |succeeded| Outcome {
            name: "x".into(),
            counts: Counts {
                passed: 1,
                ..Counts::default()
            },
            took: Duration::ZERO,
            succeeded,
        };
        assert!(summarise(&[outcome(true)]).is_ok());
        assert!(summarise(&[outcome(true), outcome(false)]).is_err());
        assert!(summarise(&[]).is_err());
    }
}
