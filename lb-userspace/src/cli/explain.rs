//! `lb explain`: why a server is what it is, and gets what it gets.

use std::io::{self, Write};

use super::table::duration;
use super::{Connection, Failure, client};
use crate::api::{PoolStatus, ServerStatus, Status, path};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The server's name; POOL/SERVER where several pools have one of that name
    server: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let body = client::get(&arguments.connection.socket, path::STATUS)?;
    let status: Status = serde_json::from_slice(&body).map_err(client::AskError::NotUnderstood)?;
    let found = find(&status, &arguments.server);
    if found.is_empty() {
        let server = arguments.server.clone();
        return Err(Failure::NoServer { server });
    }
    if arguments.connection.json {
        let servers: Vec<&ServerStatus> = found.iter().map(|(_, server)| *server).collect();
        serde_json::to_writer(&mut *out, &servers).map_err(io::Error::other)?;
        writeln!(out)?;
    } else {
        for (pool, server) in found {
            print(pool, server, out)?;
        }
    }
    Ok(out.flush()?)
}

fn find<'a>(status: &'a Status, wanted: &str) -> Vec<(&'a PoolStatus, &'a ServerStatus)> {
    let (pool, server) = match wanted.split_once('/') {
        Some((pool, server)) => (Some(pool), server),
        None => (None, wanted),
    };
    let pools = status.pools.iter();
    let pools = pools.filter(|one| pool.is_none_or(|pool| one.name.as_str() == pool));
    let servers = pools.flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)));
    servers
        .filter(|(_, one)| one.name.as_str() == server)
        .collect()
}

fn print(pool: &PoolStatus, server: &ServerStatus, out: &mut dyn Write) -> io::Result<()> {
    let (name, state, since) = (&server.name, server.state, duration(server.since_ms));
    writeln!(
        out,
        "{}/{name} at {}: {state} for {since}",
        pool.name, server.address
    )?;
    for line in &server.why {
        // Servers wrote parts of it.
        writeln!(out, "  {}", line.replace(char::is_control, "?"))?;
    }
    Ok(())
}
