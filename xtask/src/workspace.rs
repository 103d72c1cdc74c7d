//! Where things are: the workspace, its target directory, its artifacts.
//!
//! The kernel objects have one stable place, `<workspace>/target/bpf/*.o`,
//! whatever `CARGO_TARGET_DIR` says, because `lb-userspace/build.rs` embeds
//! them from there.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

/// The workspace this binary belongs to.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace: cargo names our manifest when it runs us; a binary
    /// that is started by hand falls back to where it was compiled.
    pub fn locate() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("the manifest of xtask has no parent directory")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            // Cargo takes a relative one from its working directory.
            Some(directory) => env::current_dir()?.join(directory),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where the kernel is compiled to, and where its finished objects lie.
    pub fn kernel_target(&self) -> PathBuf {
        self.root.join("target/bpf")
    }

    /// Where the benchmarks' rows and figures go.
    pub fn bench_directory(&self) -> PathBuf {
        self.root.join("target/bench")
    }

    /// Where the histories of the chaos runs go.
    pub fn chaos_directory(&self) -> PathBuf {
        self.root.join("target/chaos")
    }

    /// Where the wire fuzzer is built, and keeps what it reached and found.
    pub fn fuzz_directory(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// A finished host binary of the release profile.
    pub fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// A `cargo` call in the workspace's root.
    pub fn cargo(&self, verb: &str) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).arg(verb);
        command.env("CARGO_TARGET_DIR", &self.target);
        // Those of `cargo run -p xtask` would make build scripts run again.
        for (name, _) in env::vars_os() {
            let ours = name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            });
            if ours {
                command.env_remove(name);
            }
        }
        command
    }
}
