//! A lab: a switch, a balancer's host, nodes and clients, each in a network
//! namespace, on one Ethernet.
//!
//! ```text
//!  client ──┐             ┌── n1
//!  client2 ─┤             ├── n2
//!  balancer ┴── switch ───┴── n3      (root: a veth of its own, if asked for)
//! ```
//!
//! Each has an IPv4 and an IPv6 address. A [`Spec`] may ask for more: a host
//! behind a router with a narrow path, the nodes behind a second NIC of the
//! balancer, or several balancers.
//!
//! ```text
//!  client ───┬─ switch ── balancer ── switch ──┬── n1
//!  client2 ──┤  (front)                (back)  └── n2
//!  remote ── router
//! ```
//!
//! A [`Lab`] owns all it makes, and removes it when dropped; if its owner is
//! killed, whoever makes the next lab does. Nothing outside of its namespaces
//! is changed, but for that one veth. [`address`] says who has which address.

pub mod address;
pub(crate) mod ip;
mod namespace;
mod process;
mod program;
mod record;
mod spec;
mod wiring;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};

use self::address::{Family, Host, Network};
pub use self::namespace::Namespace;
pub(crate) use self::namespace::joined;
pub use self::process::Process;
pub use self::program::AttachedProgram;
use self::program::Program;
use self::record::Claim;
pub use self::record::clean_up;
pub use self::spec::Spec;
use self::spec::{balancer_role, client_role, node_role};

/// The name of every member's NIC, inside its namespace.
pub const NIC: &str = "eth0";
/// The name of the balancer's second NIC, where it has one.
pub const BACK_NIC: &str = "eth1";
/// The metric of the routes between two nodes that are severed: that of an
/// isolated one's is its number, which is less.
const SEVERED: usize = 1000;

/// A running lab. Everything that it made is removed when it is dropped, the
/// processes in it included.
#[derive(Debug)]
pub struct Lab {
    switch: Namespace,
    balancers: Vec<Namespace>,
    nodes: Vec<Namespace>,
    clients: Vec<Namespace>,
    remote: Option<Remote>,
    nodes_network: Network,
    run: PathBuf,
    bpffs: PathBuf,
    data: PathBuf,
    /// Before the claim: detached before their ports are removed.
    peers: Vec<AttachedProgram>,
    _claim: Removal,
}

/// A host that is a router away.
#[derive(Debug)]
struct Remote {
    router: Namespace,
    host: Namespace,
}

impl Lab {
    /// Cleans up after dead labs, then builds the one that `spec` describes.
    pub fn new(spec: &Spec) -> Result<Self> {
        let record = spec.record();
        let claim = Removal(Claim::new(record.clone())?);
        let [run, data] = &record.directories[..] else {
            unreachable!("`record` names two directories");
        };
        for directory in [run, data, &record.bpffs] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        mount("bpf", &record.bpffs, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a bpffs on {}", record.bpffs.display()))?;
        let namespace = |role: &str| Namespace::create(spec.namespace(role), &spec.name);
        let mut lab = Self {
            switch: namespace("switch")?,
            balancers: Vec::new(),
            nodes: Vec::new(),
            clients: Vec::new(),
            remote: None,
            nodes_network: if spec.two_arms {
                Network::Back
            } else {
                Network::Front
            },
            run: run.clone(),
            bpffs: record.bpffs.clone(),
            data: data.clone(),
            peers: Vec::new(),
            _claim: claim,
        };
        for number in 1..=spec.balancers {
            lab.balancers.push(namespace(&balancer_role(number))?);
        }
        for id in 1..=spec.nodes {
            lab.nodes.push(namespace(&node_role(id))?);
        }
        for number in 1..=spec.clients {
            lab.clients.push(namespace(&client_role(number))?);
        }
        if spec.remote_mtu.is_some() {
            lab.remote = Some(Remote {
                router: namespace("router")?,
                host: namespace("remote")?,
            });
        }
        wiring::connect(&lab, spec)?;
        if spec.peer_program {
            let front = (1..=spec.balancers).map(balancer_role);
            let back = (1..=spec.balancers).filter(|_| spec.two_arms);
            for port in front.chain(back.map(back_port)) {
                let program = AttachedProgram::new(Program::Pass, &lab.switch, &port)?;
                lab.peers.push(program);
            }
        }
        Ok(lab)
    }

    /// The first balancer's namespace.
    pub fn balancer(&self) -> &Namespace {
        &self.balancers[0]
    }

    /// All balancers' namespaces.
    pub fn balancers(&self) -> &[Namespace] {
        &self.balancers
    }

    /// The first client's namespace.
    pub fn client(&self) -> &Namespace {
        &self.clients[0]
    }

    /// All clients' namespaces.
    pub fn clients(&self) -> &[Namespace] {
        &self.clients
    }

    /// The namespace of node `id`, counted from 1.
    pub fn node(&self, id: usize) -> &Namespace {
        &self.nodes[id - 1]
    }

    /// All nodes' namespaces; that of node 1 first.
    pub fn nodes(&self) -> &[Namespace] {
        &self.nodes
    }

    /// The switch's namespace: its ports are named by who is at the other end.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Its own run directory, for sockets, configuration and logs.
    pub fn run_directory(&self) -> &Path {
        &self.run
    }

    /// Its own bpffs.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Its own directory on disk, for the nodes' data.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// The namespace of the host behind the router.
    ///
    /// # Panics
    /// If the lab has none: see [`Spec::remote_host`].
    pub fn remote(&self) -> &Namespace {
        &self.remote_and_router().host
    }

    /// The namespace of the router before that host.
    ///
    /// # Panics
    /// As [`remote`](Self::remote).
    pub fn router(&self) -> &Namespace {
        &self.remote_and_router().router
    }

    fn remote_and_router(&self) -> &Remote {
        let remote = self.remote.as_ref();
        remote.expect("the lab has a remote host (`Spec::remote_host`)")
    }

    /// The address of node `id` in this lab, on whichever network it is.
    pub fn node_address(&self, family: Family, id: usize) -> IpAddr {
        self.nodes_network.address(family, Host::Node(id))
    }

    /// Pulls the cable of the balancer `number`, counted from 1, at the switch:
    /// its NIC has no carrier any more.
    pub fn unplug_balancer(&self, number: usize) -> Result<()> {
        self.set_port(&balancer_role(number), "down")
    }

    /// Puts it back.
    pub fn plug_balancer(&self, number: usize) -> Result<()> {
        self.set_port(&balancer_role(number), "up")
    }

    fn set_port(&self, port: &str, state: &str) -> Result<()> {
        ip::batch(self.switch.name(), &[format!("link set {port} {state}")])
    }

    /// Cuts node `id` off from all other nodes, in both directions. The
    /// balancer and the clients still reach it.
    pub fn isolate(&self, id: usize) -> Result<()> {
        self.change_routes(id, "add")
    }

    /// Ends the isolation of node `id`.
    pub fn rejoin(&self, id: usize) -> Result<()> {
        self.change_routes(id, "del")
    }

    /// Blackholes at both ends: for what the node sends, and for what is sent
    /// to it. The metric tells whose isolation a route belongs to, for two
    /// nodes may be isolated from each other.
    fn change_routes(&self, id: usize, verb: &str) -> Result<()> {
        let blackhole = |to: usize| Family::BOTH.map(|family| self.blackhole(family, to, verb, id));
        let peers = || (1..=self.nodes.len()).filter(|&peer| peer != id);
        let lines: Vec<String> = peers().flat_map(blackhole).collect();
        ip::batch(self.node(id).name(), &lines)?;
        for peer in peers() {
            ip::batch(self.node(peer).name(), &blackhole(id))?;
        }
        Ok(())
    }

    /// Cuts two nodes off from each other, and from nobody else.
    pub fn sever(&self, one: usize, other: usize) -> Result<()> {
        self.change_routes_between(one, other, "add")
    }

    /// Ends that.
    pub fn mend(&self, one: usize, other: usize) -> Result<()> {
        self.change_routes_between(one, other, "del")
    }

    fn change_routes_between(&self, one: usize, other: usize, verb: &str) -> Result<()> {
        for (from, to) in [(one, other), (other, one)] {
            let line = |family| self.blackhole(family, to, verb, SEVERED);
            ip::batch(self.node(from).name(), &Family::BOTH.map(line))?;
        }
        Ok(())
    }

    fn blackhole(&self, family: Family, to: usize, verb: &str, metric: usize) -> String {
        let (to, length) = (self.node_address(family, to), family.host_prefix());
        format!("route {verb} blackhole {to}/{length} metric {metric}")
    }

    /// Lets node `id` take packets that reach it in a tunnel, IPv4 in IPv4 and
    /// IPv6 in IPv6, for as long as what this returns is held.
    pub fn decapsulate(&self, id: usize) -> Result<AttachedProgram> {
        AttachedProgram::new(Program::Decapsulate, self.node(id), NIC)
    }

    /// Gives node `id` the VIPs, of both families, on its loopback: it takes
    /// packets to them and answers from them, but tells nobody that it has
    /// them. So a balancer can leave a packet's addresses alone.
    pub fn own_vips(&self, id: usize) -> Result<()> {
        let node = self.node(id);
        // ARP only for what is on the NIC that is asked, and only about that.
        // IPv6 does so by itself.
        node.set_sysctl("ipv4/conf/all/arp_ignore", "1")?;
        node.set_sysctl("ipv4/conf/all/arp_announce", "2")?;
        let lines = Family::BOTH
            .map(|family| wiring::add_address(family.vip(), family.host_prefix(), "lo"));
        ip::batch(node.name(), &lines)
    }
}

/// The switch's port at the other end of a balancer's second NIC.
fn back_port(balancer: usize) -> String {
    format!("{}-back", balancer_role(balancer))
}

/// Tears the lab down when dropped, also while it is half built.
#[derive(Debug)]
struct Removal(Claim);

impl Drop for Removal {
    fn drop(&mut self) {
        if let Err(error) = self.0.release() {
            eprintln!("the lab could not be removed; the next one tries again: {error:#}");
        }
    }
}
