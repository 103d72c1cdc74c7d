//! From a file to a [`Config`], or to everything that is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::pool::{self, ReadPool};
use super::problem::{LoadError, Problem, Problems, position};
use super::raw::{Fields, Named};
use super::rules::Draft;
use super::service::{self, ReadService};
use super::syntax;
use super::{Config, Hook, Limits, OnStop, PoolName, ServiceName, Snat, Timeouts, Vips, value};

/// More would not fit the memory of the machines that this runs on: a
/// connection takes two flows, a flow more than 100 bytes.
const CONNECTIONS: RangeInclusive<u32> = 16..=4_194_304;
const HALF_OPEN: RangeInclusive<u32> = 16..=1_048_576;
/// Of a part of the connections: no more than there may be.
pub(super) const CONNECTIONS_MAX: RangeInclusive<u32> = 1..=*CONNECTIONS.end();
/// Times shorter than a sweep of the tables, or longer than a day, would be
/// mistakes.
const REMEMBERED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
/// As many source addresses as the kernel's table of them holds.
const SOURCES_MAX: usize = 64;

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or breaks rules: all of them are listed.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = fs::read(path).map_err(|source| LoadError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let text = String::from_utf8(bytes).map_err(|error| LoadError::Invalid {
            path: path.to_owned(),
            problems: vec![not_utf8(&error)],
        })?;
        Self::parse(&text).map_err(|problems| LoadError::Invalid {
            path: path.to_owned(),
            problems,
        })
    }

    /// Validates the text of a configuration.
    ///
    /// # Errors
    /// Every broken rule, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let problems = Problems::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What the parser made of the rest is guesswork.
            syntax::report(&errors, text, &problems);
            return Err(problems.into_sorted(text));
        }
        let config = read(document.get_ref(), text, &problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(problems.into_sorted(text)),
        }
    }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> Problem {
    let valid_until = error.utf8_error().valid_up_to();
    let valid = String::from_utf8_lossy(&error.as_bytes()[..valid_until]);
    let (line, column) = position(&valid, valid.len());
    let byte = error.as_bytes()[valid_until];
    let message = format!("byte 0x{byte:02x} is not UTF-8; save the file as UTF-8");
    Problem {
        line,
        column,
        message,
    }
}

fn read<'a>(document: &'a DeTable<'a>, text: &str, problems: &'a Problems) -> Option<Config> {
    let mut fields = Fields::of_table(document, 0..0, "the file", problems);
    let interfaces = read_interfaces(&mut fields, problems);
    let hook = fields.read("hook", value::word);
    let vips = fields.read("vips", value::word);
    let on_stop = fields.read("on_stop", value::word);
    let limits = fields.table("limits", "[limits]").map(read_limits);
    let timeouts = fields.table("timeouts", "[timeouts]").map(read_timeouts);
    let snat = fields.table("snat", "[snat]");
    let snat = snat.map(|snat| read_snat(snat, problems));
    let (snat_addresses, snat_ports) = snat.unwrap_or((Vec::new(), Snat::default().ports));
    let draft = Draft {
        text,
        vips: vips.map_or(Vips::default(), Spanned::into_inner),
        snat_addresses,
        snat_ports,
        pools: fields
            .named_tables("pool")
            .map(|named| read_pools(named, problems)),
        services: fields
            .named_tables("service")
            .map(|named| read_services(named, problems)),
    };
    fields.finish();
    draft.check(problems);

    let pools = draft.pools?.into_iter();
    let services = draft.services?.into_iter();
    Some(Config {
        interfaces,
        hook: hook.map_or(Hook::XdpNative, Spanned::into_inner),
        vips: draft.vips,
        on_stop: on_stop.map_or(OnStop::default(), Spanned::into_inner),
        limits: limits.unwrap_or_default(),
        timeouts: timeouts.unwrap_or_default(),
        snat: Snat {
            addresses: inner(draft.snat_addresses),
            ports: draft.snat_ports,
        },
        pools: pools.map(|(name, read)| (name, read.pool)).collect(),
        services: services
            .map(|(name, read)| Some((name, read.finish()?)))
            .collect::<Option<_>>()?,
    })
}

fn read_pools(named: Vec<Named<'_>>, problems: &Problems) -> BTreeMap<PoolName, ReadPool> {
    let pools = named.into_iter().map(|(name, fields)| {
        check_name("pool", &name, problems);
        let name = PoolName::from(name.into_inner());
        (name.clone(), pool::read(name, fields, problems))
    });
    pools.collect()
}

fn read_services(named: Vec<Named<'_>>, problems: &Problems) -> BTreeMap<ServiceName, ReadService> {
    let services = named.into_iter().map(|(name, fields)| {
        check_name("service", &name, problems);
        let at = name.span();
        let name = ServiceName::from(name.into_inner());
        (name.clone(), service::read(name, at, fields, problems))
    });
    services.collect()
}

fn check_name(table: &str, name: &Spanned<&str>, problems: &Problems) {
    if let Err(reason) = value::name(name.get_ref()) {
        problems.report(&name.span(), format!("{table}: {reason}"));
    }
}

fn read_limits(mut fields: Fields<'_>) -> Limits {
    let connections = fields.read("connections", |value| value::number(value, CONNECTIONS));
    let half_open = fields.read("half_open", |value| value::number(value, HALF_OPEN));
    fields.finish();
    let default = Limits::default();
    Limits {
        connections: connections.map_or(default.connections, Spanned::into_inner),
        half_open: half_open.map_or(default.half_open, Spanned::into_inner),
    }
}

fn read_timeouts(mut fields: Fields<'_>) -> Timeouts {
    let mut time = |key| fields.read(key, |value| value::duration(value, REMEMBERED));
    let (half_open, fin) = (time("half_open"), time("fin"));
    let (reset, rest) = (time("reset"), time("rest"));
    fields.finish();
    let default = Timeouts::default();
    Timeouts {
        half_open: half_open.map_or(default.half_open, Spanned::into_inner),
        fin: fin.map_or(default.fin, Spanned::into_inner),
        reset: reset.map_or(default.reset, Spanned::into_inner),
        rest: rest.map_or(default.rest, Spanned::into_inner),
    }
}

fn read_interfaces(fields: &mut Fields<'_>, problems: &Problems) -> Vec<String> {
    let interfaces = fields.read_all("interface", value::interface);
    report_repeated("interface", &interfaces, problems);
    inner(interfaces)
}

fn read_snat(
    mut fields: Fields<'_>,
    problems: &Problems,
) -> (Vec<Spanned<IpAddr>>, RangeInclusive<u16>) {
    let address = fields.read("address", value::address);
    let mut addresses = fields.read_all("addresses", value::address);
    let ports = fields.read("ports", value::port_range);
    let one_at = fields.value("address").map(Spanned::span);
    let several_at = fields.value("addresses").map(Spanned::span);
    fields.finish();
    if let (Some(_), Some(at)) = (one_at, &several_at) {
        let reason = "addresses: address says the same; write all of them here, and remove it";
        problems.report(at, reason);
    }
    report_repeated("addresses", &addresses, problems);
    if let (Some(at), true) = (several_at, addresses.len() > SOURCES_MAX) {
        let count = addresses.len();
        let reason = format!("addresses: {count} are too many; write at most {SOURCES_MAX}");
        problems.report(&at, reason);
    }
    addresses.extend(address);
    let ports = ports.map_or(Snat::default().ports, Spanned::into_inner);
    (addresses, ports)
}

/// Reports each value of a list that stands in it twice.
fn report_repeated<T: Display + PartialEq>(key: &str, list: &[Spanned<T>], problems: &Problems) {
    for (index, value) in list.iter().enumerate() {
        let mut before = list[..index].iter();
        if before.any(|other| other.get_ref() == value.get_ref()) {
            let reason = format!("{key}: {} is there twice; remove one", value.get_ref());
            problems.report(&value.span(), reason);
        }
    }
}

fn inner<T>(list: Vec<Spanned<T>>) -> Vec<T> {
    list.into_iter().map(Spanned::into_inner).collect()
}
