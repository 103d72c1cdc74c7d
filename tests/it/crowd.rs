//! An agent whose table holds a million flows: what it takes to sweep them, to
//! forget them all at once, and to list a few of them.

use std::time::Duration;

use lb_tests::bench::crowd::{Crowd, Findings, SweepReport, measure};
use lb_tests::patience::wait_until;
use lb_tests::privileged;

/// Two flows each.
const CONNECTIONS: u32 = 500_000;
/// A flow and its key.
const ENTRY_BYTES: f64 = 76.0;

#[test]
fn a_million_flows_are_swept_listed_and_forgotten_at_once() {
    privileged!();
    let Findings {
        resting,
        reaping,
        forgotten,
        reaping_mebibytes,
        slowest_status,
        open,
        listings,
    } = measure(CONNECTIONS).unwrap();
    println!("at rest: {resting:?}\nat most: {reaping:?}, {reaping_mebibytes:.1} MiB more");
    println!("{forgotten} forgotten; `lb status` answered within {slowest_status:?}");
    for (name, listing) in &listings {
        println!(
            "{name}: {:?}, agent {:.1} MiB more, CLI {:.1} MiB",
            listing.took, listing.agent_mebibytes, listing.cli_mebibytes
        );
    }
    // The one connection that was real is counted too.
    assert!(forgotten >= u64::from(CONNECTIONS));
    assert_eq!(open, (0, 0));
    for sweep in [resting, reaping] {
        assert!(sweep.cpu < Duration::from_secs(1), "{sweep:?}");
        assert!(
            sweep.longest_slice < Duration::from_millis(100),
            "{sweep:?}"
        );
    }
    assert!(
        slowest_status < Duration::from_secs(1),
        "{slowest_status:?}"
    );

    // What the table's entries would take.
    let table = f64::from(CONNECTIONS) * 2.0 * ENTRY_BYTES / f64::from(1 << 20);
    assert!(reaping_mebibytes < table / 4.0, "{reaping_mebibytes} MiB");
    for (name, listing) in listings {
        assert!(listing.agent_mebibytes < table / 10.0, "{name}");
        assert!(listing.cli_mebibytes < table / 4.0, "{name}");
        let (flows, total) = (&listing.flows.flows, listing.flows.total);
        let (shown, all) = match name {
            "one client's" => (10, 1 << 14),
            "a thousand of one server's" => (1000, u64::from(CONNECTIONS)),
            _ => (10, u64::from(CONNECTIONS)),
        };
        assert_eq!(flows.len(), shown, "{name}");
        assert!((all..all + 4).contains(&total), "{name}: {total}");
    }
}

/// More than one sweep forgets.
const HANDSHAKES: u32 = 200_000;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn handshakes_of_a_flood_are_forgotten_in_slices() {
    privileged!();
    let mut crowd = Crowd::start(HANDSHAKES, "1h", "timeouts = { half_open = \"1s\" }").unwrap();
    let ahead = Duration::from_secs(10);
    crowd.fill_handshakes(ahead).unwrap();
    let all = u64::from(HANDSHAKES) * 2;
    let mut sweeps = crowd.sweeps();
    let gone = wait_until(PATIENCE, || {
        sweeps = crowd.sweeps();
        let full = sweeps.iter().position(|sweep| sweep.pending >= all);
        full.is_some_and(|full| sweeps[full..].iter().any(|sweep| sweep.pending == 0))
    });
    assert!(gone, "{sweeps:?}");
    let slowest: &dyn Fn(fn(&SweepReport) -> Duration) -> Duration =
        &|of| sweeps.iter().map(of).max().unwrap();
    let (cpu, slice) = (slowest(|sweep| sweep.cpu), slowest(|s| s.longest_slice));
    println!("{all} entries: at most {cpu:?} a sweep, {slice:?} a slice");
    assert!(cpu < Duration::from_millis(500), "{cpu:?}");
    assert!(slice < Duration::from_millis(50), "{slice:?}");
}

#[test]
fn a_connection_without_a_reply_flow_costs_a_sweep_no_look_at_all_others() {
    privileged!();
    const CONNECTIONS: u32 = 100_000;
    let mut crowd = Crowd::start(CONNECTIONS, "1h", "timeouts = { fin = \"1s\" }").unwrap();
    crowd.fill(Duration::ZERO).unwrap();
    let whole = least_of_further_sweeps(&crowd);
    crowd.lose_a_reply().unwrap();
    let lone = least_of_further_sweeps(&crowd);
    println!("{CONNECTIONS} connections: {whole:?} a sweep; one of them without a reply: {lone:?}");
    assert!(lone < whole * 3 / 2, "{lone:?} for {whole:?}");
}

/// What the cheapest of a few more sweeps takes, of which the first may be half
/// over.
fn least_of_further_sweeps(crowd: &Crowd) -> Duration {
    let before = crowd.sweeps().len() + 1;
    let more = || crowd.sweeps().len() >= before + 4;
    assert!(wait_until(PATIENCE, more), "{:?}", crowd.sweeps());
    let sweeps = &crowd.sweeps()[before..];
    sweeps.iter().map(|sweep| sweep.cpu).min().unwrap()
}
