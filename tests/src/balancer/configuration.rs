//! The `lb.toml` of a lab.

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use crate::cluster;
use crate::lab::{Lab, NIC, address};

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
}

/// The configuration that a lab's `lb` is given: one pool, a write service to
/// its leader, a read service to its replicas.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// How to attach.
    pub hook: Hook,
    /// Each server's name and where it serves its clients; their health ports
    /// are all [`cluster::HEALTH_PORT`].
    pub servers: Vec<(String, SocketAddrV4)>,
    /// Lines for the pool's `check`, without its type and port.
    pub check: String,
    /// Further lines for the write service.
    pub write_service: String,
    /// Further lines for the read service.
    pub read_service: String,
    /// Lines before everything else.
    pub top: String,
}

impl Configuration {
    /// For the lab's nodes, checked ten times a second.
    pub fn for_nodes(lab: &Lab) -> Self {
        let ids = 1..=lab.nodes().len();
        Self {
            hook: Hook::Native,
            servers: ids.map(|id| (format!("n{id}"), cluster::api(id))).collect(),
            check: r#"interval = "100ms", timeout = "100ms", rise = 1, fall = 2"#.to_owned(),
            write_service: String::new(),
            read_service: String::new(),
            top: String::new(),
        }
    }

    /// As `lb.toml` has it.
    pub fn to_toml(&self) -> String {
        let Self {
            hook,
            servers,
            check,
            write_service,
            read_service,
            top,
        } = self;
        let hook = match hook {
            Hook::Native => "xdp-native",
            Hook::Generic => "xdp-generic",
        };
        let mut list = String::new();
        for (name, address) in servers {
            let _ = writeln!(list, "  {{ name = \"{name}\", address = \"{address}\" }},");
        }
        format!(
            r#"interface = "{NIC}"
hook = "{hook}"
{top}
[pool.{POOL}]
check = {{ type = "http", port = {port}, {check} }}
role = {{ leader = "/primary", replica = "/replica" }}
server = [
{list}]

[service.{WRITE_SERVICE}]
listen = "{write}"
pool = "{POOL}"
route = "leader"
{write_service}
[service.{READ_SERVICE}]
listen = "{read}"
pool = "{POOL}"
route = "replicas-first"
{read_service}"#,
            port = cluster::HEALTH_PORT,
            write = address::WRITE,
            read = address::READ,
        )
    }
}
