//! Everything goes wrong at once, for half a minute each: see [`lb_tests::chaos`].
//!
//! `LB_CHAOS_SEED` chooses other faults; `cargo xtask chaos` goes on for longer.

use std::env;
use std::path::Path;
use std::time::Duration;

use lb_tests::chaos::episode::{Plan, run};
use lb_tests::privileged;

/// An odd one has the nodes' `/watch`, an even one checks alone.
const SEEDS: [u64; 2] = [1, 2];

#[test]
fn what_clients_saw_is_linearizable_whatever_is_done_to_nodes_links_and_lb() {
    privileged!();
    let seed = env::var("LB_CHAOS_SEED").ok();
    let seed = seed.map(|seed| seed.parse().expect("LB_CHAOS_SEED is a number"));
    for seed in seed.map_or(SEEDS.to_vec(), |seed| vec![seed]) {
        println!("LB_CHAOS_SEED={seed}");
        let plan = Plan {
            seed,
            faults: Duration::from_secs(25),
            out: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/chaos"),
        };
        match run(&plan, &mut |what| println!("{what}")) {
            Ok(summary) => println!("{summary}"),
            Err(error) => panic!("seed {seed}: {error:#}"),
        }
    }
}
