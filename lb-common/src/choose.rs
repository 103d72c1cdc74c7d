//! Which target a new connection goes to. Every algorithm is a way to pick
//! slots from the service's table; the table itself is the agent's work.

use crate::addr::Address;
use crate::flow::Tick;
use crate::select::{self, below};
use crate::service::{Algorithm, Service, SourceKey};
use crate::tables::{Affinity, Tables};
use crate::target::{Generation, Load, TargetId};
use crate::verdict::Reason;
use crate::wire::frame::Segment;

/// How many of a service's targets are looked at, one after the other, where
/// the selected one is full.
const OVERFLOW_ATTEMPTS: u32 = 16;

/// A target that takes a new connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// The target's number.
    pub id: TargetId,
    /// Its generation, read before anything else of it.
    pub generation: Generation,
    /// The index of the slot that it was picked from, or [`Self::NO_SLOT`].
    pub slot: u32,
}

impl Choice {
    /// In `slot`: it was not picked from a slot.
    pub const NO_SLOT: u32 = u32::MAX;
}

/// Whether a target takes another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    /// It does.
    Free,
    /// It has as many as it takes.
    Full,
    /// There is no target, or it gets no new connections.
    Absent,
}

#[inline(always)]
fn room<A: Address, T: Tables<A>>(tables: &T, id: TargetId) -> Room {
    let Some(target) = tables.target(id).filter(|target| target.installed()) else {
        return Room::Absent;
    };
    if id == TargetId::NONE || target.accepts == 0 {
        Room::Absent
    } else if target.max_connections != 0 && tables.load(id).open >= target.max_connections {
        Room::Full
    } else {
        Room::Free
    }
}

/// Picks a target of `service` for the connection that `segment` opens.
///
/// # Errors
/// [`Reason::NoTarget`] where the table is empty, [`Reason::ServersFull`] where
/// no target that was looked at takes another connection.
#[inline(always)]
pub fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    service: &Service,
    now: Tick,
) -> Result<Choice, Reason> {
    if service.affinity != 0
        && let Some(choice) = remembered(tables, segment, service, now)
    {
        return Ok(choice);
    }
    let hash = select::hash(&segment.key);
    let first = service.first_slot.wrapping_add(match service.algorithm() {
        Algorithm::Maglev => below(hash, service.slots),
        Algorithm::SourceHash => below(select::source_hash(segment.key.source), service.slots),
        Algorithm::RoundRobin => tables
            .turn(service.id)
            .checked_rem(service.slots)
            .unwrap_or(0),
        Algorithm::Random | Algorithm::LeastConnections | Algorithm::LeastLatency => {
            below(tables.random(), service.slots)
        }
    });
    let (slot, id) = match service.algorithm() {
        Algorithm::LeastConnections | Algorithm::LeastLatency => {
            let second = below(tables.random(), service.slots);
            let second = service.first_slot.wrapping_add(second);
            better_of(tables, service, first, second)
        }
        _ => (first, tables.slot(first)),
    };
    let generation = tables.generation(id);
    match room(tables, id) {
        Room::Free => Ok(Choice {
            id,
            generation,
            slot,
        }),
        Room::Full => another(tables, service, hash),
        Room::Absent => Err(Reason::NoTarget),
    }
}

/// The target that the client was sent to before, if it is still worth it.
#[inline(always)]
fn remembered<A: Address, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    service: &Service,
    now: Tick,
) -> Option<Choice> {
    let affinity = tables.affinity(&SourceKey::new(segment.key.source, service.id))?;
    let Affinity {
        target: id,
        generation,
        since,
    } = affinity;
    let recent = now.0.wrapping_sub(since.0) <= service.affinity;
    (recent && tables.generation(id) == generation && room(tables, id) == Room::Free).then_some(
        Choice {
            id,
            generation,
            slot: Choice::NO_SLOT,
        },
    )
}

/// Of two slots the one whose target is better off.
#[inline(always)]
fn better_of<A: Address, T: Tables<A>>(
    tables: &T,
    service: &Service,
    first: u32,
    second: u32,
) -> (u32, TargetId) {
    let (a, b) = (tables.slot(first), tables.slot(second));
    let by_time = service.algorithm() == Algorithm::LeastLatency;
    if cost(tables, b, by_time) < cost(tables, a, by_time) {
        (second, b)
    } else {
        (first, a)
    }
}

/// What another connection costs a target: the connections that it has
/// already, and the new one, for its weight; times the duration of a handshake
/// if that counts. A target of which no handshake is known counts as quick: it
/// is tried soon.
#[inline(always)]
fn cost<A: Address, T: Tables<A>>(tables: &T, id: TargetId, by_time: bool) -> u64 {
    let Load { open, latency } = tables.load(id);
    let load = (open as u64 + 1)
        * if by_time && latency != 0 {
            latency as u64
        } else {
            1
        };
    match tables.target(id) {
        Some(target) if room(tables, id) == Room::Free => {
            (load << 16) / (target.weight as u64 | u64::from(target.weight == 0))
        }
        _ => u64::MAX,
    }
}

/// Another target of the service that is not full, where the selected one is.
#[inline(always)]
fn another<A: Address, T: Tables<A>>(
    tables: &T,
    service: &Service,
    hash: u32,
) -> Result<Choice, Reason> {
    let members = service.first_slot.wrapping_add(service.slots);
    let start = below(select::finish(hash), service.members);
    for step in 0..OVERFLOW_ATTEMPTS {
        if step >= service.members {
            break;
        }
        let mut member = start.wrapping_add(step);
        if member >= service.members {
            member -= service.members;
        }
        let id = tables.slot(members.wrapping_add(member));
        let generation = tables.generation(id);
        if room(tables, id) == Room::Free {
            return Ok(Choice {
                id,
                generation,
                slot: Choice::NO_SLOT,
            });
        }
    }
    Err(Reason::ServersFull)
}
