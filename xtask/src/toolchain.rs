//! The compiler for the kernel's side, in the two forms that it comes in.
//!
//! - **Debian**: `rustc-web` with `libstd-rust-web-dev-bpf`, which brings a
//!   prebuilt `core` for `bpfel-unknown-none`.
//! - **Rustup**: a nightly with `rust-src`, from which cargo builds `core`.
//!
//! Both link with `bpf-linker`. Nothing is installed here: see `setup`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::output_of;

/// The target triple of the kernel's side.
pub const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build for [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// A stable compiler with a prebuilt `core`; the path of its `rustc`.
    Debian(PathBuf),
    /// Rustup's nightly, which builds `core` from source.
    Nightly,
}

impl Compiler {
    /// The compiler of this machine, if it has one. `root` is `/`, or a
    /// directory that stands for it.
    pub fn find(root: &Path) -> Option<Self> {
        let rustc = root.join("usr/bin/rustc");
        if has_prebuilt_core(root, &rustc) {
            return Some(Self::Debian(rustc));
        }
        nightly_has_source().then_some(Self::Nightly)
    }

    /// Makes `cargo` use this compiler.
    pub fn configure(&self, cargo: &mut Command) {
        match self {
            Self::Debian(rustc) => {
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                // Rustup's libraries are another compiler's.
                cargo.env_remove("LD_LIBRARY_PATH");
            }
            Self::Nightly => {
                cargo.env("RUSTUP_TOOLCHAIN", "nightly");
                cargo.args(["-Z", "build-std=core"]);
            }
        }
    }
}

/// Whether `rustc` has a compiled `core` for the kernel's target.
fn has_prebuilt_core(root: &Path, rustc: &Path) -> bool {
    if !rustc.exists() {
        return false;
    }
    let printed = output_of(Command::new(rustc).env_remove("LD_LIBRARY_PATH").args([
        "--print",
        "target-libdir",
        "--target",
        TARGET,
    ]));
    let directory = match printed {
        Some(directory) => PathBuf::from(directory),
        None => root.join("usr/lib/rustlib").join(TARGET).join("lib"),
    };
    holds_core(&directory)
}

/// Whether a library directory holds `libcore-*.rlib`.
fn holds_core(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

/// Whether rustup has a nightly with the standard library's source.
fn nightly_has_source() -> bool {
    let sysroot = output_of(
        Command::new("rustup")
            // A toolchain that is missing is not to be fetched in passing.
            .env("RUSTUP_AUTO_INSTALL", "0")
            .args(["run", "nightly", "rustc", "--print", "sysroot"]),
    );
    sysroot.is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// Where a program is: in `PATH`, in cargo's own `bin`, or in the system's
/// administrator directories, which an ordinary user's `PATH` lacks.
pub fn which(program: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// `PATH` for the commands that we start: ours, and the places that
/// [`which`] looks in besides.
pub fn search_path_variable() -> OsString {
    env::join_paths(search_path()).unwrap_or_default()
}

fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = env::split_paths(&path).collect();
    let further = [cargo_bin(), Some("/usr/sbin".into()), Some("/sbin".into())];
    for directory in further.into_iter().flatten() {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Where `cargo install` puts binaries.
fn cargo_bin() -> Option<PathBuf> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME")?).join(".cargo"),
    };
    Some(home.join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_directory_without_core_is_no_toolchain() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!holds_core(directory.path()));
        assert!(!holds_core(&directory.path().join("absent")));
        fs::write(directory.path().join("libcompiler_builtins-1.rlib"), "").unwrap();
        assert!(!holds_core(directory.path()));
        fs::write(directory.path().join("libcore-1.rlib"), "").unwrap();
        assert!(holds_core(directory.path()));
    }

    #[test]
    fn an_empty_root_has_no_debian_compiler() {
        let root = tempfile::tempdir().unwrap();
        assert!(!matches!(
            Compiler::find(root.path()),
            Some(Compiler::Debian(_))
        ));
    }

    #[test]
    fn programs_are_found_in_the_path_and_nowhere_else() {
        assert!(which("sh").is_some());
        assert_eq!(which("a-program-that-nobody-has"), None);
    }
}
