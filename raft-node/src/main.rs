//! The `raft-node` binary: parses the command line, runs one verb, and turns its result into an exit status and at most one line.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use raft_node::config::Settings;
use raft_node::config::raw::{ClientArgs, CommandLine, LogFormat, ServeArgs, Verb};
use raft_node::{client, serve};
use tracing_subscriber::EnvFilter;

/// Requests are many small allocations; the system's allocator took a fifth of a node's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// openraft repeats, at error level and many times a second, that a peer is down; what an operator would act on is logged by this crate.
const LOG_DEFAULT: &str = "info,openraft=off";

fn main() -> ExitCode {
    let CommandLine { verb } = CommandLine::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let status = match verb {
        Verb::Serve(args) => runtime.block_on(run_serve(&args)),
        Verb::Client(args) => runtime.block_on(run_client(&args)),
    };
    // A blocked file operation must not keep the process from ending.
    runtime.shutdown_background();
    status
}

async fn run_serve(args: &ServeArgs) -> ExitCode {
    start_log(args.log_format);
    let settings = match Settings::check(args) {
        Ok(settings) => settings,
        Err(error) => return fail(&error),
    };
    match serve::run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run_client(args: &ClientArgs) -> ExitCode {
    match client::run(args).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn start_log(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(LOG_DEFAULT));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// One line: the error and its causes.
fn fail(error: &dyn Error) -> ExitCode {
    let mut line = format!("raft-node: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
    ExitCode::FAILURE
}
