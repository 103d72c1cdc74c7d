//! Why a verb failed, what is printed, and which exit code that is.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::client::AskError;
use crate::config::LoadError;
use crate::shell::run::RunError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration file is not valid.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Nobody said which NIC to attach to.
    #[error(
        "{}: no interface; add interface = \"eth0\" to the file, or give --interface eth0",
        config.display()
    )]
    NoInterface {
        /// The configuration file.
        config: PathBuf,
    },
    /// The asynchronous runtime could not be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The agent failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The agent could not be asked, or refused.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// No server goes by that name.
    #[error("no server is named \"{server}\"; `lb status` lists them")]
    NoServer {
        /// As the user typed it.
        server: String,
    },
    /// The balancer cannot do its work.
    #[error("not ready: {reason}")]
    NotReady {
        /// What is missing.
        reason: String,
    },
    /// Standard output could not be written to.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Refused: a bad configuration, or an operation that failed. 2 is clap's.
const REFUSED: u8 = 1;
/// No agent answers on the socket.
const UNREACHABLE: u8 = 3;

impl Failure {
    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Ask(AskError::Unreachable { .. } | AskError::Silent { .. }) => UNREACHABLE,
            // `lb stats | head` has read all that it wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Config(_)
            | Self::NoInterface { .. }
            | Self::Runtime(_)
            | Self::Run(_)
            | Self::Ask(_)
            | Self::NoServer { .. }
            | Self::NotReady { .. }
            | Self::Output(_) => REFUSED,
        }
    }

    /// One line with all causes; as many as there are problems for a
    /// configuration, which begin with its name so that editors find the place.
    fn message(&self) -> String {
        if let Self::Config(_) | Self::NoInterface { .. } | Self::Ask(AskError::Invalid { .. }) =
            self
        {
            return self.to_string();
        }
        let mut line = format!("lb: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            line += &format!(": {error}");
            cause = error.source();
        }
        line
    }

    /// Prints what there is to say, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let code = self.code();
        if code != 0 {
            // Where standard error is gone too, the exit code has to do.
            let _ = writeln!(io::stderr(), "{}", self.message());
        }
        ExitCode::from(code)
    }
}
