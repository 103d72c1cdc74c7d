//! What the lab and the tests read of `lb`'s JSON: a part of it, by the names
//! that users script against.

use serde::Deserialize;

/// What the lab and the tests read of `lb status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Process id of the agent.
    pub pid: u32,
    /// Every service.
    pub services: Vec<Service>,
    /// Every pool.
    pub pools: Vec<Pool>,
}

impl Status {
    /// The names of the servers that a service uses now.
    pub fn targets(&self, service: &str) -> Vec<&str> {
        self.services
            .iter()
            .filter(|present| present.name == service)
            .flat_map(|service| &service.targets)
            .map(|target| target.server.as_str())
            .collect()
    }
}

/// One service of [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `serving` or `no-target`.
    pub state: String,
    /// The servers that new connections may go to.
    pub targets: Vec<Target>,
}

/// One target of [`Service`].
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    /// The id that the kernel's tables use.
    pub id: u32,
    /// The server's name.
    pub server: String,
    /// Open connections, as of the last sweep.
    pub connections: u64,
}

/// One pool of [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The server that leads.
    pub leader: Option<String>,
    /// Its term.
    pub term: Option<u64>,
    /// What is wrong with the pool.
    pub problem: Option<String>,
    /// Every server.
    pub servers: Vec<Server>,
}

/// One server of [`Pool`].
#[derive(Debug, Clone, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// `UP`, `DOWN`, `DRAIN` or `MAINT`.
    pub state: String,
    /// `leader`, `replica` or `unknown`.
    pub role: String,
}

/// What the lab and the tests read of `lb stats --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Stats {
    /// Packets by verdict and reason.
    pub verdicts: Vec<VerdictCount>,
    /// Connections by service.
    pub services: Vec<ServiceCount>,
    /// Traffic by target.
    pub targets: Vec<TargetCount>,
}

impl Stats {
    /// Packets that met their verdict for this reason.
    pub fn packets(&self, reason: &str) -> u64 {
        let with_reason = self.verdicts.iter().filter(|one| one.reason == reason);
        with_reason.map(|one| one.packets).sum()
    }

    /// What is counted of a service; zeros if it is not there.
    pub fn service(&self, name: &str) -> ServiceCount {
        let mut services = self.services.iter();
        let found = services.find(|one| one.service == name);
        found.cloned().unwrap_or_default()
    }
}

/// One service of [`Stats`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ServiceCount {
    /// The service's name.
    pub service: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused.
    pub refused: u64,
}

/// One verdict of [`Stats`].
#[derive(Debug, Clone, Deserialize)]
pub struct VerdictCount {
    /// Why.
    pub reason: String,
    /// `pass`, `drop`, `transmit`, `redirect` or `reset`.
    pub action: String,
    /// How many.
    pub packets: u64,
}

/// One target of [`Stats`].
#[derive(Debug, Clone, Deserialize)]
pub struct TargetCount {
    /// The service's name.
    pub service: String,
    /// The server's name.
    pub server: String,
    /// Connections that are open.
    pub open: u64,
    /// Connections that it was ever given.
    pub connections: u64,
    /// Packets from clients to the server.
    pub packets_in: u64,
    /// Packets from the server to clients.
    pub packets_out: u64,
    /// Bytes from clients to the server.
    pub bytes_in: u64,
    /// Bytes from the server to clients.
    pub bytes_out: u64,
}

/// What the lab and the tests read of `lb flows --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Flows {
    /// One entry per connection, not more than the limit.
    pub flows: Vec<Flow>,
    /// How many there are.
    pub total: u64,
}

/// One connection of [`Flows`].
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// The service's name.
    pub service: String,
    /// The client's address and port.
    pub client: String,
    /// What the server sees as its peer.
    pub snat: String,
    /// The server's name.
    pub server_name: String,
    /// As the data path tracks it.
    pub state: String,
}
