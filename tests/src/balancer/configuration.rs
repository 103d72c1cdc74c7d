//! The `lb.toml` of a lab.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::cluster;
use crate::lab::address::Family;
use crate::lab::{Lab, NIC, Spec};

/// The pool of every lab's balancer.
pub const POOL: &str = "kv";
/// Its write service.
pub const WRITE_SERVICE: &str = "kv-write";
/// Its read service.
pub const READ_SERVICE: &str = "kv-read";
/// How `lb` attaches to its NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// After the driver, on whole socket buffers.
    Generic,
    /// At TC ingress.
    Tc,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Native, Self::Generic, Self::Tc];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
            Self::Tc => "tc",
        }
    }

    /// The same lab, as this hook needs it.
    pub fn lab(self, spec: Spec) -> Spec {
        match self {
            Self::Native => spec,
            Self::Generic | Self::Tc => spec.without_peer_program(),
        }
    }
}

/// The configuration that a lab's `lb` is given: one pool, a write service to
/// its leader, a read service to its replicas.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The NICs to attach to.
    pub interfaces: Vec<&'static str>,
    /// How to attach.
    pub hook: Hook,
    /// That of the VIP.
    pub family: Family,
    /// In the order of the nodes.
    pub servers: Vec<Entry>,
    /// Lines for the pool's `check`, without its type and port.
    pub check: String,
    /// Further lines for the pool.
    pub pool: String,
    /// Further lines for the write service.
    pub write_service: String,
    /// The read service's route.
    pub read_route: &'static str,
    /// Further lines for the read service.
    pub read_service: String,
    /// Lines before everything else.
    pub top: String,
}

/// A server of the pool.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where it serves its clients; the health ports are all
    /// [`cluster::HEALTH_PORT`].
    pub address: SocketAddr,
    /// Further keys, as `weight = 3, max_connections = 5`.
    pub keys: String,
}

impl Entry {
    /// A server without further keys.
    pub fn new(name: impl Into<String>, address: impl Into<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
            keys: String::new(),
        }
    }
}

impl Configuration {
    /// For the lab's nodes by IPv4, checked ten times a second.
    pub fn for_nodes(lab: &Lab) -> Self {
        Self::in_family(lab, Family::V4)
    }

    /// As [`for_nodes`](Self::for_nodes), by IPv4 or by IPv6, on whichever
    /// network they are.
    pub fn in_family(lab: &Lab, family: Family) -> Self {
        let server = |id| {
            let address = SocketAddr::new(lab.node_address(family, id), cluster::API_PORT);
            Entry::new(format!("n{id}"), address)
        };
        Self {
            interfaces: vec![NIC],
            hook: Hook::Native,
            family,
            servers: (1..=lab.nodes().len()).map(server).collect(),
            check: r#"interval = "100ms", timeout = "100ms", rise = 1, fall = 2"#.to_owned(),
            pool: String::new(),
            write_service: String::new(),
            read_route: "replicas-first",
            read_service: String::new(),
            top: String::new(),
        }
    }

    /// As `lb.toml` has it.
    pub fn to_toml(&self) -> String {
        let Self {
            interfaces,
            hook,
            family,
            servers,
            check,
            pool,
            write_service,
            read_route,
            read_service,
            top,
        } = self;
        let hook = hook.name();
        let mut list = String::new();
        for Entry {
            name,
            address,
            keys,
        } in servers
        {
            let comma = if keys.is_empty() { "" } else { ", " };
            let _ = writeln!(
                list,
                "  {{ name = \"{name}\", address = \"{address}\"{comma}{keys} }},"
            );
        }
        format!(
            r#"interface = {interfaces:?}
hook = "{hook}"
{top}
[pool.{POOL}]
check = {{ type = "http", port = {port}, {check} }}
role = {{ leader = "/primary", replica = "/replica" }}
server = [
{list}]
{pool}
[service.{WRITE_SERVICE}]
listen = "{write}"
pool = "{POOL}"
route = "leader"
{write_service}
[service.{READ_SERVICE}]
listen = "{read}"
pool = "{POOL}"
route = "{read_route}"
{read_service}"#,
            port = cluster::HEALTH_PORT,
            write = family.write(),
            read = family.read(),
        )
    }
}
