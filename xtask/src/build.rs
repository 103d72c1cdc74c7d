//! Compiling: the kernel objects first, then the binaries that embed them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::step::{run, step};
use crate::toolchain::{Compiler, TARGET, search_path_variable};
use crate::workspace::Workspace;

/// The binaries of `lb-ebpf`, and the name under which each object is kept.
const OBJECTS: [(&str, &str); 3] = [
    ("lb-ebpf", "lb.o"),
    ("lab-ebpf", "lab.o"),
    ("bench-ebpf", "bench.o"),
];

/// Compiler flags for the kernel's side.
const KERNEL_FLAGS: [&str; 5] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clinker=bpf-linker",
    // LLVM 22 can crash in "Post-RA pseudo instruction expansion" on large
    // copies on the stack; without this pass it does not.
    "-Clink-arg=--disable-expand-memcpy-in-order",
    "-Ctarget-cpu=v3",
];

/// What `cargo xtask build` takes.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Have the kernel program log every verdict (RUST_LOG=debug shows it). Slow; for debugging.
    #[arg(long)]
    kernel_log: bool,
}

/// Builds the kernel objects and the host's binaries.
pub fn everything(workspace: &Workspace, options: Options) -> Result<()> {
    kernel(workspace, options)?;
    step("building lb, raft-node and the lab", || {
        let mut cargo = workspace.cargo("build");
        cargo.arg("--release");
        cargo.args(["-p", "lb-userspace", "-p", "raft-node", "-p", "lb-tests"]);
        cargo.arg("--bins");
        if options.kernel_log {
            cargo.args(["--features", "lb-userspace/kernel-log"]);
        }
        run(&mut cargo)
    })
}

/// Builds the kernel objects and puts them where `lb-userspace/build.rs` and
/// the lab look for them.
pub fn kernel(workspace: &Workspace, options: Options) -> Result<()> {
    let compiler = Compiler::find(Path::new("/"))
        .context("no compiler for the kernel's side; run `cargo xtask setup`")?;
    step("building the kernel objects", || {
        let mut cargo = kernel_command(workspace, &compiler);
        if options.kernel_log {
            cargo.args(["--features", "log"]);
        }
        run(&mut cargo)?;
        keep_objects(&workspace.kernel_target())
    })
}

fn kernel_command(workspace: &Workspace, compiler: &Compiler) -> Command {
    let mut cargo = workspace.cargo("build");
    cargo.args(["-p", "lb-ebpf", "--profile", "bpf", "--target", TARGET]);
    cargo.arg("--target-dir").arg(workspace.kernel_target());
    // The encoded form: it beats RUSTFLAGS, the user's own included, which
    // are meant for the host.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", KERNEL_FLAGS.join("\x1f"));
    cargo.env("PATH", search_path_variable());
    compiler.configure(&mut cargo);
    cargo
}

/// Copies the finished objects to their stable names.
fn keep_objects(target: &Path) -> Result<()> {
    let built = target.join(TARGET).join("bpf");
    let mut kept = 0;
    for (binary, object) in OBJECTS {
        let from = built.join(binary);
        if from.exists() {
            copy_if_changed(&from, &target.join(object))?;
            kept += 1;
        }
    }
    if kept == 0 {
        bail!(
            "cargo built no kernel object: {} has none of {OBJECTS:?}",
            built.display()
        );
    }
    Ok(())
}

/// Copies a file, but leaves an equal one alone: its time stamp decides
/// whether whoever embeds it is built again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let from = directory.path().join("from");
        let to = directory.path().join("to");
        fs::write(&from, "object").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH;
        let file = fs::File::options().write(true).open(&to).unwrap();
        file.set_modified(past).unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), past);
        fs::write(&from, "another").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_ne!(fs::metadata(&to).unwrap().modified().unwrap(), past);
        assert_eq!(fs::read(&to).unwrap(), b"another");
    }

    #[test]
    fn a_build_without_any_object_is_an_error() {
        let target = tempfile::tempdir().unwrap();
        assert!(keep_objects(target.path()).is_err());
        let built = target.path().join(TARGET).join("bpf");
        fs::create_dir_all(&built).unwrap();
        fs::write(built.join("lb-ebpf"), "object").unwrap();
        keep_objects(target.path()).unwrap();
        assert_eq!(fs::read(target.path().join("lb.o")).unwrap(), b"object");
        assert!(!target.path().join("lab.o").exists());
    }
}
