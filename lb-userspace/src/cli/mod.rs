//! What a user types: one file per verb.
//!
//! Parses arguments, asks `config`, `shell` or the agent's admin API, and
//! prints. Results go to standard output, errors and logs to standard error.

mod change;
mod check;
mod client;
mod explain;
mod failure;
mod flows;
mod ready;
mod reload;
mod run;
mod stats;
mod status;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::de::DeserializeOwned;

pub use failure::Failure;

use crate::api::path;
use crate::shell::admin;

/// Where the agent's files are, unless `--run-dir` says otherwise.
const RUN_DIR: &str = "/run/lb";

/// A leader-aware layer-4 load balancer with an XDP fast path.
#[derive(Debug, Parser)]
#[command(name = "lb", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the configuration is not valid, the operation failed, or the balancer is not ready
  2  the command line is not valid
  3  no agent answers on the socket";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent in the foreground until SIGTERM or SIGINT
    Run(run::Arguments),
    /// Check a configuration file, and list everything that is wrong with it
    Check(check::Arguments),
    /// Have the running agent read its configuration again
    Reload(Connection),
    /// Change a server's weight or state until it is cleared
    Set(change::Set),
    /// Give a server no new connections, and reset those left at a deadline
    Drain(change::Drain),
    /// Add a server that the configuration does not have, until it is cleared
    Add(change::Add),
    /// Take a server out of its pool until it is cleared
    Remove(change::Remove),
    /// Go back to what the configuration says of a server, or of all
    Clear(change::Clear),
    /// Show services, their targets, and what the servers say of themselves
    Status(Connection),
    /// Show why a server is UP or DOWN, and which services use it
    Explain(explain::Arguments),
    /// Say by the exit code whether this balancer can do its work: for keepalived and the like
    Ready(ready::Arguments),
    /// Show the counters of the data path
    Stats(Connection),
    /// Show the connection table
    Flows(flows::Arguments),
}

/// How to reach the agent, and how to print what it says.
#[derive(Debug, clap::Args)]
struct Connection {
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "LB_SOCKET", default_value_os_t = default_socket())]
    socket: PathBuf,
    /// Print the API's JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn default_socket() -> PathBuf {
    PathBuf::from(RUN_DIR).join(admin::SOCKET_NAME)
}

impl Arguments {
    /// Does what the user typed, and prints the result to `out`.
    ///
    /// # Errors
    /// What is printed to standard error, with the exit code that it stands
    /// for.
    pub fn execute(self, out: &mut dyn Write) -> Result<(), Failure> {
        match self.verb {
            Verb::Run(arguments) => run::execute(arguments),
            Verb::Check(arguments) => check::execute(&arguments, out),
            Verb::Reload(connection) => {
                connection.change(path::RELOAD, Vec::new(), out, reload::print)
            }
            Verb::Set(arguments) => change::set(&arguments, out),
            Verb::Drain(arguments) => change::drain(&arguments, out),
            Verb::Add(arguments) => change::add(&arguments, out),
            Verb::Remove(arguments) => change::remove(&arguments, out),
            Verb::Clear(arguments) => change::clear(&arguments, out),
            Verb::Status(connection) => connection.show(path::STATUS, out, status::print),
            Verb::Explain(arguments) => explain::execute(&arguments, out),
            Verb::Ready(arguments) => ready::execute(&arguments, out),
            Verb::Stats(connection) => connection.show(path::STATS, out, stats::print),
            Verb::Flows(arguments) => flows::execute(&arguments, out),
        }
    }
}

impl Connection {
    /// Asks the agent for `path`, and prints the answer as JSON or by `print`.
    fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        out: &mut dyn Write,
        print: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.tell(&client::get(&self.socket, path)?, out, print)
    }

    /// Has the agent do what `path` and `body` say, and prints its answer.
    fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
        out: &mut dyn Write,
        print: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        self.tell(&client::post(&self.socket, path, body)?, out, print)
    }

    fn tell<T: DeserializeOwned>(
        &self,
        body: &[u8],
        out: &mut dyn Write,
        print: fn(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.json {
            // As it came: what this version does not know is printed too.
            out.write_all(body)?;
            out.write_all(b"\n")?;
        } else {
            let answer: T =
                serde_json::from_slice(body).map_err(client::AskError::NotUnderstood)?;
            print(&answer, out)?;
        }
        Ok(out.flush()?)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Tables are small: locked for the whole run, nobody else prints.
    let mut out = io::BufWriter::new(io::stdout().lock());
    match arguments.execute(&mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
