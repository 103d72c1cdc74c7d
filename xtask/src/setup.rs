//! `cargo xtask setup`: installs what is missing, and only that.
//!
//! [`Machine`] is what was found, [`plan`] decides what to do about it and
//! touches nothing, [`Install`] does one thing. A second run finds nothing to
//! do and ends at once.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::step::{output_of, run as run_command, step};
use crate::toolchain::{Compiler, search_path_variable, which};
use crate::workspace::Workspace;

/// The version of bpf-linker that the kernel objects are built with.
const LINKER_VERSION: &str = "0.13.0";
/// Debian's LLVM that `rustc-web` is built with; the linker's must not be older.
const LLVM: &str = "22";
/// Debian's compiler with a prebuilt `core` for the kernel's target.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Programs that the lab calls, and the packages that bring them.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("ethtool", "ethtool"), ("curl", "curl")];
/// libFuzzer is compiled from C++.
const CPP_COMPILER: (&str, &str) = ("c++", "g++");
/// What the benchmarks load with, and compare with. The stream module is no
/// program: see [`STREAM_MODULE`].
pub const PEERS: [(&str, &str); 7] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("nft", "nftables"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
];
/// nginx's module for TCP, and the package that brings it.
pub const STREAM_MODULE: (&str, &str) = (
    "usr/lib/nginx/modules/ngx_stream_module.so",
    "libnginx-mod-stream",
);

#[derive(Args)]
pub struct Options {
    /// Say what is missing and what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Look for installed things under this directory; implies --dry-run.
    #[arg(long, default_value = "/", hide = true)]
    root: PathBuf,
    #[arg(skip = Purpose::Running)]
    purpose: Purpose,
}

impl Options {
    /// What `build` needs: compiler and linker.
    pub fn for_building() -> Self {
        Self {
            dry_run: false,
            root: "/".into(),
            purpose: Purpose::Building,
        }
    }

    /// What `run` and `test` need: the lab's tools as well.
    pub fn for_running() -> Self {
        Self {
            purpose: Purpose::Running,
            ..Self::for_building()
        }
    }

    /// What `fuzz` needs: a compiler of C++ as well.
    pub fn for_fuzzing() -> Self {
        Self {
            purpose: Purpose::Fuzzing,
            ..Self::for_building()
        }
    }

    /// What the end-to-end benchmarks need: other balancers, and load.
    pub fn for_comparing() -> Self {
        Self {
            purpose: Purpose::Comparing,
            ..Self::for_building()
        }
    }
}

/// What the machine must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Building,
    Running,
    Fuzzing,
    Comparing,
}

/// Installs what is missing on this machine.
///
/// # Errors
/// Where something cannot be installed from here, the error names exactly
/// what the user has to install.
pub fn run(_workspace: &Workspace, options: &Options) -> Result<()> {
    let mut machine = Machine::inspect(&options.root, options.purpose);
    if machine.is_complete() {
        return Ok(());
    }
    let dry = options.dry_run || options.root != Path::new("/");
    if machine.apt && machine.may_need_packages() && !dry {
        need_root("install Debian packages")?;
        step("reading the lists of Debian packages", || {
            run_command(apt().arg("update").arg("-qq"))
        })?;
    }
    machine.debian_compiler = machine.apt && package_exists(COMPILER_PACKAGES[1]);
    for install in plan(&machine)? {
        if dry {
            eprintln!("xtask: would be {install}");
        } else {
            step(&install, || run_command(&mut install.command()))?;
        }
    }
    if dry {
        return Ok(());
    }
    let after = Machine::inspect(&options.root, options.purpose);
    if !after.is_complete() {
        bail!("everything was installed, and yet this is missing: {after}");
    }
    Ok(())
}

/// Whether [`STREAM_MODULE`] is there.
pub fn has_stream_module(root: &Path) -> bool {
    root.join(STREAM_MODULE.0).exists()
}

/// What this machine has, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    compiler: Option<Compiler>,
    linker: bool,
    llvm: bool,
    missing_tools: Vec<(&'static str, &'static str)>,
    apt: bool,
    /// Whether Debian's compiler can be installed.
    debian_compiler: bool,
    rustup: bool,
    binstall: bool,
}

impl Machine {
    fn inspect(root: &Path, purpose: Purpose) -> Self {
        let here = root == Path::new("/");
        let has = |program: &str| here && which(program).is_some();
        let tools = match purpose {
            Purpose::Building => Vec::new(),
            Purpose::Running => TOOLS.to_vec(),
            Purpose::Fuzzing => vec![CPP_COMPILER],
            Purpose::Comparing => [&TOOLS[..], &PEERS].concat(),
        };
        let mut missing_tools: Vec<_> = tools
            .into_iter()
            .filter(|(program, _)| !has(program))
            .collect();
        if purpose == Purpose::Comparing && !has_stream_module(root) {
            missing_tools.push(STREAM_MODULE);
        }
        Self {
            compiler: if here { Compiler::find(root) } else { None },
            linker: has("bpf-linker"),
            llvm: root
                .join(format!("usr/lib/llvm-{LLVM}/include/llvm-c"))
                .exists(),
            missing_tools,
            apt: which("apt-get").is_some(),
            debian_compiler: false,
            rustup: which("rustup").is_some(),
            binstall: which("cargo-binstall").is_some(),
        }
    }

    /// Whether packages could supply something that is missing.
    fn may_need_packages(&self) -> bool {
        self.compiler.is_none() || !self.missing_tools.is_empty() || (!self.linker && !self.llvm)
    }

    fn is_complete(&self) -> bool {
        self.compiler.is_some() && self.linker && self.missing_tools.is_empty()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut missing = Vec::new();
        if self.compiler.is_none() {
            missing.push("a compiler for the kernel's side");
        }
        if !self.linker {
            missing.push("bpf-linker");
        }
        missing.extend(self.missing_tools.iter().map(|(program, _)| program));
        f.write_str(&missing.join(", "))
    }
}

/// One thing to install.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Install {
    Packages(Vec<&'static str>),
    Nightly,
    LinkerFromSource,
    LinkerBinary,
}

impl Install {
    fn command(&self) -> Command {
        match self {
            Self::Packages(packages) => {
                let mut command = apt();
                // `rustc-web` conflicts with Debian's `rustc`: to remove that
                // is the user's decision.
                command.args(["install", "-y", "-qq", "--no-install-recommends"]);
                command.arg("--no-remove").args(packages);
                command
            }
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["toolchain", "install", "nightly"]);
                command.args(["--profile", "minimal", "--component", "rust-src"]);
                command
            }
            Self::LinkerFromSource => {
                let mut command = Command::new("cargo");
                command.args(["install", "bpf-linker", "--version", LINKER_VERSION]);
                command.args(["--locked", "--no-default-features"]);
                command.args(["--features", &format!("llvm-{LLVM}")]);
                command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
                command.env("PATH", search_path_variable());
                // Those of the running xtask are not meant for it.
                command.env_remove("CARGO_TARGET_DIR");
                command
            }
            Self::LinkerBinary => {
                let mut command = Command::new("cargo");
                command.args(["binstall", "-y", "bpf-linker"]);
                command
            }
        }
    }
}

impl fmt::Display for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(packages) => {
                write!(f, "installing the Debian packages {}", packages.join(" "))
            }
            Self::Nightly => f.write_str("installing rustup's nightly with rust-src"),
            Self::LinkerFromSource => write!(
                f,
                "compiling bpf-linker {LINKER_VERSION} against LLVM {LLVM} (about a minute)"
            ),
            Self::LinkerBinary => f.write_str("installing bpf-linker"),
        }
    }
}

/// What to install on `machine`, in order.
///
/// # Errors
/// Names what the user has to install where we cannot.
fn plan(machine: &Machine) -> Result<Vec<Install>> {
    let mut packages = Vec::new();
    let mut then = Vec::new();
    let mut by_hand = Vec::new();

    let debian = match &machine.compiler {
        Some(Compiler::Debian(_)) => true,
        Some(Compiler::Nightly) => false,
        None if machine.debian_compiler => {
            packages.extend(COMPILER_PACKAGES);
            true
        }
        None if machine.rustup => {
            then.push(Install::Nightly);
            false
        }
        None => {
            by_hand.push("rustup with a nightly toolchain and its component rust-src".to_owned());
            false
        }
    };
    if !machine.linker {
        if debian && machine.apt {
            if !machine.llvm {
                packages.push("llvm-22-dev");
            }
            then.push(Install::LinkerFromSource);
        } else if machine.binstall {
            then.push(Install::LinkerBinary);
        } else {
            by_hand
                .push("bpf-linker (`cargo binstall bpf-linker`, or its release page)".to_owned());
        }
    }
    for &(program, package) in &machine.missing_tools {
        if machine.apt {
            packages.push(package);
        } else {
            by_hand.push(format!("{program} (often in a package named {package})"));
        }
    }
    if !by_hand.is_empty() {
        bail!("please install, and run this again: {}", by_hand.join("; "));
    }
    if !packages.is_empty() {
        then.insert(0, Install::Packages(packages));
    }
    Ok(then)
}

/// Fails unless we are root. `why` completes "root is needed to …".
pub fn need_root(why: &str) -> Result<()> {
    if !is_root() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        bail!(
            "root is needed to {why}; type: sudo -E env PATH=$PATH cargo xtask {}",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// Whether our effective user is root: it owns our entry in `/proc`.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// `apt-get`, which asks nothing, and waits for another one to be done.
pub fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Whether the package lists offer a version of `package`.
fn package_exists(package: &str) -> bool {
    let policy = output_of(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    );
    policy.is_some_and(|policy| is_candidate(&policy))
}

/// Reads what `apt-cache policy` printed.
fn is_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh Debian with rustup's stable and nothing else.
    fn fresh_debian() -> Machine {
        Machine {
            compiler: None,
            linker: false,
            llvm: false,
            missing_tools: vec![("ethtool", "ethtool")],
            apt: true,
            debian_compiler: true,
            rustup: true,
            binstall: false,
        }
    }

    #[test]
    fn a_fresh_debian_gets_its_packages_first_and_then_the_linker() {
        assert_eq!(
            plan(&fresh_debian()).unwrap(),
            [
                Install::Packages(vec![
                    "rustc-web",
                    "libstd-rust-web-dev-bpf",
                    "llvm-22-dev",
                    "ethtool"
                ]),
                Install::LinkerFromSource,
            ]
        );
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        let debian = Some(Compiler::Debian("/usr/bin/rustc".into()));
        let machine = Machine {
            compiler: debian,
            llvm: true,
            ..fresh_debian()
        };
        assert_eq!(
            plan(&machine).unwrap(),
            [
                Install::Packages(vec!["ethtool"]),
                Install::LinkerFromSource
            ]
        );
        let machine = Machine {
            linker: true,
            missing_tools: vec![],
            ..machine
        };
        assert!(machine.is_complete());
        assert!(!machine.may_need_packages());
        assert!(plan(&machine).unwrap().is_empty());
    }

    #[test]
    fn a_machine_without_debians_compiler_gets_rustups_nightly() {
        let machine = Machine {
            debian_compiler: false,
            binstall: true,
            missing_tools: vec![],
            ..fresh_debian()
        };
        assert_eq!(
            plan(&machine).unwrap(),
            [Install::Nightly, Install::LinkerBinary]
        );
    }

    #[test]
    fn what_cannot_be_installed_is_named_in_full() {
        let machine = Machine {
            apt: false,
            debian_compiler: false,
            rustup: false,
            ..fresh_debian()
        };
        let error = plan(&machine).unwrap_err().to_string();
        for name in ["rust-src", "bpf-linker", "ethtool"] {
            assert!(error.contains(name), "{name} is not in: {error}");
        }
    }

    #[test]
    fn an_empty_root_lacks_everything() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::inspect(root.path(), Purpose::Running);
        assert_eq!(machine.compiler, None);
        assert!(!machine.linker && !machine.llvm);
        assert_eq!(machine.missing_tools, TOOLS);
        let building = Machine::inspect(root.path(), Purpose::Building);
        assert_eq!(building.missing_tools, []);
        let comparing = Machine::inspect(root.path(), Purpose::Comparing);
        assert_eq!(comparing.missing_tools.len(), TOOLS.len() + PEERS.len() + 1);
        assert!(comparing.missing_tools.contains(&STREAM_MODULE));
    }

    #[test]
    fn a_package_without_a_candidate_does_not_exist() {
        assert!(is_candidate(
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0\n"
        ));
        assert!(!is_candidate(
            "rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(!is_candidate(""));
    }
}
