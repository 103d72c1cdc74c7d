//! `lb flows`: the connection table.

use std::io::{self, Write};
use std::net::IpAddr;

use clap::ValueEnum as _;
use ipnet::IpNet;

use super::table::{Align, Table, duration};
use super::{Connection, Failure};
use crate::api::{FlowFilter, FlowOrder, Flows, path};
use crate::config::well_formed;

/// The arguments of `lb flows`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only the connections of this service
    #[arg(long, value_name = "NAME", value_parser = name)]
    service: Option<String>,
    /// Only the connections to this server
    #[arg(long, value_name = "NAME", value_parser = name)]
    server: Option<String>,
    /// Only the connections of clients with this address, or in this prefix
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    source: Option<IpNet>,
    /// Which connections come first
    #[arg(long, value_name = "ORDER", default_value = "client")]
    sort: FlowOrder,
    /// How many connections at most
    #[arg(long, value_name = "COUNT", default_value_t = FlowFilter::LIMIT)]
    limit: usize,
    #[command(flatten)]
    connection: Connection,
}

/// A name that can stand in a URL as it is.
fn name(text: &str) -> Result<String, String> {
    if well_formed(text) {
        Ok(text.to_owned())
    } else {
        Err("no name of the configuration looks like this".to_owned())
    }
}

/// A prefix; an address is one of full length.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse())
        .map_err(|_| "write an address or a prefix: 10.0.0.50, 10.0.0.0/8, fd00::/8".to_owned())
}

pub(super) fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments {
        service,
        server,
        source,
        sort,
        limit,
        connection,
    } = arguments;
    let sort = sort
        .to_possible_value()
        .map_or_else(String::new, |word| word.get_name().to_owned());
    let mut wanted = format!("{}?limit={limit}&sort={sort}", path::FLOWS);
    if let Some(source) = source {
        wanted += &format!("&source={source}");
    }
    for (key, value) in [("service", service), ("server", server)] {
        if let Some(value) = value {
            wanted += &format!("&{key}={value}");
        }
    }
    connection.show(&wanted, out, print)
}

fn print(flows: &Flows, out: &mut dyn Write) -> io::Result<()> {
    let Flows {
        flows,
        total,
        truncated,
    } = flows;
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("CLIENT", Align::Left),
        ("SNAT", Align::Left),
        ("SERVER", Align::Left),
        ("STATE", Align::Left),
        ("IDLE", Align::Right),
    ]);
    for flow in flows {
        table.row([
            flow.service.to_string(),
            flow.client.to_string(),
            flow.snat.to_string(),
            flow.server_name.to_string(),
            flow.state.clone(),
            duration(flow.idle_ms),
        ]);
    }
    table.print(out)?;
    if *truncated {
        let shown = flows.len();
        writeln!(out, "{shown} of {total} connections; --limit shows more")
    } else {
        let plural = if *total == 1 { "" } else { "s" };
        writeln!(out, "{total} connection{plural}")
    }
}
