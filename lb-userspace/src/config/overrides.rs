//! What operators change at run time, and the configuration that comes of it.
//!
//! The file stays as it is; the configuration in force is the file's with the
//! overrides put in. An override stands until it is cleared, or until the file
//! makes it void: then it is dropped, and that is said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::target::TargetId;
use serde::{Deserialize, Serialize};

use super::{Config, Duty, PoolName, Server, ServerName, pool::WEIGHTS, value};
use crate::api::Change;
use crate::engine::Admin;

/// A server of a pool.
pub type Name = (PoolName, ServerName);

/// What time it is, in both reckonings: the engine counts from the boot, a file
/// that outlives the agent by the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Since the boot.
    pub now: Instant,
    /// By the calendar.
    pub wall: SystemTime,
}

impl Clock {
    /// When something was, of which a file says so many milliseconds since 1970.
    fn when(self, unix_ms: u64) -> Instant {
        let then = UNIX_EPOCH + Duration::from_millis(unix_ms);
        let ago = self.wall.duration_since(then).unwrap_or_default();
        self.now.checked_sub(ago).unwrap_or(self.now)
    }

    fn unix_ms(self) -> u64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// All overrides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Overrides(BTreeMap<Name, Override>);

/// One server's, as the state file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    pool: PoolName,
    server: ServerName,
    #[serde(flatten)]
    with: Override,
}

/// What is otherwise than in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    presence: Option<Presence>,
}

/// What the server is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Drain {
        since_unix_ms: u64,
        deadline_ms: Option<u64>,
    },
    Maint,
}

/// Whether the server is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Presence {
    Added {
        address: SocketAddr,
        check_port: Option<u16>,
        max_connections: Option<u32>,
    },
    Removed,
}

impl From<Vec<Entry>> for Overrides {
    fn from(entries: Vec<Entry>) -> Self {
        let entries = entries.into_iter();
        Self(
            entries
                .map(|one| ((one.pool, one.server), one.with))
                .collect(),
        )
    }
}

impl From<Overrides> for Vec<Entry> {
    fn from(Overrides(all): Overrides) -> Self {
        let entries = all.into_iter();
        entries
            .map(|((pool, server), with)| Entry { pool, server, with })
            .collect()
    }
}

impl Overrides {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by pool and server, in words.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Override)> {
        self.0.iter()
    }

    /// Takes in a change to what `file` says. Gives the servers that it concerns.
    ///
    /// # Errors
    /// What is wrong with it, and the mend.
    pub fn take(
        &mut self,
        file: &Config,
        change: Change,
        clock: Clock,
    ) -> Result<Vec<Name>, String> {
        match change {
            Change::Weight {
                pool,
                server,
                weight,
            } => {
                let weight = within_range(weight)?;
                self.change(file, clock, (pool, server), |one| one.weight = Some(weight))
            }
            Change::State {
                pool,
                server,
                state,
                deadline_ms,
            } => {
                let state = match state {
                    Admin::Ready => None,
                    Admin::Maint => Some(State::Maint),
                    Admin::Drain => Some(State::Drain {
                        since_unix_ms: clock.unix_ms(),
                        deadline_ms,
                    }),
                };
                self.change(file, clock, (pool, server), |one| one.state = state)
            }
            Change::Add {
                pool,
                server,
                address,
                weight,
                check_port,
                max_connections,
            } => {
                let added = Override {
                    weight: weight.map(within_range).transpose()?,
                    state: None,
                    presence: Some(Presence::Added {
                        address,
                        check_port,
                        max_connections,
                    }),
                };
                self.add(file, clock, (pool, server), added)
            }
            Change::Remove { pool, server } => self.remove(file, clock, (pool, server)),
            Change::Clear { pool, server } => self.clear(file, pool, server),
        }
    }

    fn change(
        &mut self,
        file: &Config,
        clock: Clock,
        name: Name,
        change: impl FnOnce(&mut Override),
    ) -> Result<Vec<Name>, String> {
        find(&self.apply(file, clock), &name)?;
        let one = self.0.entry(name.clone()).or_default();
        change(one);
        if *one == Override::default() {
            self.0.remove(&name);
        }
        Ok(vec![name])
    }

    fn add(
        &mut self,
        file: &Config,
        clock: Clock,
        name: Name,
        added: Override,
    ) -> Result<Vec<Name>, String> {
        let (pool, server) = &name;
        value::name(server.as_str())?;
        if self
            .0
            .get(&name)
            .is_some_and(|one| one.presence == Some(Presence::Removed))
        {
            return Err(format!(
                "{pool}/{server} is in the file and was removed; bring it back by `lb clear {pool}/{server}`"
            ));
        }
        let config = self.apply(file, clock);
        if let Some(Presence::Added { address, .. }) = added.presence {
            room_for(&config, &name, address)?;
        }
        self.0.insert(name.clone(), added);
        Ok(vec![name])
    }

    fn remove(&mut self, file: &Config, clock: Clock, name: Name) -> Result<Vec<Name>, String> {
        let config = self.apply(file, clock);
        find(&config, &name)?;
        let (pool, server) = &name;
        if config.pools[pool].servers.len() == 1 {
            return Err(format!(
                "{pool}/{server} is the last server of its pool, which may not be empty; take it out of use by \
                 `lb set {pool}/{server} state maint`"
            ));
        }
        let one = self.0.entry(name.clone()).or_default();
        if matches!(one.presence, Some(Presence::Added { .. })) {
            self.0.remove(&name);
        } else {
            *one = Override {
                presence: Some(Presence::Removed),
                ..Override::default()
            };
        }
        Ok(vec![name])
    }

    fn clear(
        &mut self,
        file: &Config,
        pool: Option<PoolName>,
        server: Option<ServerName>,
    ) -> Result<Vec<Name>, String> {
        let is_meant = |(in_pool, name): &Name| {
            pool.as_ref().is_none_or(|pool| pool == in_pool)
                && server.as_ref().is_none_or(|server| server == name)
        };
        let mut left = self.clone();
        let cleared = left.0.extract_if(.., |name, _| is_meant(name));
        let cleared: Vec<Name> = cleared.map(|(name, _)| name).collect();
        if let (Some(pool), Some(server), true) = (&pool, &server, cleared.is_empty()) {
            // Nothing to clear is no error, a name that is not there is.
            find(file, &(pool.clone(), server.clone()))?;
        }
        // Servers may come back to addresses that others got meanwhile.
        if let Some((name, why)) = left.clone().void(file) {
            let (pool, server) = name;
            return Err(format!(
                "{pool}/{server} is in the way: {why}; clear it, too"
            ));
        }
        *self = left;
        Ok(cleared)
    }

    /// Drops those that `file` makes void, and gives each with the reason.
    pub fn prune(&mut self, file: &Config) -> Vec<(Name, String)> {
        std::iter::from_fn(|| {
            let (name, why) = self.void(file)?;
            self.0.remove(&name);
            Some((name, why))
        })
        .collect()
    }

    /// The first one that `file` makes void, and why.
    fn void(&self, file: &Config) -> Option<(Name, String)> {
        let mut config = file.clone();
        for (name, one) in &self.0 {
            let outcome = match one.presence {
                Some(Presence::Added { address, .. }) => room_for(&config, name, address),
                Some(Presence::Removed) | None => find(&config, name).map(drop),
            };
            if let Err(why) = outcome {
                return Some((name.clone(), why));
            }
            one.put_into(name, &mut config, None);
        }
        let emptied = |name: &&Name| config.pools[&name.0].servers.is_empty();
        let name = self.0.keys().find(emptied)?;
        Some((name.clone(), "its pool would have no server".to_owned()))
    }

    /// `file` with the overrides put in.
    #[must_use]
    pub fn apply(&self, file: &Config, clock: Clock) -> Config {
        let mut config = file.clone();
        for (name, one) in &self.0 {
            one.put_into(name, &mut config, Some(clock));
        }
        config
    }
}

impl Override {
    fn put_into(&self, (pool, name): &Name, config: &mut Config, clock: Option<Clock>) {
        let Some(pool) = config.pools.get_mut(pool) else {
            return;
        };
        match self.presence {
            Some(Presence::Removed) => pool.servers.retain(|server| server.name != *name),
            Some(Presence::Added {
                address,
                check_port,
                max_connections,
            }) => {
                let check_port = check_port.or(pool.check.port);
                let agent_port = pool.check.agent.port;
                pool.servers.push(Server {
                    max_connections,
                    ..Server::at(name.clone(), address, check_port, agent_port)
                });
            }
            None => {}
        }
        let mut servers = pool.servers.iter_mut();
        if let Some(server) = servers.find(|server| server.name == *name) {
            server.weight = self.weight.unwrap_or(server.weight);
            if let (Some(state), Some(clock)) = (self.state, clock) {
                server.duty = match state {
                    State::Maint => Duty::Maint,
                    State::Drain {
                        since_unix_ms,
                        deadline_ms,
                    } => Duty::Drain {
                        since: clock.when(since_unix_ms),
                        deadline: deadline_ms.map(Duration::from_millis),
                    },
                };
            }
        }
    }
}

impl fmt::Display for Override {
    /// In words: `weight 5, drain`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let state = self.state.map(|state| match state {
            State::Maint => "maint".to_owned(),
            State::Drain {
                deadline_ms: None, ..
            } => "drain".to_owned(),
            State::Drain {
                deadline_ms: Some(ms),
                ..
            } => {
                let deadline = humantime::format_duration(Duration::from_millis(ms));
                format!("drain within {deadline}")
            }
        });
        let presence = self.presence.map(|presence| match presence {
            Presence::Removed => "removed".to_owned(),
            Presence::Added { address, .. } => format!("added, {address}"),
        });
        let words: Vec<String> = [presence, weight, state].into_iter().flatten().collect();
        out.write_str(&words.join(", "))
    }
}

fn within_range(weight: u32) -> Result<u32, String> {
    if WEIGHTS.contains(&weight) {
        return Ok(weight);
    }
    let (first, last) = (WEIGHTS.start(), WEIGHTS.end());
    let mend = "for no new connections, set the state to drain";
    Err(format!(
        "weight: {weight} is out of range; write {first} to {last}; {mend}"
    ))
}

/// Whether the pool may have one more server of that name and address: the
/// rules of the file.
fn room_for(config: &Config, name: &Name, address: SocketAddr) -> Result<(), String> {
    let (pool, server) = name;
    let Some(found) = config.pools.get(pool) else {
        return find(config, name).map(drop);
    };
    value::unicast(address.ip())?;
    if found.servers.iter().any(|one| one.name == *server) {
        return Err(format!("pool {pool} has a server {server} already"));
    }
    let mut others = found.servers.iter();
    if let Some(other) = others.find(|one| one.address == address) {
        return Err(format!(
            "server {} of pool {pool} has {address} too",
            other.name
        ));
    }
    for service in config.services.values() {
        let (name, listen) = (&service.name, service.listen);
        if listen.ip() == address.ip() {
            return Err(format!("{} is the VIP of service {name}", address.ip()));
        }
        if service.pool != *pool {
            continue;
        }
        if listen.is_ipv4() != address.is_ipv4() {
            return Err(format!(
                "service {name} listens on {}, of the other address family",
                listen.ip()
            ));
        }
        if !service.mode.translates_ports() && listen.port() != address.port() {
            let (mode, port) = (service.mode, listen.port());
            return Err(format!(
                "service {name} has mode \"{mode}\", which leaves port {port} as it is"
            ));
        }
    }
    if config.snat.addresses.contains(&address.ip()) {
        return Err(format!("{} is a source address of snat", address.ip()));
    }
    let services = config.services.values();
    let sizes = services.filter_map(|service| {
        let servers = config.pools.get(&service.pool)?.servers.len();
        Some(servers + usize::from(service.pool == *pool))
    });
    if sizes.sum::<usize>() >= TargetId::CAPACITY as usize {
        return Err("the kernel's tables hold no more targets".to_owned());
    }
    Ok(())
}

/// The server of that name.
fn find<'a>(config: &'a Config, (pool, server): &Name) -> Result<&'a Server, String> {
    let Some(found) = config.pools.get(pool) else {
        let known: Vec<&str> = config.pools.keys().map(PoolName::as_str).collect();
        return Err(format!(
            "there is no pool {pool}; there are: {}",
            known.join(", ")
        ));
    };
    let mut servers = found.servers.iter();
    servers.find(|one| one.name == *server).ok_or_else(|| {
        let known: Vec<&str> = found.servers.iter().map(|one| one.name.as_str()).collect();
        format!(
            "pool {pool} has no server {server}; it has: {}",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests;
