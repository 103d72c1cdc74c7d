//! The ways from a client to a server: none in between, ours, and what else
//! people have. Every one of them is one-armed, full NAT, and runs in a lab of
//! its own, so that it has its own SNAT address and nobody else's TIME_WAIT.
//!
//! Each peer is given what its manual recommends for throughput:
//! - **nftables**: one rule for each direction, connection tracking with the
//!   kernel's defaults.
//! - **HAProxy**: mode tcp, one thread a CPU (its default), splicing, and
//!   connections enough; neither logs nor statistics.
//! - **nginx stream**: one process a CPU with `reuseport`, a long backlog, no
//!   logs.
//!
//! Both proxies get the wider range of source ports that their manuals ask for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::load::{BULK, HTTP};
use super::relay::Relay;
use crate::balancer::{Balancer, Hook};
use crate::lab::{Lab, NIC, Process, Spec, address};
use crate::patience::wait_for;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way from the client to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing in between.
    Direct,
    /// A program that only swaps MAC addresses, in the place of ours.
    Relay(Hook),
    /// `lb`, by a hook.
    Lb(Hook),
    /// DNAT and SNAT in the kernel.
    Nftables,
    /// HAProxy in mode tcp.
    Haproxy,
    /// nginx's stream module.
    NginxStream,
}

impl Way {
    /// All of them; the first one is what the others are compared with.
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::Relay(Hook::Native),
        Self::Relay(Hook::Generic),
        Self::Relay(Hook::Tc),
        Self::Lb(Hook::Native),
        Self::Lb(Hook::Generic),
        Self::Lb(Hook::Tc),
        Self::Nftables,
        Self::Haproxy,
        Self::NginxStream,
    ];

    /// What the rows call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay(Hook::Native) => "redirect only, xdp-native",
            Self::Relay(Hook::Generic) => "redirect only, xdp-generic",
            Self::Relay(Hook::Tc) => "redirect only, tc",
            Self::Lb(Hook::Native) => "lb xdp-native",
            Self::Lb(Hook::Generic) => "lb xdp-generic",
            Self::Lb(Hook::Tc) => "lb tc",
            Self::Nftables => "nftables DNAT+SNAT",
            Self::Haproxy => "HAProxy TCP",
            Self::NginxStream => "nginx stream",
        }
    }

    /// The lab that it needs.
    pub fn spec(self) -> Spec {
        let spec = Spec::for_test(1);
        match self {
            Self::Lb(Hook::Native) => spec,
            // Native XDP on veth gives unfinished checksums for finished ones,
            // and nobody on the way finishes them.
            Self::Relay(Hook::Native) => spec.checksums_verified(),
            _ => spec.without_peer_program(),
        }
    }

    /// Where the client finds the server that listens on `port`.
    pub fn entrance(self, port: u16) -> SocketAddrV4 {
        let address = match self {
            Self::Direct | Self::Relay(_) => address::node(1),
            _ => address::VIP,
        };
        SocketAddrV4::new(address, port)
    }

    /// Starts what is in between.
    pub fn start(self, lab: &Lab) -> Result<Running> {
        let running = match self {
            Self::Direct => Running::default(),
            Self::Relay(hook) => Running {
                _relay: Some(Relay::start(lab, hook)?),
                ..Running::default()
            },
            Self::Lb(hook) => lb(lab, hook)?,
            Self::Nftables => nftables(lab)?,
            Self::Haproxy => haproxy(lab)?,
            Self::NginxStream => nginx_stream(lab)?,
        };
        Ok(running)
    }
}

/// What is in between, for as long as this lives.
#[derive(Debug, Default)]
pub struct Running {
    _relay: Option<Relay>,
    _balancer: Option<Balancer>,
    _processes: Vec<Process>,
}

fn lb(lab: &Lab, hook: Hook) -> Result<Running> {
    let hook = hook.name();
    let node = address::node(1);
    let mut toml = format!("interface = \"{NIC}\"\nhook = \"{hook}\"\n");
    for (name, port) in [("http", HTTP), ("bulk", BULK)] {
        toml += &format!(
            r#"
[pool.{name}]
server = [{{ name = "n1", address = "{node}:{port}" }}]
check = {{ type = "tcp", port = {HTTP}, interval = "500ms", rise = 1, fall = 10 }}
[service.{name}]
listen = "{vip}:{port}"
pool = "{name}"
route = "any"
"#,
            vip = address::VIP,
        );
    }
    let mut balancer = Balancer::with_configuration(lab, &toml)?;
    balancer.start_again()?;
    balancer.wait_for_status("waiting for both services", PATIENCE, |status| {
        ["http", "bulk"]
            .iter()
            .all(|name| !status.targets(name).is_empty())
    })?;
    Ok(Running {
        _balancer: Some(balancer),
        ..Running::default()
    })
}

fn nftables(lab: &Lab) -> Result<Running> {
    let (node, vip, own) = (address::node(1), address::VIP, address::BALANCER);
    own_vip(lab, vip)?;
    let balancer = lab.balancer();
    balancer.set_sysctl("ipv4/ip_forward", "1")?;
    // What comes by one interface and leaves by it, the kernel would tell the
    // client to send elsewhere.
    balancer.set_sysctl("ipv4/conf/all/send_redirects", "0")?;
    balancer.set_sysctl(&format!("ipv4/conf/{NIC}/send_redirects"), "0")?;
    let rules = format!(
        "table ip bench {{
  chain in {{
    type nat hook prerouting priority dstnat;
    ip daddr {vip} tcp dport {{ {HTTP}, {BULK} }} dnat to {node}
  }}
  chain out {{
    type nat hook postrouting priority srcnat;
    ip daddr {node} snat to {own}
  }}
}}
"
    );
    let file = lab.run_directory().join("bench.nft");
    fs::write(&file, rules)?;
    let mut nft = Command::new("nft");
    nft.arg("-f").arg(&file);
    finish(lab, nft)?;
    Ok(Running::default())
}

fn haproxy(lab: &Lab) -> Result<Running> {
    let (node, vip) = (address::node(1), address::VIP);
    own_vip(lab, vip)?;
    let balancer = lab.balancer();
    balancer.set_sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    balancer.set_sysctl("core/somaxconn", "4096")?;
    let mut text = "global
  maxconn 4000
  fd-hard-limit 20000
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"
    .to_owned();
    for (name, port) in [("http", HTTP), ("bulk", BULK)] {
        text += &format!("listen {name}\n  bind {vip}:{port}\n  server n1 {node}:{port}\n");
    }
    let file = lab.run_directory().join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let log = lab.run_directory().join("haproxy.log");
    Ok(Running {
        _processes: vec![balancer.spawn(command, &log)?],
        ..Running::default()
    })
}

fn nginx_stream(lab: &Lab) -> Result<Running> {
    let (node, vip) = (address::node(1), address::VIP);
    own_vip(lab, vip)?;
    let balancer = lab.balancer();
    balancer.set_sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    balancer.set_sysctl("core/somaxconn", "4096")?;
    let mut text = String::new();
    for port in [HTTP, BULK] {
        text += &format!(
            "server {{ listen {vip}:{port} reuseport backlog=4096; proxy_pass {node}:{port}; }}\n"
        );
    }
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let top = format!("load_module {module};\n");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let processes = (0..cpus)
        .map(|index| {
            nginx(
                lab,
                Place::Balancer,
                index,
                &top,
                &format!("stream {{\n{text}}}\n"),
            )
        })
        .collect::<Result<_>>()?;
    Ok(Running {
        _processes: processes,
        ..Running::default()
    })
}

/// Where an nginx runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the balancer's namespace.
    Balancer,
    /// On the one node.
    Node,
}

/// One nginx of one process: with workers of its own, it would wipe the
/// environment that tells whoever cleans up whose process it is.
pub fn nginx(lab: &Lab, place: Place, index: usize, top: &str, block: &str) -> Result<Process> {
    let (namespace, name) = match place {
        Place::Balancer => (lab.balancer(), format!("nginx-{index}")),
        Place::Node => (lab.node(1), format!("nginx-node-{index}")),
    };
    let run = lab.run_directory();
    let text = format!(
        "{top}daemon off;
master_process off;
pid {run}/{name}.pid;
error_log {run}/{name}.err crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
{block}",
        run = run.display(),
    );
    let file = run.join(format!("{name}.conf"));
    fs::write(&file, text)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file);
    command.arg("-e").arg(run.join(format!("{name}.err")));
    namespace.spawn(command, &run.join(format!("{name}.log")))
}

/// Gives the balancer's host the VIP, for those that need it there. The lab
/// asks nobody whether an address is free.
fn own_vip(lab: &Lab, vip: Ipv4Addr) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["addr", "add", &format!("{vip}/32"), "dev", NIC]);
    finish(lab, ip)
}

/// Runs a short command in the balancer's namespace to its end.
fn finish(lab: &Lab, command: Command) -> Result<()> {
    let log = lab.run_directory().join("setup.log");
    let mut process = lab.balancer().spawn(command, &log)?;
    let status =
        wait_for(PATIENCE, || process.exit_status()).context("a set-up command does not end")?;
    ensure!(status.success(), "{}", process.last_lines(5));
    Ok(())
}
