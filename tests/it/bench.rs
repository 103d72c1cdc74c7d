//! The benchmarks run, and write what they promise; what they find is no
//! ground to fail a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lb_tests::bench::failover::scenario::Scenario;
use lb_tests::bench::report::{Row, read, write};
use lb_tests::bench::{Effort, failover, micro};
use lb_tests::privileged;
use serde_json::Value;

const FIELDS: [&str; 10] = [
    "bench", "name", "path", "unit", "median", "min", "max", "runs", "ratio_to", "ratio",
];

#[test]
fn bench_micro_writes_rows_of_all_fields() {
    privileged!();
    let rows = micro::run(Effort::Smoke).expect("the benchmark runs");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let file = write(&directory, "micro", &rows).expect("it can be written");
    let names = |rows: &[Row]| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
    let back = read(&file).expect("it holds what it promises");
    assert_eq!(names(&back), names(&rows));

    let text = fs::read_to_string(&file).expect("it is there");
    let written: Vec<Value> = serde_json::from_str(&text).expect("it is an array");
    for row in &written {
        let row = row.as_object().expect("a row is an object");
        let fields: BTreeSet<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(FIELDS));
    }
    let named = |path: &str, name: &str| {
        let mut rows = rows.iter();
        rows.find(|row| row.path == path && row.name.starts_with(name))
    };
    for (path, family) in [
        ("xdp", "IPv4"),
        ("tc", "IPv4"),
        ("xdp", "IPv6"),
        ("tc", "IPv6"),
    ] {
        for what in [
            "MAC swap + TX",
            "forward, 1k",
            "reply, 1k",
            "SYN accepted in a flood, 1k",
            "SYN refused",
            "not ours, another address",
            "not ours, no service",
        ] {
            let name = format!("{family}: {what}");
            let row = named(path, &name).unwrap_or_else(|| panic!("no row {name} at {path}"));
            assert_eq!((row.unit.as_str(), row.runs), ("ns", 1), "{row:?}");
        }
        let room = named(path, &format!("{family}: SYN accepted, 1k"));
        assert!(room.is_some_and(|row| row.unit == "ns" && row.ratio.is_some()));
        // The harness really runs what it is told to: a look-up is not free.
        let forward = named(path, &format!("{family}: forward"));
        assert!(forward.is_some_and(|row| row.median > 2.0));
    }
    for family in ["IPv4", "IPv6"] {
        for what in ["bare look-up, 1k", "bare look-up, used, 1k"] {
            assert!(named("xdp", &format!("{family}: {what}")).is_some());
        }
    }
    for program in ["lb", "lb_tc", "lb_egress", "lb_reap_v4", "lb_reap_v6"] {
        let name = format!("{program}: verified instructions");
        assert!(
            rows.iter()
                .any(|row| row.name == name && row.median > 100.0)
        );
    }
}

#[test]
fn bench_failover_splits_an_outage_and_loses_no_write() {
    privileged!();
    let figures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let scenarios = [Scenario::Kill, Scenario::Handover, Scenario::StoppedReplica];
    let rows = failover::run(Effort::Smoke, &scenarios, &figures).expect("the benchmark runs");
    let file = write(&figures, "failover", &rows).expect("it can be written");
    let back = read(&file).expect("it holds what it promises");
    assert_eq!(back.len(), rows.len());
    let find = |name: &str, path: &str| {
        let mut rows = rows.iter();
        rows.find(|row| row.name == name && row.path == path)
            .unwrap_or_else(|| panic!("no row {name} of {path} in {rows:#?}"))
    };
    for path in ["lb, push", "lb, poll"] {
        for scenario in ["SIGKILL", "handover"] {
            let median = |name: &str| find(&format!("{scenario}: {name}"), path).median;
            assert!(median("acknowledged") > 0.0, "nothing was written");
            assert_eq!(median("lost"), 0.0, "{scenario}, {path}");
            // What it is made of is all of it.
            let election = find(&format!("{scenario}: election"), "raft-node").median;
            let parts = election + median("own share") + median("first write");
            assert!((parts - median("writes out")).abs() < 0.01, "{rows:#?}");
        }
        assert!(find("SIGSTOP of a replica: reads disturbed", path).median >= 0.0);
    }
    for scenario in ["SIGKILL", "handover"] {
        let figure = figures.join(format!("failover-{scenario}-timeline.svg"));
        assert!(figure.is_file(), "{}", figure.display());
    }
}
