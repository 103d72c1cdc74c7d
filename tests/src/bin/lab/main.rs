//! The lab to look at: `lab up` keeps it running and shows it, `lab tour`
//! walks through what `lb` does, and checks each step.
//!
//! Started by `cargo xtask run`. Ctrl-C and SIGTERM end it in order; what a
//! killed one leaves, the next one removes.

mod revival;
mod tour;
mod up;
mod view;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lb_tests::patience::{interrupted, interruption};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A Raft cluster behind lb, in network namespaces of this machine.
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, Subcommand)]
enum Verb {
    /// Keep the lab running, and show it, until Ctrl-C.
    Up,
    /// Write, read, kill the leader, measure the outage; exit 0 if all held.
    Tour,
    /// Remove what labs left whose owner was killed.
    Clean,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(Verdict::AllHeld) => ExitCode::SUCCESS,
        Ok(Verdict::SomethingFailed) => ExitCode::FAILURE,
        Err(_) if interrupted() => {
            eprintln!("lab: interrupted; everything was removed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("lab: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How it ended.
enum Verdict {
    AllHeld,
    SomethingFailed,
}

fn run(verb: Verb) -> Result<Verdict> {
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!(
            "root is needed to make network namespaces; try: sudo -E env PATH=$PATH cargo xtask run"
        );
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // A second one ends us at once, should leaving in order take too long.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(interruption()))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interruption())))
            .context("cannot handle signals")?;
    }
    match verb {
        Verb::Up => up::up().map(|()| Verdict::AllHeld),
        Verb::Tour => tour::tour(),
        Verb::Clean => lb_tests::lab::clean_up().map(|()| Verdict::AllHeld),
    }
}
