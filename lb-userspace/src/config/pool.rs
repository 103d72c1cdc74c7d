//! Reads `[pool.NAME]`: the servers; `check` and `role` read how they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::file::CONNECTIONS_MAX;
use super::problem::Problems;
use super::raw::{Fields, kind};
use super::{
    Check, CheckKind, Duty, Pool, PoolName, Server, ServerName, check, discover, role, value,
};

/// HAProxy's: what operators know.
pub(super) const WEIGHTS: RangeInclusive<u32> = 1..=256;
/// A server that is still cold after an hour will not get warm.
const SLOW_STARTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// A pool as far as it could be read, and where the rules that join pools and
/// services report to. Where something was reported, a default stands in.
pub(super) struct ReadPool {
    pub(super) pool: Pool,
    pub(super) role_key: RoleKey,
    /// Where the address of each server stands: parallel to `pool.servers`.
    pub(super) addresses_at: Vec<Range<usize>>,
}

/// Whether the file says how the servers tell their role.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RoleKey {
    /// It does, rightly or not; a misspelt key counts.
    Given,
    /// It does not.
    Absent,
}

/// Reads one pool.
pub(super) fn read(name: PoolName, mut fields: Fields<'_>, problems: &Problems) -> ReadPool {
    let role_key = if fields.has_like("role") {
        RoleKey::Given
    } else {
        RoleKey::Absent
    };
    let check = match fields.table("check", format!("check of pool \"{name}\"")) {
        Some(check) => check::read(check, role_key, problems),
        None => Check::with_defaults(CheckKind::CONNECT),
    };
    let role = fields.table("role", format!("role of pool \"{name}\""));
    let role = role.and_then(|role| role::read(role, &check, problems));
    let slow_start = fields.read("slow_start", |value| value::duration(value, SLOW_STARTS));
    let discover = fields.table("discover", format!("discover of pool \"{name}\""));
    let discover = discover.and_then(discover::read);
    let servers = read_servers(&mut fields, &check, problems);
    fields.finish();
    let (servers, addresses_at) = servers.into_iter().unzip();
    ReadPool {
        pool: Pool {
            name,
            check,
            role,
            slow_start: slow_start.map(Spanned::into_inner),
            discover,
            servers,
        },
        role_key,
        addresses_at,
    }
}

const SERVER: &str = "server = [{ name = \"n1\", address = \"ADDRESS:PORT\" }]";

fn read_servers(
    fields: &mut Fields<'_>,
    check: &Check,
    problems: &Problems,
) -> Vec<(Server, Range<usize>)> {
    let Some(list) = fields.required("server", SERVER) else {
        return Vec::new();
    };
    let DeValue::Array(array) = list.get_ref() else {
        let found = kind(list.get_ref());
        let reason = format!("server: expected an array, found {found}; write {SERVER}");
        problems.report(&list.span(), reason);
        return Vec::new();
    };
    if array.is_empty() {
        let reason = format!("server: the pool is empty; write {SERVER}");
        problems.report(&list.span(), reason);
    }
    let mut seen = Seen::default();
    let entries = array.iter().enumerate();
    let servers = entries.filter_map(|(index, entry)| {
        let name = format!("server {} of {}", index + 1, fields.name());
        let fields = Fields::of_value(entry, name, problems)?;
        read_server(fields, check, &mut seen, problems)
    });
    servers.collect()
}

/// The names and addresses of the servers read so far.
#[derive(Default)]
struct Seen {
    names: BTreeSet<ServerName>,
    addresses: BTreeMap<SocketAddr, ServerName>,
}

fn read_server(
    mut fields: Fields<'_>,
    check: &Check,
    seen: &mut Seen,
    problems: &Problems,
) -> Option<(Server, Range<usize>)> {
    let name = fields.require("name", "name = \"n1\"", |value| {
        value::text(value)
            .and_then(value::name)
            .map(ServerName::from)
    });
    let address = fields.require(
        "address",
        "address = \"ADDRESS:PORT\"",
        value::socket_address,
    );
    let own_check_port = fields.read("check_port", value::port);
    let own_agent_port = fields.read("agent_port", value::port);
    let weight = fields.read("weight", |value| value::number(value, WEIGHTS));
    let max_connections = fields.read("max_connections", |value| {
        value::number(value, CONNECTIONS_MAX)
    });
    let backup = fields.read("backup", value::truth);
    fields.finish();
    let (name, address) = (name?, address?);
    let (name_at, address_at) = (name.span(), address.span());
    let (name, address) = (name.into_inner(), address.into_inner());
    if !seen.names.insert(name.clone()) {
        let reason = format!("name: another server of the pool is \"{name}\" too; rename one");
        problems.report(&name_at, reason);
    }
    if let Some(other) = seen.addresses.insert(address, name.clone()) {
        let reason = format!("address: server \"{other}\" has {address} too; remove one");
        problems.report(&address_at, reason);
    }
    let check_port = own_check_port.map(Spanned::into_inner).or(check.port);
    let agent_port = own_agent_port.map(Spanned::into_inner);
    let agent_port = agent_port.or(check.agent.port);
    let server = Server {
        name,
        address,
        check_address: SocketAddr::new(address.ip(), check_port.unwrap_or(address.port())),
        agent_address: agent_port.map(|port| SocketAddr::new(address.ip(), port)),
        weight: weight.map_or(Server::WEIGHT, Spanned::into_inner),
        max_connections: max_connections.map(Spanned::into_inner),
        backup: backup.is_some_and(Spanned::into_inner),
        duty: Duty::Ready,
    };
    Some((server, address_at))
}
