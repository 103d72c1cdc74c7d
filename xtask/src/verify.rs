//! `cargo xtask verify` reads and judges; `cargo xtask fix` writes.

use std::process::Command;

use anyhow::Result;

use crate::step::{run, step};
use crate::workspace::Workspace;
use crate::{build, setup, test};

/// Checks format, lints, unit and tidy tests, and docs.
pub fn verify(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, &setup::Options::for_building())?;
    step("checking the format", || {
        let mut cargo = workspace.cargo("fmt");
        run(cargo.args(["--all", "--check"]))
    })?;
    // lb-userspace embeds the object, so that nothing compiles without it.
    build::kernel(workspace, build::Options::default())?;
    step("checking the lints", || {
        let mut cargo = workspace.cargo("clippy");
        cargo.args(["--workspace", "--exclude", "lb-ebpf", "--all-targets"]);
        run(cargo.args(["--", "-D", "warnings"]))
    })?;
    step("checking the lints of the kernel's side", || {
        run(&mut kernel_clippy(workspace))
    })?;
    step("checking the docs", || {
        let mut cargo = workspace.cargo("doc");
        cargo.args(["--workspace", "--exclude", "lb-ebpf", "--no-deps"]);
        // A link to a private item is as good as any: these docs are ours.
        cargo.arg("--document-private-items");
        let flags = "-D warnings -A rustdoc::private-intra-doc-links";
        run(cargo.env("RUSTDOCFLAGS", flags))
    })?;
    test::unprivileged(workspace)
}

/// Clippy for `lb-ebpf`, checked as if for the host: rustup's clippy has no
/// `core` for the kernel's target. The `bpf` profile aborts on panic, so that
/// a `no_std` binary can be checked without an unwinder. What aya's macros
/// generate has no docs.
fn kernel_clippy(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo("clippy");
    cargo.args(["-p", "lb-ebpf", "--profile", "bpf"]);
    cargo.args(["--", "-D", "warnings", "-A", "missing-docs"]);
    cargo
}

/// Formats the sources and applies clippy's suggestions.
pub fn fix(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, &setup::Options::for_building())?;
    build::kernel(workspace, build::Options::default())?;
    step("applying clippy's suggestions", || {
        let mut cargo = workspace.cargo("clippy");
        cargo.args(["--workspace", "--exclude", "lb-ebpf", "--all-targets"]);
        run(cargo.args(["--fix", "--allow-dirty", "--allow-staged"]))
    })?;
    step("formatting", || {
        let mut cargo = workspace.cargo("fmt");
        run(cargo.arg("--all"))
    })
}
