//! Rows of what was found: for each scenario what its clients felt, then what
//! it is made of.

use std::collections::BTreeMap;

use super::reads::Disturbance;
use super::scenario::Scenario;
use super::split::Split;
use super::way::Way;
use crate::bench::report::Row;

const BENCH: &str = "failover";
/// Whom the others are compared with.
const COMPARED: Way = Way::Tuned;

/// The rows of a scenario in which the leader is struck.
pub fn outages(scenario: Scenario, splits: &BTreeMap<Way, Vec<Split>>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut figure = |name: &str, unit: &str, of: &dyn Fn(&Split) -> Option<f64>| {
        rows.extend(compared(scenario, name, unit, splits, of));
    };
    figure("writes out", "ms", &|split| Some(split.out));
    figure("last failed write", "ms", &|split| Some(split.last_failure));
    figure("flaps", "writes", &|split| Some(split.flaps as f64));
    figure("idle client told", "ms", &|split| split.told);
    figure("own share", "ms", &|split| Some(split.share()));
    figure("detection", "ms", &|split| Some(split.detection));
    figure("first write", "ms", &|split| Some(split.first_write));
    // HAProxy's tables are its own, and it logs what it has done already.
    let ours = splits.iter().filter(|(way, _)| way.is_ours());
    let ours: BTreeMap<Way, Vec<Split>> =
        ours.map(|(&way, splits)| (way, splits.clone())).collect();
    let mut figure = |name: &str, of: &dyn Fn(&Split) -> Option<f64>| {
        rows.extend(compared(scenario, name, "ms", &ours, of));
    };
    figure("map store", &|split| Some(split.store));
    figure("idle client told, after the flip", &|split| {
        split.told_after_flip
    });
    // All ways see the same one.
    let elections = splits.values().next().into_iter().flatten();
    let elections: Vec<f64> = elections.map(|split| split.election).collect();
    let name = format!("{}: election", scenario.name());
    rows.push(Row::new(BENCH, &name, "raft-node", "ms", &elections));
    rows
}

/// The rows of the scenario that readers feel.
pub fn reads(found: &BTreeMap<Way, Vec<Disturbance>>) -> Vec<Row> {
    let scenario = Scenario::StoppedReplica;
    let figure = |name: &str, unit: &str, of: &dyn Fn(&Disturbance) -> f64| {
        compared(scenario, name, unit, found, &|one| Some(of(one)))
    };
    let mut rows = figure("reads disturbed", "ms", &|one| one.until);
    rows.extend(figure("longest read", "ms", &|one| one.longest));
    rows.extend(figure("failed reads", "reads", &|one| one.failed as f64));
    rows
}

/// How many acknowledged writes were gone in the end.
pub fn lost(scenario: Scenario, way: Way, acknowledged: usize, lost: usize) -> [Row; 2] {
    let row = |name: &str, count: usize| {
        let name = format!("{}: {name}", scenario.name());
        Row::new(BENCH, &name, way.name(), "writes", &[count as f64])
    };
    [row("acknowledged", acknowledged), row("lost", lost)]
}

/// A row for each way that has numbers.
fn compared<T>(
    scenario: Scenario,
    name: &str,
    unit: &str,
    found: &BTreeMap<Way, Vec<T>>,
    of: &dyn Fn(&T) -> Option<f64>,
) -> Vec<Row> {
    let name = format!("{}: {name}", scenario.name());
    let rows = found.iter().filter_map(|(way, found)| {
        let samples: Vec<f64> = found.iter().filter_map(of).collect();
        let row = || Row::new(BENCH, &name, way.name(), unit, &samples);
        (!samples.is_empty()).then(row)
    });
    let rows: Vec<Row> = rows.collect();
    let tuned = rows.iter().find(|row| row.path == COMPARED.name()).cloned();
    let against = |row: Row| match &tuned {
        Some(tuned) if row.path != tuned.path => row.against(tuned, &tuned.path),
        Some(_) | None => row,
    };
    rows.into_iter().map(against).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(out: f64) -> Split {
        Split {
            out,
            last_failure: 0.0,
            election: 400.0,
            detection: 2.0,
            store: 0.5,
            first_write: 5.0,
            told: Some(1.0),
            told_after_flip: None,
            flaps: 0,
        }
    }

    #[test]
    fn ways_stand_side_by_side_with_the_tuned_haproxy() {
        let splits = BTreeMap::from([
            (Way::Push, vec![split(400.0), split(420.0), split(500.0)]),
            (Way::Tuned, vec![split(840.0)]),
        ]);
        let rows = outages(Scenario::Kill, &splits);
        let find = |name: &str, path: &str| {
            let mut rows = rows.iter();
            rows.find(|row| row.name == name && row.path == path)
        };
        let out = find("SIGKILL: writes out", "lb, push").unwrap();
        assert_eq!((out.min, out.median, out.max), (400.0, 420.0, 500.0));
        assert_eq!(out.ratio, Some(0.5));
        assert_eq!(out.ratio_to.as_deref(), Some("HAProxy, tuned"));
        assert_eq!(find("SIGKILL: own share", "lb, push").unwrap().median, 2.5);
        let told = "SIGKILL: idle client told, after the flip";
        assert!(find(told, "lb, push").is_none(), "there is no sample");
        assert!(find("SIGKILL: map store", "HAProxy, tuned").is_none());
        let election = find("SIGKILL: election", "raft-node").unwrap();
        assert_eq!(election.runs, 3);
    }
}
