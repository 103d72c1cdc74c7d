//! `lb ready`: whether this balancer can do its work, as an exit code, for
//! whatever decides which of several balancers gets the traffic.
//!
//! It asks about the balancer and not about the cluster behind it: an election
//! takes targets away from every balancer alike, and no other one would serve
//! better. Who wants to know of a service names it.

use std::io::Write;
use std::path::PathBuf;

use super::{Failure, client, default_socket};
use crate::api::{ServerStatus, ServiceState, Status, path};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only if this service has a target, too; given once for each
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// The agent's admin socket
    #[arg(long, value_name = "PATH", env = "LB_SOCKET", default_value_os_t = default_socket())]
    socket: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let body = client::get(&arguments.socket, path::STATUS)?;
    let status: Status = serde_json::from_slice(&body).map_err(client::AskError::NotUnderstood)?;
    if let Some(reason) = missing(&status, &arguments.services) {
        return Err(Failure::NotReady { reason });
    }
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}

/// Why the balancer is not ready. That there is a status says a part: an agent
/// answers once it is attached, and ends where a NIC is gone.
fn missing(status: &Status, services: &[String]) -> Option<String> {
    let servers = || {
        let pools = status.pools.iter();
        pools.flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)))
    };
    // One that joined later is no sign of a balancer that has just started.
    let unchecked =
        |server: &ServerStatus| server.check.is_none() && server.since_ms >= status.uptime_ms;
    if let Some((pool, server)) = servers().find(|(_, server)| unchecked(server)) {
        let (pool, server) = (&pool.name, &server.name);
        return Some(format!("{pool}/{server} has not been checked yet"));
    }
    if !servers().any(|(_, server)| answers(server)) {
        let reason = "no server answers its checks; `lb status` shows them";
        return Some(reason.to_owned());
    }
    services.iter().find_map(|wanted| {
        let mut found = status.services.iter();
        match found.find(|service| service.name.as_str() == wanted) {
            None => Some(format!(
                "no service is named \"{wanted}\"; `lb status` lists them"
            )),
            Some(service) => match service.state {
                ServiceState::Serving => None,
                ServiceState::NoTarget => Some(format!("service \"{wanted}\" has no target")),
            },
        }
    })
}

/// Whether the server could be reached: a bad answer is one, too.
fn answers(server: &ServerStatus) -> bool {
    let check = server.check.as_ref();
    check.is_some_and(|check| !["L4CON", "L4TOUT"].contains(&check.code.as_str()))
}
