//! How much of the kernel's slot table a service needs.
//!
//! `lb check` adds up what the agent will reserve, so that a configuration
//! which is accepted also fits. Rooms are powers of two, aligned to their
//! size: taken first fit, they leave no gap that another could not use.

use super::{Algorithm, Route, Server};

/// The size of a table for consistent hashing: a prime, 2 modulo 3, and the
/// largest one that leaves room for the ids of 1024 servers behind the table
/// in 16384 slots. Half as many slots would be too few for what
/// `engine::maglev` promises: that one of ten servers leaves, and 1 % of the
/// others' slots move at most.
pub const MAGLEV_SLOTS: u32 = 15_359;

/// The longest sequence of weighted turns.
pub const SEQUENCE_SLOTS_MAX: u32 = 16_384;

/// The slots that a service of these servers needs for one of its two halves;
/// for one that goes to the leader, the one slot that it has.
#[must_use]
pub fn half(route: Route, algorithm: Algorithm, servers: &[Server]) -> u32 {
    if route == Route::Leader {
        return 1;
    }
    let members = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let table = if algorithm.hashes() {
        MAGLEV_SLOTS
    } else {
        let turns: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
        // Scaled down, a sequence still has a turn for everybody.
        let longest = SEQUENCE_SLOTS_MAX.max(members);
        u32::try_from(turns).map_or(longest, |turns| turns.min(longest))
    };
    table.saturating_add(members).next_power_of_two()
}

/// The slots that such a service takes in all.
#[must_use]
pub fn reserved(route: Route, algorithm: Algorithm, servers: &[Server]) -> u64 {
    let half = u64::from(half(route, algorithm, servers));
    if route == Route::Leader {
        half
    } else {
        2 * half
    }
}
