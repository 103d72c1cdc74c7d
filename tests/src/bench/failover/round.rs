//! One round: the leader is struck while a client writes through every way at
//! once, another one waits at every way, and all that happens is noted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Site;
use super::decision::Decision;
use super::idle::Idle;
use super::scenario::Scenario;
use super::way::Way;
use crate::patience::pause;
use crate::traffic::writes::{Attempt, Plan, WriteStream};

/// How long the slowest way may take: three checks of five seconds each, three
/// seconds between them, and then two more.
const PATIENCE: Duration = Duration::from_secs(45);
/// Writes go on for so long before anything happens, and after all is well.
const CALM: Duration = Duration::from_millis(500);
/// So many acknowledgements show that writes go on.
const RESUMED: usize = 20;

/// What was seen of one way in one round.
#[derive(Debug)]
pub struct Observed {
    /// Which.
    pub way: Way,
    /// When the scenario began.
    pub struck: Instant,
    /// Who led until then.
    pub old: usize,
    /// When another node said that it leads, and which.
    pub elected: (Instant, usize),
    /// What the balancer decided from then on.
    pub decisions: Vec<Decision>,
    /// Every write, in the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// When the client was told that only waited.
    pub told: Option<Instant>,
}

/// Runs a round; what each way made of it.
pub fn run(site: &mut Site, scenario: Scenario, round: usize) -> Result<Vec<Observed>> {
    let old = site.settle()?;
    let client = site.lab.client().clone();
    let mut streams = Vec::new();
    let mut idle = Vec::new();
    for lane in &site.lanes {
        let plan = Plan {
            prefix: format!("{}-{round}-{}", scenario.slug(), lane.way.slug()),
            writers: 1,
            pause: Duration::from_millis(10),
            retry: Duration::from_millis(4),
            duration_max: 2 * PATIENCE,
            ..Plan::steady("")
        };
        let (write, name) = (lane.way.write(), lane.way.name());
        idle.push(Idle::connect(&client, write, old).context(name)?);
        streams.push(WriteStream::start(&client, write, &plan));
    }
    must_go_on(site, &streams)?;
    pause(CALM);

    let struck = Instant::now();
    scenario.strike(&site.lab, &mut site.cluster, old)?;
    let elected = site.await_election(struck, old, PATIENCE)?;
    for lane in &mut site.lanes {
        lane.wait_for_writer(elected.1, PATIENCE)?;
    }
    must_go_on(site, &streams)?;
    scenario.heal(&site.lab, &mut site.cluster, old)?;
    site.cluster.wait_until_settled(PATIENCE)?;
    pause(CALM);

    let mut observed = Vec::new();
    for ((lane, stream), idle) in site.lanes.iter_mut().zip(streams).zip(idle) {
        let attempts = stream.stop().attempts;
        lane.refresh()?;
        observed.push(Observed {
            way: lane.way,
            struck,
            old,
            elected,
            decisions: lane.decisions_since(struck),
            attempts,
            told: idle.stop(),
        });
    }
    Ok(observed)
}

fn must_go_on(site: &Site, streams: &[WriteStream]) -> Result<()> {
    for (lane, stream) in site.lanes.iter().zip(streams) {
        let goes_on = stream.wait_for_more(RESUMED, PATIENCE);
        ensure!(goes_on, "no write goes through {}", lane.way.name());
    }
    Ok(())
}
