//! Asks the agent beside a server, as HAProxy's `agent-check` does: connects,
//! sends what it is told to, reads one line of words.
//!
//! The words are those of HAProxy's manual, in any order, with blanks, tabs or
//! commas between: `75%`, `maxconn:30`, `ready`, `drain`, `maint`, `up`, and
//! `down`, `stopped`, `fail`, each of the three with a reason behind `#`.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Name;
use super::connect::{Ports, Purpose, connect, explain};
use crate::config::{Pool, Server};
use crate::engine::{Admin, AgentReport, Event, Operating};

/// The longest line that is read, in bytes.
const LINE_MAX: usize = 1024;
/// The most of a reason that is kept, in characters.
const REASON_MAX: usize = 80;

/// One server's agent, and how to ask it.
pub struct AgentCheck {
    agent: SocketAddr,
    ports: Ports,
    send: Vec<u8>,
    interval: Duration,
    timeout: Duration,
}

/// An answer that no agent gives.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotUnderstood {
    /// HAProxy takes none of such an answer either.
    #[error("the agent says \"{0}\", which means nothing")]
    Word(String),
    /// A connection that was closed at once.
    #[error("the agent says nothing")]
    Nothing,
}

impl AgentCheck {
    /// `None`: the server has no agent.
    pub fn new(pool: &Pool, server: &Server, ports: Ports) -> Option<Self> {
        let interval = pool.check.agent.interval.unwrap_or(pool.check.interval);
        Some(Self {
            agent: server.agent_address?,
            ports,
            send: pool.check.agent.send.clone(),
            interval,
            timeout: pool.check.timeout.min(interval),
        })
    }

    /// Asks until nobody listens to the answers any more.
    pub async fn run(self, (pool, server): Name, share: f64, events: mpsc::Sender<Event>) {
        let mut due = Instant::now() + self.interval.mul_f64(share);
        loop {
            sleep_until(due).await;
            due = Instant::now() + self.interval;
            let report = self.ask().await;
            let (pool, server) = (pool.clone(), server.clone());
            let event = Event::Advised {
                pool,
                server,
                report,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// One question. Takes `timeout` at most.
    pub async fn ask(&self) -> Result<AgentReport, String> {
        let deadline = Instant::now() + self.timeout;
        let line = timeout_at(deadline, self.line());
        let line = line
            .await
            .map_err(|_| format!("no line from the agent within {:?}", self.timeout))??;
        read(&line).map_err(|error| error.to_string())
    }

    async fn line(&self) -> Result<String, String> {
        let purpose = match self.send.is_empty() {
            true => Purpose::Listen,
            false => Purpose::Ask,
        };
        let stream = connect(self.agent, self.ports, purpose).await;
        let mut stream = stream.map_err(|error| format!("the agent: {}", explain(&error).1))?;
        let broken = |error: std::io::Error| format!("the agent: {error}");
        stream.write_all(&self.send).await.map_err(broken)?;
        let mut line = Vec::new();
        let mut part = [0; 256];
        loop {
            let length = stream.read(&mut part).await.map_err(broken)?;
            let end = part[..length]
                .iter()
                .position(|byte| b"\r\n".contains(byte));
            line.extend_from_slice(&part[..end.unwrap_or(length)]);
            if end.is_some() || length == 0 {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if line.len() > LINE_MAX {
                return Err(format!("the agent's line is longer than {LINE_MAX} bytes"));
            }
        }
    }
}

/// What a line says.
fn read(line: &str) -> Result<AgentReport, NotUnderstood> {
    let (words, reason) = match line.split_once('#') {
        Some((words, reason)) => (words, Some(reason.trim())),
        None => (line, None),
    };
    let mut report = AgentReport::default();
    let mut words = words
        .split([' ', '\t', ','])
        .filter(|word| !word.is_empty())
        .peekable();
    if words.peek().is_none() {
        return Err(NotUnderstood::Nothing);
    }
    for word in words {
        let lower = word.to_ascii_lowercase();
        let percent = lower.strip_suffix('%').and_then(|text| text.parse().ok());
        let limit = lower.strip_prefix("maxconn:");
        let limit = limit.and_then(|text| text.parse().ok());
        match (&lower[..], percent, limit) {
            // More than all of it there is no room for.
            (_, Some(percent), _) => report.percent = Some(u32::min(percent, 100)),
            (_, _, Some(limit)) => report.max_connections = Some(limit),
            ("ready", ..) => report.admin = Some(Admin::Ready),
            ("drain", ..) => report.admin = Some(Admin::Drain),
            ("maint", ..) => report.admin = Some(Admin::Maint),
            ("up", ..) => report.operating = Some(Operating::Up),
            ("down" | "stopped" | "fail", ..) => {
                let reason = reason.filter(|reason| !reason.is_empty());
                let reason = reason.map(|reason| reason.chars().take(REASON_MAX));
                let why = match reason {
                    Some(reason) => format!("{lower}: {}", reason.collect::<String>()),
                    None => lower,
                };
                report.operating = Some(Operating::Down(why));
            }
            _ => {
                let word = word.chars().take(REASON_MAX).collect();
                return Err(NotUnderstood::Word(word));
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let nothing = AgentReport::default;
        let down = |why: &str| AgentReport {
            operating: Some(Operating::Down(why.into())),
            ..nothing()
        };
        let table = [
            (
                "75%",
                AgentReport {
                    percent: Some(75),
                    ..nothing()
                },
            ),
            (
                "150%",
                AgentReport {
                    percent: Some(100),
                    ..nothing()
                },
            ),
            (
                "UP ready\t10%,maxconn:30",
                AgentReport {
                    percent: Some(10),
                    max_connections: Some(30),
                    admin: Some(Admin::Ready),
                    operating: Some(Operating::Up),
                },
            ),
            (
                "drain",
                AgentReport {
                    admin: Some(Admin::Drain),
                    ..nothing()
                },
            ),
            (
                "maint",
                AgentReport {
                    admin: Some(Admin::Maint),
                    ..nothing()
                },
            ),
            ("down", down("down")),
            (
                "stopped # upgrade, up soon",
                down("stopped: upgrade, up soon"),
            ),
            ("fail#", down("fail")),
        ];
        for (line, expected) in table {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_line_with_a_word_that_means_nothing_says_nothing_at_all() {
        for word in [
            "upp",
            "-5%",
            "%",
            "maxconn:",
            "maxconn:-1",
            "maxconn",
            "\u{fffd}",
        ] {
            let line = format!("drain {word}");
            assert_eq!(read(&line), Err(NotUnderstood::Word(word.into())), "{line}");
        }
        for line in ["", " \t,", "# only a reason"] {
            assert_eq!(read(line), Err(NotUnderstood::Nothing), "{line}");
        }
    }
}
