//! The benchmarks run, and write what they promise; what they find is no
//! ground to fail a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lb_tests::bench::failover::scenario::Scenario;
use lb_tests::bench::report::{Row, read, write};
use lb_tests::bench::{Effort, cluster, e2e, failover, micro, pps, probes, scale, stalls};
use lb_tests::privilege::installed;
use lb_tests::privileged;
use serde_json::Value;

const FIELDS: [&str; 10] = [
    "bench", "name", "path", "unit", "median", "min", "max", "runs", "ratio_to", "ratio",
];

/// Name, path and unit of a row.
type Promise = (String, String, String);

fn promise(name: impl Into<String>, path: &str, unit: &str) -> Promise {
    (name.into(), path.into(), unit.into())
}

/// What `rows` are about, as a file of theirs has them. Their numbers must be
/// some, and only what `may_be_nothing` may be zero.
fn kept(bench: &str, rows: &[Row], may_be_nothing: impl Fn(&Row) -> bool) -> BTreeSet<Promise> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let file = write(&directory, bench, rows).expect("it can be written");
    // What is no number is null there, and refused.
    let back = read(&file).expect("it holds what it promises");
    for row in &back {
        assert_eq!(row.bench, bench);
        assert!(row.median > 0.0 || may_be_nothing(row), "{row:?}");
    }
    let about = |row: &Row| promise(&row.name, &row.path, &row.unit);
    let kept: BTreeSet<Promise> = back.iter().map(about).collect();
    assert_eq!(kept.len(), rows.len(), "a row is there twice: {rows:#?}");
    kept
}

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

#[test]
fn bench_e2e_takes_every_way() {
    privileged!();
    if !installed(&["haproxy", "nginx", "nft", "wrk", "iperf3"]) {
        return;
    }
    let rows = e2e::run(Effort::Smoke).expect("the benchmark runs");
    let kept = kept("e2e", &rows, |row| row.name == "errors of wrk");
    let mut promised = BTreeSet::new();
    for path in [
        "direct",
        "redirect only, xdp-native",
        "redirect only, xdp-generic",
        "redirect only, tc",
        "lb xdp-native",
        "lb xdp-generic",
        "lb tc",
        "nftables DNAT+SNAT",
        "HAProxy TCP",
        "nginx stream",
    ] {
        for (name, unit) in [
            ("connections", "1/s"),
            ("keep-alive requests", "1/s"),
            ("keep-alive p50", "us"),
            ("keep-alive p99", "us"),
            ("bulk", "Gbit/s"),
            ("CPU per connection", "us"),
            ("CPU per keep-alive request", "us"),
            ("errors of wrk", "count"),
        ] {
            promised.insert(promise(name, path, unit));
        }
    }
    assert_eq!(kept, promised);
}

#[test]
fn bench_scale_fills_a_table_and_has_an_agent_serve() {
    privileged!();
    let rows = scale::run(Effort::Smoke).expect("the benchmark runs");
    // The CPU time comes in ticks; a look-up is near to what is taken away.
    let small = |row: &Row| row.name.starts_with("CPU ") || row.name.contains(": bare look-up");
    let kept = kept("scale", &rows, small);
    let mut promised = BTreeSet::new();
    for family in ["IPv4", "IPv6"] {
        for (what, unit) in [
            ("bare look-up", "ns"),
            ("bare look-up, used", "ns"),
            ("forward", "ns"),
            ("reply", "ns"),
            ("memory of a connection", "B"),
            ("filling two tables", "s"),
        ] {
            let name = format!("{family}: {what}, 1000 connections");
            promised.insert(promise(name, "xdp", unit));
        }
    }
    for (what, unit) in [
        ("start to serving", "s"),
        ("CPU until then", "s"),
        ("a server leaves", "s"),
        ("CPU until it has left", "s"),
        ("CPU at rest", "% of a core"),
        ("RSS", "MiB"),
    ] {
        let name = format!("{what}, 1 x 32 targets");
        promised.insert(promise(name, "agent", unit));
    }
    assert_eq!(kept, promised);
}

#[test]
fn bench_pps_sends_through_a_driver() {
    privileged!();
    let rows = pps::run(Effort::Smoke).expect("the benchmark runs");
    let mut promised = BTreeSet::new();
    for family in ["IPv4", "IPv6"] {
        for what in [
            "MAC swap + TX",
            "forward, one connection",
            "reply, one connection",
            "forward, 1000 connections",
            "SYN refused",
        ] {
            promised.insert(promise(format!("{family}: {what}"), "veth native", "Mpps"));
        }
    }
    assert_eq!(kept("pps", &rows, |_| false), promised);
}

#[test]
fn bench_probes_measures_each_kind_of_check() {
    privileged!();
    let rows = probes::run(Effort::Smoke).expect("the benchmark runs");
    let mut promised = BTreeSet::new();
    for (path, what) in [
        ("bare loop", "connect"),
        ("agent", "connect"),
        ("agent", "connect and service port"),
        ("agent", "page"),
        ("agent", "page and service port"),
        ("agent", "role"),
        ("agent", "role and service port"),
    ] {
        let name = format!("{what}, 20 servers a second");
        promised.insert(promise(name, path, "% of a core"));
    }
    // The agent's CPU time comes in ticks.
    let kept = kept("probes", &rows, |row| row.path == "agent");
    assert_eq!(kept, promised);
}

#[test]
fn bench_cluster_asks_both_clusters() {
    privileged!();
    if !installed(&["etcd", "etcdctl"]) {
        return;
    }
    let rows = cluster::run(Effort::Smoke).expect("the benchmark runs");
    let mut promised = BTreeSet::new();
    for path in ["raft-node", "etcd"] {
        for workload in ["put", "get linearizable", "get eventual"] {
            for (what, unit) in [("", "requests/s"), (" p50", "ms"), (" p99", "ms")] {
                let name = format!("{workload}{what}, 64 clients");
                promised.insert(promise(name, path, unit));
            }
        }
    }
    assert_eq!(kept("cluster", &rows, |_| false), promised);
}

#[test]
fn bench_stalls_connects_through_every_hook() {
    privileged!();
    let rows = stalls::run(Effort::Smoke).expect("the benchmark runs");
    let happens =
        |row: &Row| row.name == "connections answered" || row.name == "ActiveOpens, clients";
    let kept = kept("stalls", &rows, |row| !happens(row));
    for path in ["xdp-native", "xdp-generic", "tc"] {
        let mut promised = BTreeSet::from([promise("ActiveOpens, clients", path, "times")]);
        for name in ["connections answered", "failed", "took more than 900 ms"] {
            promised.insert(promise(name, path, "connections"));
        }
        for name in [
            "syn_retransmitted",
            "syn_unanswered",
            "handshake_lost",
            "unknown_flow",
            "ports_exhausted",
        ] {
            promised.insert(promise(name, path, "packets"));
        }
        let missing: Vec<&Promise> = promised.difference(&kept).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let count = |name: &str| {
            let mut rows = rows.iter();
            let row = rows.find(|row| row.path == path && row.name == name);
            row.map_or(0.0, |row| row.median)
        };
        let connections = count("connections answered") + count("failed");
        assert_eq!(connections, 800.0, "{path}");
    }
}
