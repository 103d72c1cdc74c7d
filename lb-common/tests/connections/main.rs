//! What holds of connections whatever happens to them, in whatever order:
//! random histories through `process`, and the invariants of `steer` after
//! every step. And single stories, where the policy is a choice.

mod accounts;
mod admission;
mod choosing;
mod frame;
mod handshakes;
mod interrupted;
mod invariants;
mod races;
mod world;

use lb_common::addr::{Ipv4, Ipv6};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use frame::Family;
use invariants::{Moment, Orphans};
use world::{Happening, Setup, World, happening, setup};

/// Enough for every mistake that was tried, or what PROPTEST_CASES asks for.
fn cases(least: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(least),
        ..default
    }
}

fn histories() -> impl Strategy<Value = Vec<Happening>> {
    proptest::collection::vec(happening(), 1..120)
}

fn live<A: Family>(setup: Setup, history: &[Happening]) -> Result<(), TestCaseError> {
    let mut world = World::<A>::new(setup);
    let mut orphans = Orphans::default();
    for happening in history {
        let before = Moment::of(&world);
        let passage = world.let_happen(happening);
        let after = Moment::of(&world);
        orphans.note(&world, happening, &before, &after);
        invariants::check_tables(&world, &after, &orphans)?;
        invariants::check_accounts(&world, &after)?;
        invariants::check_established(&world, &before, &after, happening)?;
        if let Some(passage) = passage {
            invariants::check_passage(&world, &before, &passage)?;
            invariants::check_admission(&world, &before, &passage)?;
            invariants::check_proof(happening, &passage)?;
            invariants::check_time(&world, &after, &passage)?;
        }
    }
    invariants::check_end(&mut world)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_history_breaks_an_ipv4_connection_or_leaks_one(
        setup in setup(), history in histories(),
    ) {
        live::<Ipv4>(setup, &history)?;
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn no_history_breaks_an_ipv6_connection_or_leaks_one(
        setup in setup(), history in histories(),
    ) {
        live::<Ipv6>(setup, &history)?;
    }
}
