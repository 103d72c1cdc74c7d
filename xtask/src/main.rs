//! `cargo xtask …`: everything a developer does with this workspace.
//!
//! It starts compilers, package managers and the project's own binaries, and
//! links none of the project's crates, so that it is ready in seconds on a
//! fresh clone.

mod bench;
mod build;
mod chaos;
mod fuzz;
mod run;
mod servers;
mod setup;
mod step;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Build, run and check this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build and run: the eBPF toolchain and a few tools.
    Setup(setup::Options),
    /// Build the kernel objects, then `lb`, `raft-node` and the lab.
    Build(build::Options),
    /// Start the lab, a Raft cluster and the balancer; or `lb` on a real interface.
    Run(run::Options),
    /// Run every test, unprivileged and privileged.
    Test(test::Options),
    /// Measure what a packet, a connection and a byte cost, beside what else there is.
    Bench(bench::Options),
    /// Send random packets through the kernel program and the host's code, and compare.
    Fuzz(fuzz::Options),
    /// Kill, stop and cut off nodes, links and the agent at random, and check what clients saw.
    Chaos(chaos::Options),
    /// Check format, lints, unit and tidy tests, and docs; never writes to the sources.
    Verify,
    /// Format the sources and apply clippy's suggestions.
    Fix,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup(options) => setup::run(&workspace, &options),
        Verb::Build(options) => {
            setup::run(&workspace, &setup::Options::for_building())?;
            build::everything(&workspace, options)
        }
        Verb::Run(options) => run::run(&workspace, &options),
        Verb::Test(options) => test::run(&workspace, &options),
        Verb::Bench(options) => bench::run(&workspace, &options),
        Verb::Fuzz(options) => fuzz::run(&workspace, &options),
        Verb::Chaos(options) => chaos::run(&workspace, &options),
        Verb::Verify => verify::verify(&workspace),
        Verb::Fix => verify::fix(&workspace),
    }
}
