//! Clients at both VIPs that work through their [`Workload`]s and write down
//! what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::history::{Action, Clock, Consistency, Operation, Outcome, Via};
use super::workload::{Connect, Request, Subject, Workload};
use crate::http::{Connection, Response};
use crate::lab::{Namespace, address, joined};
use crate::patience::wait_for;
use crate::traffic::Failure;

/// How long a client waits for an answer. Shorter than a node waits for its
/// quorum, so that writes are also given up before the node does.
const TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure: a refused connection must not be tried in a tight circle.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// No client makes more requests than this.
const REQUESTS_MAX: u64 = 100_000;
/// How long the keys are in use, nanoseconds: then others take their place, so
/// that the history of one is short enough to be checked.
const EPOCH: u64 = 5_000_000_000;
/// How long a last read may take until it is answered.
const READ_PATIENCE: Duration = Duration::from_secs(20);
/// How many read the keys in the end, side by side.
const READERS: usize = 4;

/// How it goes for one client.
#[derive(Debug, Default)]
struct Fortune {
    successes: AtomicU64,
    failures: AtomicU64,
}

/// How it went for all clients until some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Of each client.
    successes: Vec<u64>,
    failures: u64,
}

impl Progress {
    /// Whether since `earlier` every client had success, and nothing failed.
    pub fn smooth_since(&self, earlier: &Self) -> bool {
        let mut pairs = self.successes.iter().zip(&earlier.successes);
        self.failures == earlier.failures && pairs.all(|(now, then)| now > then)
    }
}

/// Clients at work, until stopped or dropped.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    fortunes: Arc<[Fortune]>,
    threads: Vec<JoinHandle<Vec<Operation>>>,
}

impl Crowd {
    /// So many clients in `namespace`.
    pub fn start(namespace: &Namespace, clock: Clock, seed: u64, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let fortunes: Arc<[Fortune]> = (0..clients).map(|_| Fortune::default()).collect();
        let threads = (0..clients).map(|number| {
            let mut client = Client::new(number, clock);
            let mut workload = Workload::new(seed, number);
            let (stop, fortunes) = (Arc::clone(&stop), Arc::clone(&fortunes));
            namespace.background(move || {
                let mut operations = Vec::new();
                for _ in 0..REQUESTS_MAX {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let operation = client.carry_out(workload.request());
                    let fortune = &fortunes[number];
                    let count = match operation.outcome {
                        Outcome::Written { .. } | Outcome::Found { .. } => &fortune.successes,
                        Outcome::Refused(_) | Outcome::Unknown(_) => &fortune.failures,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    operations.push(operation);
                }
                operations
            })
        });
        Self {
            threads: threads.collect(),
            stop,
            fortunes,
        }
    }

    /// How it went until now.
    pub fn progress(&self) -> Progress {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let successes = self.fortunes.iter().map(|one| read(&one.successes));
        let failures = self.fortunes.iter().map(|one| read(&one.failures));
        Progress {
            successes: successes.collect(),
            failures: failures.sum(),
        }
    }

    /// Stops them, and gives all that they did.
    pub fn stop(mut self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.drain(..);
        threads.flat_map(|thread| joined(thread.join())).collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads every one of `keys` linearizably, at one VIP or the other, as clients
/// with numbers from `first` on.
///
/// # Errors
/// If one of them is not answered, however often it is asked for.
pub fn read_all(
    namespace: &Namespace,
    clock: Clock,
    first: usize,
    keys: &[String],
) -> Result<Vec<Operation>> {
    let share = keys.len().div_ceil(READERS).max(1);
    let readers = (first..).zip(keys.chunks(share)).map(|(number, keys)| {
        let keys = keys.to_vec();
        namespace.background(move || {
            let mut client = Client::new(number, clock);
            let mut ways = [Via::Write, Via::Read].into_iter().cycle();
            let reads = keys.into_iter().map(|key| {
                let via = ways.next().unwrap_or(Via::Write);
                client.insist(via, &key)
            });
            reads.collect::<Result<Vec<Operation>>>()
        })
    });
    let readers: Vec<_> = readers.collect();
    let mut operations = Vec::new();
    for reader in readers {
        operations.extend(joined(reader.join())?);
    }
    Ok(operations)
}

struct Client {
    number: usize,
    clock: Clock,
    /// To the write VIP and to the read VIP, kept as long as they work.
    connections: [Option<Connection>; 2],
}

impl Client {
    fn new(number: usize, clock: Clock) -> Self {
        Self {
            number,
            clock,
            connections: [None, None],
        }
    }

    fn carry_out(&mut self, request: Request) -> Operation {
        let Request {
            subject,
            action,
            via,
            connection,
            pause_ms,
        } = request;
        thread::sleep(Duration::from_millis(pause_ms));
        if connection == Connect::Anew {
            *self.connection(via) = None;
        }
        let key = match (subject, &action) {
            (Subject::Mark, Action::Put(value)) => format!("mark-{value}"),
            (Subject::Mark, Action::Get(_)) => unreachable!("marks are read in the end"),
            (Subject::Hot(number), _) => format!("hot-{}-{number}", self.clock.now() / EPOCH),
        };
        self.ask(via, key, action)
    }

    /// Reads until there is an answer; what was no answer tells nothing.
    fn insist(&mut self, via: Via, key: &str) -> Result<Operation> {
        let mut last = None;
        let found = wait_for(READ_PATIENCE, || {
            let action = Action::Get(Consistency::Linearizable);
            let read = self.ask(via, key.to_owned(), action);
            match read.outcome {
                Outcome::Found { .. } => Some(read),
                failed => {
                    last = Some(failed);
                    None
                }
            }
        });
        found.with_context(|| format!("cannot read {key} at the {via:?} VIP: {last:?}"))
    }

    fn ask(&mut self, via: Via, key: String, action: Action) -> Operation {
        let invoked = self.clock.now();
        let outcome = self.outcome(via, &key, &action);
        let ended = self.clock.now();
        if matches!(outcome, Outcome::Refused(_) | Outcome::Unknown(_)) {
            *self.connection(via) = None;
            thread::sleep(AFTER_FAILURE);
        }
        Operation {
            client: self.number,
            via,
            key,
            action,
            invoked,
            ended,
            outcome,
        }
    }

    fn outcome(&mut self, via: Via, key: &str, action: &Action) -> Outcome {
        let connection = self.connection(via);
        let connection = match connection {
            Some(connection) => connection,
            None => match Connection::open(address_of(via), TIMEOUT) {
                Ok(opened) => connection.insert(opened),
                // Nothing was sent yet.
                Err(error) => return Outcome::Refused(Failure::from(error).to_string()),
            },
        };
        let answer = match action {
            Action::Put(value) => {
                let body = json!({ "key": key, "value": value });
                connection.request("POST", "/kv", Some(&body))
            }
            Action::Get(consistency) => {
                let consistency = match consistency {
                    Consistency::Linearizable => "linearizable",
                    Consistency::Eventual => "eventual",
                };
                let path = format!("/kv/{key}?consistency={consistency}");
                connection.request("GET", &path, None)
            }
        };
        match answer {
            Ok(answer) => understand(action, &answer),
            Err(error) => failed(action, Failure::from(error).to_string()),
        }
    }

    fn connection(&mut self, via: Via) -> &mut Option<Connection> {
        &mut self.connections[match via {
            Via::Write => 0,
            Via::Read => 1,
        }]
    }
}

fn address_of(via: Via) -> SocketAddr {
    match via {
        Via::Write => address::WRITE.into(),
        Via::Read => address::READ.into(),
    }
}

/// A read that failed did nothing; a write may have.
fn failed(action: &Action, why: String) -> Outcome {
    match action {
        Action::Put(_) => Outcome::Unknown(why),
        Action::Get(_) => Outcome::Refused(why),
    }
}

fn understand(action: &Action, answer: &Response) -> Outcome {
    let body = answer.json();
    let word = body["error"].as_str().unwrap_or_default();
    let why = || format!("status {} {word}", answer.status);
    let Some(node) = answer
        .header("x-raft-node")
        .and_then(|node| node.parse().ok())
    else {
        return failed(action, format!("{}, by nobody", why()));
    };
    match (action, answer.status) {
        (Action::Put(_), 200) => match (body["index"].as_u64(), body["term"].as_u64()) {
            (Some(index), Some(term)) => Outcome::Written { index, term, node },
            _ => Outcome::Unknown("acknowledged without a place in the log".to_owned()),
        },
        // The only answers that promise that nothing happened.
        (Action::Put(_), 503) if matches!(word, "not_leader" | "removed") => {
            Outcome::Refused(why())
        }
        (Action::Get(_), 200) => Outcome::Found {
            value: body["value"].as_str().map(str::to_owned),
            node,
        },
        (Action::Get(_), 404) if word == "no_such_key" => Outcome::Found { value: None, node },
        _ => failed(action, why()),
    }
}
