//! Steady streams of writes. Each write has a key and a value of its own, so
//! that an acknowledged one can be looked for afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Failure;
use crate::http::Connection;
use crate::lab::{Namespace, joined};
use crate::patience::{wait_for, wait_until};

/// How long the cluster may be unable to say what was written.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// What the writers do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The first part of every key.
    pub prefix: String,
    /// How many write at once, each on a connection of its own.
    pub writers: usize,
    /// Between two writes of one writer.
    pub pause: Duration,
    /// The same after one that failed.
    pub retry: Duration,
    /// How long a writer waits for an answer.
    pub timeout: Duration,
    /// No writer goes on for longer.
    pub duration_max: Duration,
}

impl Plan {
    /// Four writers, each about a hundred writes a second; a minute at most.
    pub fn steady(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            writers: 4,
            pause: Duration::from_millis(10),
            retry: Duration::from_millis(10),
            timeout: Duration::from_secs(3),
            duration_max: Duration::from_secs(60),
        }
    }
}

/// A write that was tried.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Never tried again: a failed write's outcome is unknown.
    pub key: String,
    /// The value sent.
    pub value: String,
    /// When it was sent.
    pub begun: Instant,
    /// When it was known to have succeeded or failed.
    pub ended: Instant,
    /// The node that acknowledged it, where it said its id.
    pub outcome: Result<Option<u64>, Failure>,
}

/// Writers at work. They stop when this is stopped or dropped.
#[derive(Debug)]
pub struct WriteStream {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Vec<Attempt>>>,
}

impl WriteStream {
    /// Starts the writers in `namespace`, towards `target`.
    pub fn start(namespace: &Namespace, target: impl Into<SocketAddr>, plan: &Plan) -> Self {
        let target = target.into();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let writers = (0..plan.writers).map(|number| {
            let writer = Writer {
                target,
                plan: plan.clone(),
                number,
                stop: Arc::clone(&stop),
                acknowledged: Arc::clone(&acknowledged),
                connection: None,
            };
            namespace.background(move || writer.run())
        });
        Self {
            writers: writers.collect(),
            stop,
            acknowledged,
        }
    }

    /// Waits until so many more writes are acknowledged; whether they were
    /// within `patience`.
    pub fn wait_for_more(&self, writes: usize, patience: Duration) -> bool {
        let enough = self.acknowledged.load(Ordering::Relaxed) + writes;
        wait_until(patience, || {
            self.acknowledged.load(Ordering::Relaxed) >= enough
        })
    }

    /// Stops the writers and collects what they saw.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut attempts: Vec<Attempt> = Vec::new();
        for writer in self.writers.drain(..) {
            attempts.extend(joined(writer.join()));
        }
        attempts.sort_by_key(|attempt| attempt.ended);
        Report { attempts }
    }
}

impl Drop for WriteStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    target: SocketAddr,
    plan: Plan,
    number: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    /// Kept as long as it works.
    connection: Option<Connection>,
}

impl Writer {
    fn run(mut self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let end = Instant::now() + self.plan.duration_max;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < end {
            let key = format!("{}-{}-{}", self.plan.prefix, self.number, attempts.len());
            let value = format!("value of {key}");
            let begun = Instant::now();
            let outcome = self.write(&key, &value);
            let pause = match outcome {
                Ok(_) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.plan.pause
                }
                Err(_) => {
                    // What the balancer decides, it decides per connection.
                    self.connection = None;
                    self.plan.retry
                }
            };
            attempts.push(Attempt {
                key,
                value,
                begun,
                ended: Instant::now(),
                outcome,
            });
            thread::sleep(pause);
        }
        attempts
    }

    fn write(&mut self, key: &str, value: &str) -> Result<Option<u64>, Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self
                .connection
                .insert(Connection::open(self.target, self.plan.timeout)?),
        };
        let body = json!({ "key": key, "value": value });
        let answer = connection.request("POST", "/kv", Some(&body))?;
        if answer.status != 200 {
            return Err(Failure::Status(answer.status));
        }
        Ok(answer.header("x-raft-node").and_then(|id| id.parse().ok()))
    }
}

/// What the writers saw, in the order in which it ended.
#[derive(Debug)]
pub struct Report {
    /// All of it.
    pub attempts: Vec<Attempt>,
}

/// How writing went on after something was done to the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// From then until the first acknowledgement of a write begun later.
    pub until_acknowledged: Duration,
    /// From then until the last failure; `None` if nothing failed.
    pub until_last_failure: Option<Duration>,
    /// The longest time without any acknowledgement.
    pub longest_gap: Duration,
}

impl Report {
    /// The writes that were acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.outcome.is_ok())
    }

    /// The failures, each with its kind.
    pub fn failures(&self) -> impl Iterator<Item = (&Attempt, &Failure)> {
        self.attempts
            .iter()
            .filter_map(|attempt| Some((attempt, attempt.outcome.as_ref().err()?)))
    }

    /// The outage that began at `event`; `None` if it did not end.
    pub fn outage(&self, event: Instant) -> Option<Outage> {
        let resumed = self.acknowledged().find(|attempt| attempt.begun >= event)?;
        let last_failure = self
            .failures()
            .filter(|(attempt, _)| attempt.ended >= event)
            .last();
        let ends: Vec<Instant> = self.acknowledged().map(|attempt| attempt.ended).collect();
        let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
        Some(Outage {
            until_acknowledged: resumed.ended - event,
            until_last_failure: last_failure.map(|(attempt, _)| attempt.ended - event),
            longest_gap: gaps.max().unwrap_or_default(),
        })
    }

    /// The acknowledged writes that cannot be read back, by linearizable reads
    /// at `target` from `namespace`. There must be none.
    ///
    /// # Errors
    /// If `target` does not answer one of the reads, however often it is asked.
    pub fn lost(
        &self,
        namespace: &Namespace,
        target: impl Into<SocketAddr>,
    ) -> Result<Vec<String>> {
        let target = target.into();
        namespace.enter(|| {
            let mut reader = Reader {
                target,
                connection: None,
            };
            let mut lost = Vec::new();
            for Attempt { key, value, .. } in self.acknowledged() {
                if reader.insist(key)?.as_ref() != Some(value) {
                    lost.push(key.clone());
                }
            }
            Ok(lost)
        })
    }
}

/// Reads at one address, on one connection as long as that works.
struct Reader {
    target: SocketAddr,
    connection: Option<Connection>,
}

impl Reader {
    /// The value of `key`, if it has one; asks again while nobody leads.
    fn insist(&mut self, key: &str) -> Result<Option<String>> {
        let mut failure = None;
        let found = wait_for(READ_PATIENCE, || match self.read(key) {
            Ok(value) => Some(value),
            Err(error) => {
                self.connection = None;
                failure = Some(error);
                None
            }
        });
        found.with_context(|| {
            let failure = failure.map(|failure| failure.to_string());
            let failure = failure.unwrap_or_default();
            format!("cannot read {key} at {}: {failure}", self.target)
        })
    }

    fn read(&mut self, key: &str) -> Result<Option<String>, Failure> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self
                .connection
                .insert(Connection::open(self.target, READ_PATIENCE / 4)?),
        };
        let path = format!("/kv/{key}?consistency=linearizable");
        let answer = connection.request("GET", &path, None)?;
        match answer.status {
            200 => Ok(answer.json()["value"].as_str().map(str::to_owned)),
            404 => Ok(None),
            status => Err(Failure::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(begun: Instant, took_ms: u64, outcome: Result<Option<u64>, Failure>) -> Attempt {
        Attempt {
            key: "k".into(),
            value: "v".into(),
            begun,
            ended: begun + Duration::from_millis(took_ms),
            outcome,
        }
    }

    #[test]
    fn an_outage_lasts_until_a_later_write_is_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let report = Report {
            attempts: vec![
                attempt(at(0), 5, Ok(Some(1))),
                // Begun before the event, acknowledged after it: no sign of recovery.
                attempt(at(95), 10, Ok(Some(1))),
                attempt(at(110), 40, Err(Failure::Reset)),
                attempt(at(300), 50, Ok(Some(2))),
                attempt(at(340), 20, Err(Failure::Status(503))),
            ],
        };
        let outage = report.outage(at(100)).unwrap();
        assert_eq!(outage.until_acknowledged, Duration::from_millis(250));
        assert_eq!(outage.until_last_failure, Some(Duration::from_millis(260)));
        assert_eq!(outage.longest_gap, Duration::from_millis(245));
        assert!(report.outage(at(301)).is_none());
    }
}
