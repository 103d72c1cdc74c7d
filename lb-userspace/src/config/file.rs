//! From a file to a [`Config`], or to everything that is wrong with it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::pool::{self, ReadPool};
use super::problem::{LoadError, Problem, Problems, position};
use super::raw::{Fields, Named};
use super::rules::Draft;
use super::service::{self, ReadService};
use super::{Config, Hook, Limits, PoolName, ServiceName, Snat, value};

/// More would not fit the memory of the machines that this runs on: a
/// connection takes two flows, a flow more than 100 bytes.
const CONNECTIONS: RangeInclusive<u32> = 16..=4_194_304;
const HALF_OPEN: RangeInclusive<u32> = 16..=1_048_576;

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
            report_syntax(&errors, text, &problems);
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

/// Reports what the parser found. A table that is defined twice brings an
/// error for each of its keys too: those are left out.
fn report_syntax(errors: &[toml::de::Error], text: &str, problems: &Problems) {
    let mut repeated_table: Range<usize> = 0..0;
    for error in errors {
        let at: Range<usize> = error.span().unwrap_or(0..0);
        let found = text.get(at.clone()).unwrap_or_default();
        if error.message() != "duplicate key" {
            problems.report(&at, format!("syntax error: {}", error.message()));
            continue;
        }
        if repeated_table.contains(&at.start) {
            continue;
        }
        let before = text.get(..at.start).unwrap_or_default();
        if before
            .lines()
            .next_back()
            .is_some_and(|line| line.trim_start().starts_with('['))
        {
            let length = text[at.end..].find("\n[").unwrap_or(text.len() - at.end);
            repeated_table = at.start..at.end + length;
        }
        problems.report(&at, format!("\"{found}\" is defined twice; remove one"));
    }
}

fn read<'a>(document: &'a DeTable<'a>, text: &str, problems: &'a Problems) -> Option<Config> {
    let mut fields = Fields::of_table(document, 0..0, "the file", problems);
    let interface = fields.read("interface", value::interface);
    let hook = fields.read("hook", value::word);
    let limits = fields.table("limits", "[limits]").map(read_limits);
    let snat = fields.table("snat", "[snat]").map(read_snat);
    let (snat_address, snat_ports) = snat.unwrap_or((None, Snat::default().ports));
    let draft = Draft {
        text,
        snat_address,
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
        interface: interface.map(Spanned::into_inner),
        hook: hook.map_or(Hook::XdpNative, Spanned::into_inner),
        limits: limits.unwrap_or_default(),
        snat: Snat {
            address: draft.snat_address.map(Spanned::into_inner),
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
        (name.clone(), service::read(name, at, fields))
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

fn read_snat(mut fields: Fields<'_>) -> (Option<Spanned<IpAddr>>, RangeInclusive<u16>) {
    let address = fields.read("address", value::address);
    let ports = fields.read("ports", value::port_range);
    fields.finish();
    let ports = ports.map_or(Snat::default().ports, Spanned::into_inner);
    (address, ports)
}
