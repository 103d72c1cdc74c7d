//! A replica is stopped (SIGSTOP) while clients read through every way: its
//! kernel accepts their connections, and nobody answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Site;
use super::scenario::Scenario;
use super::split::millis;
use super::way::Way;
use crate::http;
use crate::patience::pause;
use crate::traffic::Failure;
use crate::traffic::sampling::{Sample, Sampler};

/// How long the slowest way may take, in either direction.
const PATIENCE: Duration = Duration::from_secs(45);
/// How many read at once through one way: one may hang.
const READERS: usize = 3;
/// Between two reads of one of them.
const PAUSE: Duration = Duration::from_millis(15);
/// How long a reader waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Reads go on for so long before anything happens, and after all is well.
const CALM: Duration = Duration::from_millis(300);

/// What the readers of one way saw in one round, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disturbance {
    /// Whose.
    pub way: Way,
    /// From the stroke to the end of the last read that failed; 0: none did.
    pub until: f64,
    /// The longest read.
    pub longest: f64,
    /// How many failed.
    pub failed: usize,
}

/// Runs a round.
pub fn run(site: &mut Site, round: usize) -> Result<Vec<Disturbance>> {
    let scenario = Scenario::StoppedReplica;
    let leader = site.settle()?;
    let replicas: BTreeSet<usize> = site.cluster.ids().filter(|&id| id != leader).collect();
    for lane in &mut site.lanes {
        lane.wait_for_readers(&replicas, PATIENCE)?;
    }
    // One and the other in turn.
    let stopped = replicas.iter().nth(round % replicas.len());
    let stopped = *stopped.expect("a cluster of three has replicas");
    let others = replicas
        .iter()
        .copied()
        .filter(|&id| id != stopped)
        .collect();

    let client = site.lab.client();
    let readers: Vec<Vec<Sampler<Result<(), Failure>>>> = site
        .lanes
        .iter()
        .map(|lane| {
            let target = lane.way.read();
            let start = |_| Sampler::start(client, PAUSE, move || read(target));
            (0..READERS).map(start).collect()
        })
        .collect();
    pause(CALM);
    let struck = Instant::now();
    scenario.strike(&site.lab, &mut site.cluster, stopped)?;
    for lane in &mut site.lanes {
        lane.wait_for_readers(&others, PATIENCE)?;
    }
    pause(TIMEOUT + CALM);
    let mut found = Vec::new();
    for (lane, readers) in site.lanes.iter().zip(readers) {
        let samples: Vec<_> = readers.into_iter().flat_map(Sampler::stop).collect();
        ensure!(
            samples
                .iter()
                .any(|sample| sample.begun < struck && sample.seen.is_ok()),
            "no read goes through {}",
            lane.way.name()
        );
        found.push(disturbance(lane.way, struck, &samples));
    }
    scenario.heal(&site.lab, &mut site.cluster, stopped)?;
    site.cluster.wait_until_settled(PATIENCE)?;
    Ok(found)
}

fn read(target: std::net::SocketAddrV4) -> Result<(), Failure> {
    let answer = http::get(target, "/kv/none?consistency=eventual", TIMEOUT)?;
    match answer.status {
        // There is no such key.
        404 => Ok(()),
        status => Err(Failure::Status(status)),
    }
}

fn disturbance(way: Way, struck: Instant, samples: &[Sample<Result<(), Failure>>]) -> Disturbance {
    let after = || samples.iter().filter(|sample| sample.ended >= struck);
    let failed = || after().filter(|sample| sample.seen.is_err());
    let greatest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0, f64::max);
    Disturbance {
        way,
        until: greatest(&mut failed().map(|sample| millis(struck, sample.ended))),
        longest: greatest(&mut after().map(|sample| millis(sample.begun, sample.ended))),
        failed: failed().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_disturbed_until_the_last_failure_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let sample = |begun, ended, seen| Sample {
            begun: at(begun),
            ended: at(ended),
            seen,
        };
        let samples = [
            sample(0, 10, Err(Failure::Refused)),
            sample(90, 350, Err(Failure::Reset)),
            sample(110, 112, Ok(())),
            sample(120, 340, Err(Failure::Reset)),
            sample(400, 420, Ok(())),
        ];
        let found = disturbance(Way::Poll, at(100), &samples);
        let expected = Disturbance {
            way: Way::Poll,
            until: 250.0,
            longest: 260.0,
            failed: 2,
        };
        assert_eq!(found, expected);
        let calm = disturbance(Way::Poll, at(400), &samples[4..]);
        assert_eq!((calm.until, calm.failed), (0.0, 0));
    }
}
