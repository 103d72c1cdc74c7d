//! A client, a balancer and a server in a lab: connections, requests and bytes
//! a second for each way from one to the other.
//!
//! Rounds are interleaved: each goes through all ways, each way in a lab that
//! is made for it. All three share the machine's CPUs with the load generator,
//! so that a rate is one over the CPU time that the whole way takes.

use std::thread;

use anyhow::{Context as _, Result};

use super::Effort;
use super::load::{BULK, Backend, Connections, HTTP, bulk, requests, wait_for_port};
use super::peers::Way;
use super::report::Row;
use crate::lab::{Lab, joined};
use crate::patience::interrupted;

/// What is measured of each way: a name and a unit.
const FIGURES: [(&str, &str); 8] = [
    ("connections", "1/s"),
    ("keep-alive requests", "1/s"),
    ("keep-alive p50", "us"),
    ("keep-alive p99", "us"),
    ("bulk", "Gbit/s"),
    ("CPU per connection", "us"),
    ("CPU per keep-alive request", "us"),
    ("errors of wrk", "count"),
];

/// One round's numbers of one way, in the order of [`FIGURES`].
type Numbers = [f64; FIGURES.len()];

/// Measures every way.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    // wrk takes a second at least: a smoke has all ways at a time.
    let (rounds, seconds, abreast) = match effort {
        Effort::Full => (5, 5, 1),
        Effort::Quick => (3, 1, 1),
        Effort::Smoke => (1, 1, Way::ALL.len()),
    };
    let mut samples: Vec<Vec<Numbers>> = vec![Vec::new(); Way::ALL.len()];
    'rounds: for _ in 0..rounds {
        for (ways, samples) in Way::ALL.chunks(abreast).zip(samples.chunks_mut(abreast)) {
            let found = side_by_side(ways, seconds);
            if interrupted() {
                break 'rounds;
            }
            for (numbers, samples) in found.into_iter().zip(samples) {
                samples.push(numbers?);
            }
        }
    }
    Ok(rows(&samples))
}

/// Each way in a lab of its own, all at once.
fn side_by_side(ways: &[Way], seconds: u64) -> Vec<Result<Numbers>> {
    let one =
        |way: Way| measure(way, seconds).with_context(|| format!("the way of {}", way.name()));
    thread::scope(|scope| {
        let threads: Vec<_> = ways
            .iter()
            .map(|&way| scope.spawn(move || one(way)))
            .collect();
        let found = threads.into_iter().map(|thread| joined(thread.join()));
        found.collect()
    })
}

fn measure(way: Way, seconds: u64) -> Result<Numbers> {
    let lab = Lab::new(&way.spec())?;
    let _backend = Backend::start(&lab)?;
    for port in [HTTP, BULK] {
        wait_for_port(&lab, Way::Direct.entrance(port))?;
    }
    let _between = way.start(&lab)?;
    let (http, bytes) = (way.entrance(HTTP), way.entrance(BULK));
    wait_for_port(&lab, http)?;
    let kept = requests(&lab, http, Connections::KeptAlive, seconds)?;
    let gigabits = bulk(&lab, bytes, seconds)?;
    let short = requests(&lab, http, Connections::Short, seconds)?;
    Ok([
        short.rate,
        kept.rate,
        kept.p50,
        kept.p99,
        gigabits,
        short.cpu,
        kept.cpu,
        short.errors + kept.errors,
    ])
}

/// The rows of one figure stand together, the direct way's first.
fn rows(samples: &[Vec<Numbers>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (index, (name, unit)) in FIGURES.into_iter().enumerate() {
        let first = rows.len();
        for (way, samples) in Way::ALL.into_iter().zip(samples) {
            let samples: Vec<f64> = samples.iter().map(|numbers| numbers[index]).collect();
            let row = Row::new("e2e", name, way.name(), unit, &samples);
            let row = match rows.get(first) {
                Some(direct) => row.against(direct, direct.path.clone().as_str()),
                None => row,
            };
            rows.push(row);
        }
    }
    rows
}
