//! Calls of iproute2's `ip` and of `ethtool`, with errors that say what was
//! asked for.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs `ip ARGUMENTS`.
pub fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot start `ip` (package iproute2)")?;
    check(&format!("ip {}", arguments.join(" ")), &output)
}

/// Runs several `ip` commands in a namespace by one process: a line each.
pub fn batch(namespace: &str, lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `ip` (package iproute2)")?;
    let mut stdin = child.stdin.take().context("`ip` has no stdin")?;
    // It reads no further after the first error; then its exit status tells.
    let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    check(&format!("ip -n {namespace}: {}", lines.join("; ")), &output)
}

/// Turns checksum offload of a port off: what it sends then carries finished
/// checksums, and what it receives is verified in full.
pub fn checksums_in_full(namespace: &str, port: &str) -> Result<()> {
    // `nsenter`, not `ip netns exec`: that would remount /sys.
    let output = Command::new("nsenter")
        .arg(format!("--net={}/{namespace}", super::namespace::DIRECTORY))
        .args(["ethtool", "-K", port, "tx", "off"])
        .output()
        .context("cannot start `nsenter` (package util-linux)")?;
    check(&format!("ethtool -K {port} tx off in {namespace}"), &output)
}

fn check(what: &str, output: &Output) -> Result<()> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{what}` failed: {}", stderr.trim());
    }
    Ok(())
}
