//! What the kernel's tables should hold.
//!
//! From what each service asks for ([`Demand`]) to a whole [`Installed`]:
//! ids, the places of the tables in SLOTS, and their contents. What is
//! installed already decides nothing but ids and places: those never move
//! without need.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::config::{Access, Mode, Route, room};
use crate::engine::event::NextHop;
use crate::engine::ids::Ids;
use crate::engine::installed::{Installed, ServiceEntry, Settings, TargetEntry};
use crate::engine::space::Space;
use crate::engine::{maglev, sequence};

/// What one service asks of the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The VIP and port.
    pub listen: SocketAddr,
    /// A single slot or a bigger table.
    pub route: Route,
    /// How it chooses, and whom it refuses.
    pub settings: Settings,
    /// How segments get to its servers.
    pub mode: Mode,
    /// Who may connect.
    pub rules: BTreeMap<IpNet, Access>,
    /// The length of one of its two halves, whatever servers are usable.
    pub half: u32,
    /// All of its servers to which the way is known.
    pub reachable: Vec<Reachable>,
}

/// One server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// Where its connections go.
    pub server: SocketAddr,
    /// The way to it.
    pub way: NextHop,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Open connections at a time. `None`: without limit.
    pub max_connections: Option<u32>,
    /// Whether it may get new connections.
    pub usable: bool,
}

/// A service, or a server of it, for which the kernel's tables have no room.
pub type NoRoom = (SocketAddr, Option<SocketAddr>);

/// The tables that meet `demands`, and what found no room in them. Installed
/// targets that no demand names stay, except those in `retired`; they accept
/// nothing. A service that was there before, and has targets still, gets back the
/// number that it has in `former`.
#[must_use]
pub fn tables(
    installed: &Installed,
    former: &BTreeMap<SocketAddr, ServiceId>,
    demands: &[Demand],
    retired: &BTreeSet<TargetId>,
) -> (Installed, Vec<NoRoom>) {
    let mut desired = Installed {
        targets: installed.targets.clone(),
        ..Installed::default()
    };
    for target in desired.targets.values_mut() {
        target.accepts = false;
    }
    let halves = demands
        .iter()
        .filter(|demand| demand.route != Route::Leader);
    let halves: BTreeMap<SocketAddr, u32> =
        halves.map(|demand| (demand.listen, demand.half)).collect();
    let reserved = demands.iter();
    let reserved = reserved.map(|demand| room::reserved(demand.route, demand.half));
    let capacity = room::capacity(reserved);
    let mut space = Space::of(installed, capacity, |listen| halves.get(&listen).copied());
    let mut ids = Ids::of(installed, former);
    let mut fills = Fills::default();
    let mut left_out = Vec::new();
    for demand in demands {
        let Some(id) = ids.service(demand.listen) else {
            left_out.push((demand.listen, None));
            continue;
        };
        let members = members(&mut desired, &mut ids, &mut left_out, demand, id);
        let table = table(installed, &mut fills, demand, &members);
        let Some(first_slot) = place(installed, &mut space, demand, &table) else {
            left_out.push((demand.listen, None));
            for member in &members {
                refuse(&mut desired, member.id);
            }
            continue;
        };
        let entry = ServiceEntry {
            id,
            first_slot,
            slots: length(&table.slots),
            members: length(&table.members),
            settings: demand.settings,
        };
        desired.services.insert(demand.listen, entry);
        desired.slots.insert(first_slot, table.range());
        let rules = demand.rules.iter();
        let rules = rules.map(|(&prefix, &access)| ((id, prefix), access));
        desired.rules.extend(rules);
    }
    // Only now: an id that retires in this plan must not return in it.
    desired.targets.retain(|id, _| !retired.contains(id));
    (desired, left_out)
}

fn refuse(desired: &mut Installed, id: TargetId) {
    if let Some(target) = desired.targets.get_mut(&id) {
        target.accepts = false;
    }
}

/// A target that may be used.
struct Member {
    id: TargetId,
    server: SocketAddr,
    weight: u32,
}

/// Enters the targets of a service. Gives those that may be used, by address:
/// not by id, for ids depend on a balancer's history.
fn members(
    desired: &mut Installed,
    ids: &mut Ids,
    left_out: &mut Vec<NoRoom>,
    demand: &Demand,
    service: ServiceId,
) -> Vec<Member> {
    let mut members = Vec::new();
    for one in &demand.reachable {
        let Some(id) = ids.target(service, one.server, demand.mode) else {
            left_out.push((demand.listen, Some(one.server)));
            continue;
        };
        let target = TargetEntry {
            service,
            listen: demand.listen,
            server: one.server,
            mode: demand.mode,
            weight: one.weight,
            max_connections: one.max_connections,
            accepts: one.usable,
            way: one.way,
        };
        desired.targets.insert(id, target);
        if one.usable {
            members.push(Member {
                id,
                server: one.server,
                weight: one.weight,
            });
        }
    }
    members.sort_unstable_by_key(|member| member.server);
    members
}

/// The two parts of a service's range.
struct Table {
    slots: Vec<TargetId>,
    members: Vec<TargetId>,
}

impl Table {
    fn range(&self) -> Vec<TargetId> {
        [&self.slots[..], &self.members[..]].concat()
    }
}

/// The contents of a service's range. A table that gives the right members
/// their shares already stays as it is.
fn table(installed: &Installed, fills: &mut Fills, demand: &Demand, members: &[Member]) -> Table {
    let ids: Vec<TargetId> = members.iter().map(|member| member.id).collect();
    if demand.route == Route::Leader || ids.is_empty() {
        let slots = vec![ids.first().copied().unwrap_or(TargetId::NONE)];
        let members = Vec::new();
        return Table { slots, members };
    }
    let hashes = demand.settings.algorithm.hashes();
    let fill = fills.of(hashes, members);
    let now = installed.services.get(&demand.listen);
    let same_kind = now.is_some_and(|now| now.settings.algorithm.hashes() == hashes);
    let slots = installed.slots_of(demand.listen);
    let fits = same_kind
        && installed.members_of(demand.listen) == ids
        && counts(slots, &ids).as_ref() == Some(&fill.shares);
    let slots = if fits {
        slots.to_vec()
    } else {
        fill.turns().iter().map(|&member| ids[member]).collect()
    };
    Table {
        slots,
        members: ids,
    }
}

/// What a table follows from: whether it hashes, and its members' addresses
/// and weights.
type Recipe = (bool, Vec<(SocketAddr, u32)>);

/// A table by the numbers of its members.
struct Fill {
    recipe: Recipe,
    shares: Vec<u32>,
    turns: OnceCell<Vec<usize>>,
}

impl Fill {
    fn new(recipe: Recipe) -> Self {
        let (hashes, members) = &recipe;
        let weights: Vec<u32> = members.iter().map(|&(_, weight)| weight).collect();
        let shares = match hashes {
            true => maglev::shares(&weights),
            false => sequence::shares(&weights),
        };
        Self {
            recipe,
            shares,
            turns: OnceCell::new(),
        }
    }

    /// The member of each slot. Takes time when it is asked for first.
    fn turns(&self) -> &[usize] {
        self.turns.get_or_init(|| {
            let (hashes, members) = &self.recipe;
            let members = members.iter();
            if *hashes {
                let keyed = members.map(|&(server, weight)| (server.to_string(), weight));
                maglev::fill(&keyed.collect::<Vec<_>>())
            } else {
                sequence::fill(&members.map(|&(_, weight)| weight).collect::<Vec<_>>())
            }
        })
    }
}

/// Tables as far as they were asked for: the services of one pool have the
/// same.
#[derive(Default)]
struct Fills(BTreeMap<Recipe, Fill>);

impl Fills {
    fn of(&mut self, hashes: bool, members: &[Member]) -> &Fill {
        let members = members.iter().map(|member| (member.server, member.weight));
        let recipe: Recipe = (hashes, members.collect());
        let fill = self.0.entry(recipe);
        fill.or_insert_with_key(|recipe| Fill::new(recipe.clone()))
    }
}

/// How many slots name each of `ids`; `None` where one names another target.
fn counts(slots: &[TargetId], ids: &[TargetId]) -> Option<Vec<u32>> {
    let mut all = vec![0; TargetId::CAPACITY as usize];
    for id in slots {
        *all.get_mut(id.0 as usize)? += 1;
    }
    let counts: Vec<u32> = ids.iter().map(|id| all[id.0 as usize]).collect();
    let named: usize = counts.iter().map(|&count| count as usize).sum();
    (named == slots.len()).then_some(counts)
}

/// Where a service's range goes: it stays where its contents do not change; a
/// leader's slot is changed in place; a table goes to the idle half.
fn place(installed: &Installed, space: &mut Space, demand: &Demand, table: &Table) -> Option<u32> {
    let service = installed.services.get(&demand.listen);
    let now = service.map(|service| service.first_slot);
    let range = installed.range_of(demand.listen);
    if demand.route == Route::Leader {
        return now
            .filter(|_| range.len() == 1)
            .or_else(|| space.take_single());
    }
    if range == table.range() {
        return now;
    }
    now.and_then(|half| space.idle(half))
        .or_else(|| space.take_pair(demand.half))
}

fn length(ids: &[TargetId]) -> u32 {
    u32::try_from(ids.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
