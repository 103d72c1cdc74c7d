//! Reads `[pool.NAME]`: the servers, their check, and how they tell their role.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::file::CONNECTIONS_MAX;
use super::problem::Problems;
use super::raw::{Fields, kind};
use super::word::words;
use super::{Check, CheckKind, Pool, PoolName, RoleCheck, Server, ServerName, StatusRange, value};

/// Probes closer together than this would load a server more than they tell.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);
/// Consecutive answers: more would take longer than anybody waits.
const COUNTS: RangeInclusive<u32> = 1..=1000;
/// HAProxy's: what operators know.
const WEIGHTS: RangeInclusive<u32> = 1..=256;

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

words! {
    /// The words of `type`.
    pub enum CheckType {
        /// The port accepts a connection.
        Tcp = "tcp",
        /// The port answers an HTTP GET.
        Http = "http",
    }
}

/// Reads one pool.
pub(super) fn read(name: PoolName, mut fields: Fields<'_>, problems: &Problems) -> ReadPool {
    let role_at = fields.value("role").map(Spanned::span);
    let role_key = if fields.has_like("role") {
        RoleKey::Given
    } else {
        RoleKey::Absent
    };
    let role = fields.table("role", format!("role of pool \"{name}\""));
    let role = role.and_then(|role| read_role(role, problems));
    let check = match fields.table("check", format!("check of pool \"{name}\"")) {
        Some(check) => read_check(check, role_key, problems),
        None => default_check(),
    };
    if let (CheckKind::Tcp, Some(at)) = (&check.kind, &role_at) {
        let reason = "role: a tcp check cannot ask for a role; set type = \"http\" in check";
        problems.report(at, reason);
    }
    let servers = read_servers(&mut fields, check.port, problems);
    fields.finish();
    let (servers, addresses_at) = servers.into_iter().unzip();
    ReadPool {
        pool: Pool {
            name,
            check,
            role,
            servers,
        },
        role_key,
        addresses_at,
    }
}

fn read_role(mut fields: Fields<'_>, problems: &Problems) -> Option<RoleCheck> {
    let leader = fields.require("leader", "leader = \"/primary\"", value::path);
    let replica = fields.require("replica", "replica = \"/replica\"", value::path);
    fields.finish();
    let (leader, replica) = (leader?, replica?);
    if leader.get_ref() == replica.get_ref() {
        let reason = "replica: the same path as leader; the two must tell the roles apart";
        problems.report(&replica.span(), reason);
    }
    Some(RoleCheck {
        leader: leader.into_inner(),
        replica: replica.into_inner(),
    })
}

/// What a pool without `check` gets.
fn default_check() -> Check {
    Check {
        kind: CheckKind::Tcp,
        port: None,
        interval: Check::INTERVAL,
        timeout: Check::INTERVAL,
        rise: Check::RISE,
        fall: Check::FALL,
    }
}

fn read_check(mut fields: Fields<'_>, role_key: RoleKey, problems: &Problems) -> Check {
    let kind = read_kind(&mut fields, role_key, problems);
    let port = fields.read("port", value::port);
    let interval = fields.read("interval", |value| value::duration(value, INTERVALS));
    let timeout = fields.read("timeout", |value| value::duration(value, INTERVALS));
    let rise = fields.read("rise", |value| value::number(value, COUNTS));
    let fall = fields.read("fall", |value| value::number(value, COUNTS));
    let interval_given = fields.value("interval").is_some();
    fields.finish();

    let interval_read = interval.is_some();
    let interval = interval.map_or(Check::INTERVAL, Spanned::into_inner);
    if let Some(timeout) = &timeout
        && *timeout.get_ref() > interval
        && (interval_read || !interval_given)
    {
        let longest = humantime::format_duration(interval);
        let reason = format!("timeout: longer than the interval; write at most \"{longest}\"");
        problems.report(&timeout.span(), reason);
    }
    Check {
        kind,
        port: port.map(Spanned::into_inner),
        interval,
        timeout: timeout.map_or(interval, Spanned::into_inner),
        rise: rise.map_or(Check::RISE, Spanned::into_inner),
        fall: fall.map_or(Check::FALL, Spanned::into_inner),
    }
}

fn read_kind(fields: &mut Fields<'_>, role_key: RoleKey, problems: &Problems) -> CheckKind {
    let check_type = fields.require("type", "type = \"tcp\" or type = \"http\"", value::word);
    let path = fields.read("path", value::path);
    let expect_status = fields.read("expect_status", value::status_ranges);
    let at_path = fields.value("path").map(Spanned::span);
    let at_status = fields.value("expect_status").map(Spanned::span);
    // Without a type, nothing can be said about what goes with it.
    let check_type = check_type.map(Spanned::into_inner);
    if check_type == Some(CheckType::Tcp) {
        for (key, at) in [("path", &at_path), ("expect_status", &at_status)] {
            if let Some(at) = at {
                let reason = format!("{key}: a tcp check has none; set type = \"http\"");
                problems.report(at, reason);
            }
        }
        return CheckKind::Tcp;
    }
    if check_type == Some(CheckType::Http) && at_path.is_none() {
        if role_key == RoleKey::Absent {
            let reason = "an http check without a role needs a path; add path = \"/health\"";
            problems.report(fields.at(), reason);
        } else if let Some(at) = &at_status {
            let reason = "expect_status: no path is asked, and a role answers 200; add path";
            problems.report(at, reason);
        }
    }
    CheckKind::Http {
        path: path.map(Spanned::into_inner),
        expect_status: expect_status.map_or(vec![StatusRange::SUCCESS], Spanned::into_inner),
    }
}

const SERVER: &str = "server = [{ name = \"n1\", address = \"ADDRESS:PORT\" }]";

fn read_servers(
    fields: &mut Fields<'_>,
    check_port: Option<u16>,
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
        read_server(fields, check_port, &mut seen, problems)
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
    check_port: Option<u16>,
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
    let weight = fields.read("weight", |value| value::number(value, WEIGHTS));
    let max_connections = fields.read("max_connections", |value| {
        value::number(value, CONNECTIONS_MAX)
    });
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
    let check_port = own_check_port.map(Spanned::into_inner).or(check_port);
    let server = Server {
        name,
        address,
        check_address: SocketAddr::new(address.ip(), check_port.unwrap_or(address.port())),
        weight: weight.map_or(Server::WEIGHT, Spanned::into_inner),
        max_connections: max_connections.map(Spanned::into_inner),
    };
    Some((server, address_at))
}
