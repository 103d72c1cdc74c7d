//! `raft-node client bench`: how many requests a second a cluster answers, and how long each takes.
//!
//! A closed loop: every client has one request under way and sends the next when it is answered. The same clients speak this program's own
//! API and etcd's (`--api etcd`), so that the two can be measured side by side.

mod request;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinSet;

use crate::config::raw::{Api, BenchArgs, Endpoint, Workload};
use crate::membership::Listing;
use crate::outbound::Outbound;
use request::Requests;
pub use wire::WireError;
use wire::{Connection, Connector};

/// How many keys there are to read and write.
const KEYS: u64 = 10_000;
/// Not counted: connections open, caches fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the first endpoint may take to say who leads.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no measurement.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A request failed: a rate of errors says nothing.
    #[error("{workload} at {endpoint}")]
    Request {
        /// What was measured.
        workload: &'static str,
        /// Where.
        endpoint: String,
        /// What happened to the request.
        #[source]
        source: WireError,
    },
    /// Not one request was answered in time.
    #[error("{workload}: nothing was answered within {duration:?}")]
    Nothing {
        /// What was measured.
        workload: &'static str,
        /// How long.
        duration: Duration,
    },
    /// A client ended by itself.
    #[error("a client ended early")]
    Client(#[from] tokio::task::JoinError),
}

/// One number of all runs, as `cargo xtask bench` writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    bench: &'static str,
    name: String,
    path: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    runs: usize,
    ratio_to: Option<String>,
    ratio: Option<f64>,
}

/// What one run found.
struct Run {
    per_second: f64,
    /// Milliseconds of each request, sorted.
    latencies: Vec<f64>,
}

/// Measures what `args` names; returns what to print.
///
/// # Errors
/// See [`BenchError`].
pub async fn run(endpoints: &[Endpoint], args: &BenchArgs) -> Result<String, BenchError> {
    let all = [Workload::Put, Workload::Linearizable, Workload::Eventual];
    let workloads = match args.workloads.is_empty() {
        true => &all[..],
        false => &args.workloads,
    };
    let writable = writable(endpoints, args.api).await;
    let mut rows = Vec::new();
    for &workload in workloads {
        let endpoints = match workload {
            Workload::Put => std::slice::from_ref(&writable),
            Workload::Linearizable | Workload::Lease | Workload::Eventual => {
                fill(&writable, args).await?;
                endpoints
            }
        };
        let mut runs = Vec::new();
        for _ in 0..args.runs {
            runs.push(measure(endpoints, workload, args).await?);
        }
        rows.extend(summarise(workload, args, &runs));
    }
    Ok(match args.json {
        // Rows of numbers and text serialise.
        true => serde_json::to_string_pretty(&rows).unwrap_or_default(),
        false => table(&rows),
    })
}

/// Where puts go: to the leader, as the first endpoint knows it.
async fn writable(endpoints: &[Endpoint], api: Api) -> Endpoint {
    let first = &endpoints[0];
    if api == Api::Etcd {
        return first.clone();
    }
    let asked = Outbound::new()
        .send(
            Method::GET,
            &first.join("/members"),
            Bytes::new(),
            LOOK_LIMIT,
        )
        .await;
    let listing: Option<Listing> = asked
        .ok()
        .and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let members = listing.into_iter().flat_map(|listing| listing.members);
    members
        .into_iter()
        .find(|listed| listed.leader)
        .map_or_else(|| first.clone(), |leader| Endpoint::of(leader.member.api))
}

async fn measure(
    endpoints: &[Endpoint],
    workload: Workload,
    args: &BenchArgs,
) -> Result<Run, BenchError> {
    let failed = |endpoint: &Endpoint, source| BenchError::Request {
        workload: workload.name(),
        endpoint: endpoint.join(""),
        source,
    };
    let requests = Arc::new(Requests::new(args.api, workload, KEYS, args.value_bytes));
    let mut connectors: Vec<Connector> = Vec::new();
    for endpoint in endpoints {
        connectors.push(Connector::new(endpoint, args.api));
    }
    let mut clients = JoinSet::new();
    let begin = Instant::now() + WARM_UP;
    let end = begin + args.duration;
    for number in 0..args.clients {
        let place = number % endpoints.len();
        let endpoint = endpoints[place].clone();
        let connection = connectors[place].connect().await;
        let mut connection = connection.map_err(|source| failed(&endpoint, source))?;
        let requests = Arc::clone(&requests);
        clients.spawn(async move {
            let done = drive(&mut connection, &requests, number as u64, begin, end).await;
            done.map_err(|source| (endpoint, source))
        });
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client?.map_err(|(endpoint, source)| failed(&endpoint, source))?);
    }
    if latencies.is_empty() {
        return Err(BenchError::Nothing {
            workload: workload.name(),
            duration: args.duration,
        });
    }
    latencies.sort_unstable_by(f64::total_cmp);
    Ok(Run {
        per_second: latencies.len() as f64 / args.duration.as_secs_f64(),
        latencies,
    })
}

/// One client: returns how long each of its requests took that was answered between `begin` and `end`.
async fn drive(
    connection: &mut Connection,
    requests: &Requests,
    client: u64,
    begin: Instant,
    end: Instant,
) -> Result<Vec<f64>, WireError> {
    let mut latencies = Vec::new();
    // Each client goes through the keys in a different order; a stride that has no factor of their number visits all.
    let mut key = client * 151;
    loop {
        key = (key + 7_919) % KEYS;
        let sent = Instant::now();
        connection.exchange(requests.get(key)).await?;
        let answered = Instant::now();
        if answered >= end {
            return Ok(latencies);
        }
        if answered >= begin {
            latencies.push((answered - sent).as_secs_f64() * 1000.0);
        }
    }
}

/// Writes every key once.
async fn fill(endpoint: &Endpoint, args: &BenchArgs) -> Result<(), BenchError> {
    let requests = Arc::new(Requests::new(
        args.api,
        Workload::Put,
        KEYS,
        args.value_bytes,
    ));
    let failed = |source| BenchError::Request {
        workload: "filling",
        endpoint: endpoint.join(""),
        source,
    };
    let mut connector = Connector::new(endpoint, args.api);
    let mut clients = JoinSet::new();
    let count = args.clients as u64;
    for number in 0..count {
        let mut connection = connector.connect().await.map_err(failed)?;
        let requests = Arc::clone(&requests);
        clients.spawn(async move {
            for key in (number..KEYS).step_by(count as usize) {
                connection.exchange(requests.get(key)).await?;
            }
            Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client?.map_err(failed)?;
    }
    Ok(())
}

fn summarise(workload: Workload, args: &BenchArgs, runs: &[Run]) -> Vec<Row> {
    let row = |what: &str, unit, numbers: Vec<f64>| {
        let mut sorted = numbers;
        sorted.sort_unstable_by(f64::total_cmp);
        let clients = args.clients;
        Row {
            bench: "cluster",
            name: format!("{}{what}, {clients} clients", workload.name()),
            path: match args.api {
                Api::Kv => "raft-node",
                Api::Etcd => "etcd",
            },
            unit,
            median: sorted[sorted.len() / 2],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            runs: sorted.len(),
            ratio_to: None,
            ratio: None,
        }
    };
    let of = |pick: &dyn Fn(&Run) -> f64| runs.iter().map(pick).collect();
    let share =
        |part: f64| move |run: &Run| run.latencies[(run.latencies.len() as f64 * part) as usize];
    vec![
        row("", "requests/s", of(&|run| run.per_second)),
        row(" p50", "ms", of(&share(0.5))),
        row(" p99", "ms", of(&share(0.99))),
    ]
}

fn table(rows: &[Row]) -> String {
    let mut lines = format!(
        "{:<36} {:<10} {:>10} {:>10} {:>10}  {}",
        "NAME", "PATH", "MEDIAN", "MIN", "MAX", "UNIT"
    );
    for row in rows {
        lines.push_str(&format!(
            "\n{:<36} {:<10} {:>10.2} {:>10.2} {:>10.2}  {}",
            row.name, row.path, row.median, row.min, row.max, row.unit
        ));
    }
    lines
}
