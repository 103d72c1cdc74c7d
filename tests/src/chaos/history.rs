//! What the clients did and what they were told, on one clock; as JSON lines,
//! so that it can be read, and checked again.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The one clock of a history: nanoseconds since it began.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How late it is.
    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("no history lasts for centuries")
    }
}

/// Through which of the VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The write service: the leader.
    Write,
    /// The read service: any replica.
    Read,
}

/// What a read is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Every write acknowledged before.
    Linearizable,
    /// Some value that was written once.
    Eventual,
}

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To write this value, which is written nowhere else.
    Put(String),
    /// To read.
    Get(Consistency),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The write is acknowledged.
    Written {
        /// The entry of the log that holds it.
        index: u64,
        /// That entry's term.
        term: u64,
        /// Who says so.
        node: u64,
    },
    /// The read found this, or that there is nothing.
    Found {
        /// What.
        value: Option<String>,
        /// Who says so.
        node: u64,
    },
    /// Nothing was done.
    Refused(String),
    /// A write may have been done, or may be later.
    Unknown(String),
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Whose.
    pub client: usize,
    /// By which way.
    pub via: Via,
    /// On what.
    pub key: String,
    /// What was asked for.
    pub action: Action,
    /// Before it was sent, by the history's clock.
    pub invoked: u64,
    /// After its outcome was known.
    pub ended: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// The value that a linearizable read found; `None` for all that is none.
    pub fn linearizable_read(&self) -> Option<Option<&str>> {
        match (&self.action, &self.outcome) {
            (Action::Get(Consistency::Linearizable), Outcome::Found { value, .. }) => {
                Some(value.as_deref())
            }
            _ => None,
        }
    }

    /// The value that a write had, whatever came of it.
    pub fn put(&self) -> Option<&str> {
        match &self.action {
            Action::Put(value) => Some(value),
            Action::Get(_) => None,
        }
    }
}

/// What was done to the deployment meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// By the history's clock.
    pub at: u64,
    /// In words.
    pub what: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    /// In any order.
    pub incidents: Vec<Incident>,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Operation(Operation),
    Incident(Incident),
}

impl Line {
    fn at(&self) -> u64 {
        match self {
            Self::Operation(operation) => operation.invoked,
            Self::Incident(incident) => incident.at,
        }
    }
}

impl History {
    /// Writes one line for each operation and incident, in the order in which
    /// they began, and makes the directory for it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let operations = self.operations.iter().cloned().map(Line::Operation);
        let incidents = self.incidents.iter().cloned().map(Line::Incident);
        let mut lines: Vec<Line> = operations.chain(incidents).collect();
        lines.sort_by_key(Line::at);
        let written = || -> Result<()> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            let mut file = BufWriter::new(File::create(path)?);
            for line in lines {
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
            }
            Ok(file.flush()?)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read the history {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        let mut history = Self::default();
        for (number, line) in (1..).zip(BufReader::new(file).lines()) {
            let line = line.with_context(cannot)?;
            let parsed = serde_json::from_str(&line)
                .with_context(|| format!("line {number} is none of a history"))
                .with_context(cannot)?;
            match parsed {
                Line::Operation(operation) => history.operations.push(operation),
                Line::Incident(incident) => history.incidents.push(incident),
            }
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let operation = |action, outcome| Operation {
            client: 3,
            via: Via::Write,
            key: "k".into(),
            action,
            invoked: 5,
            ended: 9,
            outcome,
        };
        let history = History {
            operations: vec![
                operation(
                    Action::Put("3-1".into()),
                    Outcome::Written {
                        index: 7,
                        term: 2,
                        node: 1,
                    },
                ),
                operation(
                    Action::Get(Consistency::Linearizable),
                    Outcome::Found {
                        value: None,
                        node: 2,
                    },
                ),
                operation(
                    Action::Put("3-2".into()),
                    Outcome::Unknown("timed out".into()),
                ),
            ],
            incidents: vec![Incident {
                at: 6,
                what: "n1 is killed".into(),
            }],
        };
        let path = std::env::temp_dir().join(format!("lb-history-{}.jsonl", std::process::id()));
        history.write(&path).unwrap();
        let read = History::read(&path);
        fs::write(&path, "{}\n").unwrap();
        let refused = History::read(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), history);
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains("line 1 is none"), "{refused}");
    }
}
