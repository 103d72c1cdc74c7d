//! The balancers that are compared, and how each is set up. All of them front
//! the same three nodes, by the same checks: `/primary` and `/replica`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::balancer::{POOL, READ_SERVICE, WRITE_SERVICE};
use crate::cluster::{self, HEALTH_PORT};
use crate::lab::address::{READ, VIP, WRITE};
use crate::lab::{Lab, NIC};

/// A way from the client to the node that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// `lb`, told by the nodes' `/watch`.
    Push,
    /// `lb`, by its own checks alone.
    Poll,
    /// HAProxy, checking as often as `lb` does.
    Tuned,
    /// HAProxy as Patroni's own example sets it up.
    Usual,
}

impl Way {
    /// All of them; those that take longest to recover stand last.
    pub const ALL: [Self; 4] = [Self::Push, Self::Poll, Self::Tuned, Self::Usual];

    /// What the rows call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "lb, push",
            Self::Poll => "lb, poll",
            Self::Tuned => "HAProxy, tuned",
            Self::Usual => "HAProxy, usual",
        }
    }

    /// Whether it is `lb`.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Push | Self::Poll => true,
            Self::Tuned | Self::Usual => false,
        }
    }

    /// For files, and in keys.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Poll => "poll",
            Self::Tuned => "tuned",
            Self::Usual => "usual",
        }
    }

    /// Where it listens: an address of its own.
    pub fn vip(self) -> Ipv4Addr {
        let [a, b, c, d] = VIP.octets();
        Ipv4Addr::new(a, b, c, d + 1 + self as u8)
    }

    /// Where the client writes.
    pub fn write(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.vip(), WRITE.port())
    }

    /// Where the client reads.
    pub fn read(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.vip(), READ.port())
    }
}

/// The `lb.toml` of `way`.
pub fn lb_toml(lab: &Lab, way: Way) -> String {
    let watch = match way {
        Way::Push => r#", watch = "/watch""#,
        Way::Poll | Way::Tuned | Way::Usual => "",
    };
    let mut servers = String::new();
    for id in 1..=lab.nodes().len() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            servers,
            "  {{ name = \"n{id}\", address = \"{}\" }},",
            cluster::api(id)
        );
    }
    format!(
        r#"interface = "{NIC}"
hook = "tc"
[pool.{POOL}]
check = {{ type = "http", port = {HEALTH_PORT}, interval = "100ms", timeout = "90ms", rise = 1, fall = 2 }}
role = {{ leader = "/primary", replica = "/replica"{watch} }}
server = [
{servers}]
[service.{WRITE_SERVICE}]
listen = "{}"
pool = "{POOL}"
route = "leader"
[service.{READ_SERVICE}]
listen = "{}"
pool = "{POOL}"
route = "replicas-first"
"#,
        way.write(),
        way.read(),
    )
}

/// The `haproxy.cfg` of `way`, which logs to `log`.
///
/// The usual one is what Patroni ships as its example, with our ports: its
/// timeouts, its checks, its sessions that end with their server. The tuned one
/// tells a client at once that a server does not accept: by itself HAProxy
/// waits for a second and tries the same server again.
pub fn haproxy_cfg(lab: &Lab, way: Way, log: SocketAddrV4) -> String {
    let (timeout, retries, checks) = match way {
        Way::Usual => ("5s", 2, "inter 3s fall 3 rise 2"),
        Way::Push | Way::Poll | Way::Tuned => ("90ms", 0, "inter 100ms fall 2 rise 1"),
    };
    let mut text = format!(
        "global
  maxconn 1000
  log {log} local0 notice
defaults
  log global
  mode tcp
  retries {retries}
  timeout client 30m
  timeout connect 4s
  timeout server 30m
  timeout check {timeout}
"
    );
    for (name, listen, path) in [
        ("write", way.write(), "/primary"),
        ("read", way.read(), "/replica"),
    ] {
        let _ = write!(
            text,
            "listen {name}
  bind {listen}
  option httpchk GET {path}
  http-check expect status 200
  default-server {checks} on-marked-down shutdown-sessions
"
        );
        for id in 1..=lab.nodes().len() {
            let _ = writeln!(
                text,
                "  server n{id} {} check port {HEALTH_PORT}",
                cluster::api(id)
            );
        }
    }
    text
}
