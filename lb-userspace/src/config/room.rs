//! How much of the kernel's slot table a service needs.
//!
//! The table is made as large as the configuration needs. Rooms are powers of
//! two, aligned to their size: taken first fit, they leave no gap that another
//! could not use.

use lb_common::service::SLOTS_MIN;

use super::{Algorithm, Config, MEMBERS_MAX, Pool, Route};

/// The size of a table for consistent hashing: a prime, 2 modulo 3, and the
/// largest one that leaves room for the ids of 1024 servers behind the table
/// in 16384 slots. Half as many slots would be too few for what
/// `engine::maglev` promises: that one of ten servers leaves, and 1 % of the
/// others' slots move at most.
pub const MAGLEV_SLOTS: u32 = 15_359;

/// The longest sequence of weighted turns.
pub const SEQUENCE_SLOTS_MAX: u32 = 16_384;

/// The parts that one unit of weight is divided into: where an agent may ask
/// for a part of its server's weight, or a server starts slowly, hundredths of
/// it.
#[must_use]
pub fn grain(pool: &Pool) -> u32 {
    let mut servers = pool.servers.iter();
    let has_agent = servers.any(|server| server.agent_address.is_some());
    if has_agent || pool.slow_start.is_some() {
        100
    } else {
        1
    }
}

/// The slots that a service of this pool needs for one of its two halves; for
/// one that goes to the leader, the one slot that it has.
#[must_use]
pub fn half(route: Route, algorithm: Algorithm, pool: &Pool) -> u32 {
    if route == Route::Leader {
        return 1;
    }
    let (servers, grain) = (&pool.servers, grain(pool));
    // Whoever may join finds room.
    let joining = pool.discover.as_ref().map_or(0, |_| MEMBERS_MAX);
    let members = u32::try_from(servers.len().max(joining)).unwrap_or(u32::MAX);
    let table = if algorithm.hashes() {
        MAGLEV_SLOTS
    } else {
        let turns = servers
            .iter()
            .map(|server| u64::from(server.weight) * u64::from(grain));
        let turns = turns.sum::<u64>().max(joining as u64 * u64::from(grain));
        // Scaled down, a sequence still has a turn for everybody.
        let longest = SEQUENCE_SLOTS_MAX.max(members);
        u32::try_from(turns).map_or(longest, |turns| turns.min(longest))
    };
    table.saturating_add(members).next_power_of_two()
}

/// The slots that a service with halves of this length takes in all.
#[must_use]
pub fn reserved(route: Route, half: u32) -> u64 {
    if route == Route::Leader {
        u64::from(half)
    } else {
        2 * u64::from(half)
    }
}

/// How many entries SLOTS has where services take so many of them: a power of
/// two, so that rooms fit in any order. There is no more than that to ask for:
/// as many services and targets as there may be take less than 2^26.
#[must_use]
pub fn capacity(reserved: impl Iterator<Item = u64>) -> u32 {
    let entries = reserved.sum::<u64>().next_power_of_two();
    u32::try_from(entries).unwrap_or(u32::MAX).max(SLOTS_MIN)
}

/// How many entries SLOTS has for a configuration.
#[must_use]
pub fn slots(config: &Config) -> u32 {
    let services = config.services.values();
    capacity(services.filter_map(|service| {
        let pool = config.pools.get(&service.pool)?;
        let half = half(service.route, service.algorithm, pool);
        Some(reserved(service.route, half))
    }))
}
