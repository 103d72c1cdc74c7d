//! What holds of connections whatever happens to them, in whatever order:
//! random histories through `process`, and the invariants of `steer` after
//! every step.

mod frame;
mod invariants;
mod races;
mod world;

use proptest::prelude::*;

use invariants::{Tables, check_passage, check_tables};
use invariants::{check_established, check_proof, check_time};
use world::{World, happening};

/// Enough for every mistake that was tried, or what PROPTEST_CASES asks for.
fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(1000),
        ..default
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_history_breaks_a_connection_or_leaks_one(
        history in proptest::collection::vec(happening(), 1..120),
    ) {
        let mut world = World::new();
        let mut orphans = invariants::Orphans::default();
        for happening in &history {
            let before = Tables::of(&world);
            let passage = world.let_happen(happening);
            let after = Tables::of(&world);
            orphans.note(happening, &before, &after);
            check_tables(&after, &orphans)?;
            check_established(&world, &before, &after, happening)?;
            if let Some(passage) = passage {
                check_passage(&world, &before, &passage)?;
                check_proof(happening, &passage)?;
                check_time(&world, &after, &passage)?;
            }
        }
    }
}
