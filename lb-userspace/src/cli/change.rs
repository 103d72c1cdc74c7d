//! `lb set`, `drain`, `add`, `remove`, `clear`: what operators change until they
//! clear it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use clap::error::ErrorKind;

use super::{Connection, Failure, client};
use crate::api::{Admin, Change, Changed, Status, path};
use crate::config::{Name, PoolName, ServerName, well_formed};

/// From one look at the connections that are left to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Nobody means to wait longer.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// The arguments of `lb set`.
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// The server, as POOL/SERVER
    #[arg(value_parser = name, value_name = "POOL/SERVER")]
    server: Name,
    /// What to set
    key: Key,
    /// The weight, 1 to 256; or the state: ready, drain, maint
    value: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Key {
    /// Its share of new connections
    Weight,
    /// What it is to be used for
    State,
}

/// The arguments of `lb drain`.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// The server, as POOL/SERVER
    #[arg(value_parser = name, value_name = "POOL/SERVER")]
    server: Name,
    /// How long the connections that it has may go on, instead of drain_timeout
    #[arg(long, value_parser = deadline, value_name = "TIME")]
    deadline: Option<Duration>,
    /// Come back when none of them is left
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The arguments of `lb add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The pool
    pool: String,
    /// The new server's name
    name: String,
    /// Where its connections go, as ADDRESS:PORT
    #[arg(value_parser = address)]
    address: SocketAddr,
    /// Its share of new connections
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    weight: Option<u32>,
    /// Where it is checked, instead of the check's port
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    check_port: Option<u16>,
    /// Open connections at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

/// The arguments of `lb remove`.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The server, as POOL/SERVER
    #[arg(value_parser = name, value_name = "POOL/SERVER")]
    server: Name,
    #[command(flatten)]
    connection: Connection,
}

/// The arguments of `lb clear`.
#[derive(Debug, clap::Args)]
pub(super) struct Clear {
    /// The server, as POOL/SERVER; all servers where it is left out
    #[arg(value_parser = name, value_name = "POOL/SERVER")]
    server: Option<Name>,
    #[command(flatten)]
    connection: Connection,
}

fn name(text: &str) -> Result<Name, String> {
    let named = text.split_once('/');
    let named = named.filter(|(pool, server)| well_formed(pool) && well_formed(server));
    let (pool, server) = named.ok_or("write it as POOL/SERVER: kv/n1")?;
    Ok((PoolName::from(pool), ServerName::from(server)))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse();
    parsed.map_err(|_not_one| "write an address and a port: 10.0.0.14:8081, [fd00::14]:8081".into())
}

fn deadline(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= DEADLINE_MAX => Ok(time),
        Ok(_) => Err("write at most 24h".to_owned()),
        Err(_) => Err("write a time with its unit: 30s, 5m".to_owned()),
    }
}

pub(super) fn set(arguments: &Set, out: &mut dyn Write) -> Result<(), Failure> {
    let (pool, server) = arguments.server.clone();
    let value = &arguments.value;
    let change = match arguments.key {
        Key::Weight => value.parse().ok().map(|weight| Change::Weight {
            pool,
            server,
            weight,
        }),
        Key::State => {
            let mut states = Admin::ALL.iter();
            let state = states.find(|state| state.word() == value);
            state.map(|&state| Change::State {
                pool,
                server,
                state,
                deadline_ms: None,
            })
        }
    };
    let Some(change) = change else {
        let mend = match arguments.key {
            Key::Weight => "a weight is a number, 1 to 256",
            Key::State => "a state is ready, drain or maint",
        };
        clap::Error::raw(ErrorKind::InvalidValue, format!("\"{value}\": {mend}\n")).exit();
    };
    arguments.connection.override_by(&change, out)
}

pub(super) fn drain(arguments: &Drain, out: &mut dyn Write) -> Result<(), Failure> {
    let (pool, server) = arguments.server.clone();
    let change = Change::State {
        pool,
        server,
        state: Admin::Drain,
        deadline_ms: arguments.deadline.map(|time| time.as_millis() as u64),
    };
    arguments.connection.override_by(&change, out)?;
    while arguments.wait && is_draining(arguments)? {
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// Whether the server has connections that are going to be reset.
fn is_draining(arguments: &Drain) -> Result<bool, Failure> {
    let (pool, server) = &arguments.server;
    let body = client::get(&arguments.connection.socket, path::STATUS)?;
    let status: Status = serde_json::from_slice(&body).map_err(client::AskError::NotUnderstood)?;
    let mut draining = status.draining.iter();
    Ok(draining.any(|one| one.pool.as_ref() == Some(pool) && one.server == *server))
}

pub(super) fn add(arguments: &Add, out: &mut dyn Write) -> Result<(), Failure> {
    let Add {
        pool,
        name,
        address,
        weight,
        check_port,
        max_connections,
        connection,
    } = arguments;
    let change = Change::Add {
        pool: pool.as_str().into(),
        server: name.as_str().into(),
        address: *address,
        weight: *weight,
        check_port: *check_port,
        max_connections: *max_connections,
    };
    connection.override_by(&change, out)
}

pub(super) fn remove(arguments: &Remove, out: &mut dyn Write) -> Result<(), Failure> {
    let (pool, server) = arguments.server.clone();
    let change = Change::Remove { pool, server };
    arguments.connection.override_by(&change, out)
}

pub(super) fn clear(arguments: &Clear, out: &mut dyn Write) -> Result<(), Failure> {
    let (pool, server) = arguments.server.clone().unzip();
    let change = Change::Clear { pool, server };
    arguments.connection.override_by(&change, out)
}

impl Connection {
    fn override_by(&self, change: &Change, out: &mut dyn Write) -> Result<(), Failure> {
        let body = serde_json::to_vec(change).map_err(io::Error::other)?;
        self.change(path::OVERRIDES, body, out, print)
    }
}

fn print(changed: &Changed, out: &mut dyn Write) -> io::Result<()> {
    if changed.servers.is_empty() {
        return writeln!(out, "nothing to clear");
    }
    for one in &changed.servers {
        let what = one.what.as_deref().unwrap_or("no override");
        writeln!(out, "{}/{}: {what}", one.pool, one.server)?;
    }
    Ok(())
}
