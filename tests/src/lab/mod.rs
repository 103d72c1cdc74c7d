//! A lab: a switch, a balancer's host, nodes and clients, each in a network
//! namespace, on one Ethernet.
//!
//! ```text
//!  client ──┐             ┌── n1
//!  client2 ─┤             ├── n2
//!  balancer ┴── switch ───┴── n3      (root: a veth of its own, if asked for)
//! ```
//!
//! A [`Lab`] owns all it makes, and removes it when dropped; if its owner is
//! killed, whoever makes the next lab does. Nothing outside of its namespaces
//! is changed, but for that one veth. [`address`] says who has which address.

pub mod address;
mod ip;
mod namespace;
mod peer;
mod process;
mod record;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};

pub use self::namespace::Namespace;
pub(crate) use self::namespace::joined;
use self::peer::PeerProgram;
pub use self::process::Process;
pub use self::record::clean_up;
use self::record::{Claim, Record};

/// The name of every member's NIC, inside its namespace.
pub const NIC: &str = "eth0";
/// The name of the one lab that a user starts by hand.
const INTERACTIVE: &str = "lb";
/// Where the nodes' data goes: a disk, where `/run` may be memory.
const DATA: &str = "/var/tmp";

/// What a lab consists of.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    nodes: usize,
    clients: usize,
    root_access: bool,
    checksums_verified: bool,
    peer_program: bool,
}

impl Spec {
    /// A lab for a test: a name that no other lab has, one client.
    pub fn for_test(nodes: usize) -> Self {
        static SEQUENCE: AtomicU32 = AtomicU32::new(1);
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("lbt{}x{sequence}", std::process::id()),
            nodes,
            clients: 1,
            root_access: false,
            checksums_verified: false,
            peer_program: true,
        }
    }

    /// The lab that a user looks at: fixed names, reachable from root's own
    /// namespace. There can be one at a time.
    pub fn interactive(nodes: usize) -> Self {
        Self {
            name: INTERACTIVE.to_owned(),
            root_access: true,
            ..Self::for_test(nodes)
        }
    }

    /// With so many clients.
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Every sender finishes its checksums, every receiver verifies them.
    /// Otherwise segments between namespaces carry unfinished ones that nobody
    /// looks at, and a wrong rewrite goes unnoticed.
    pub fn checksums_verified(mut self) -> Self {
        self.checksums_verified = true;
        self
    }

    /// Without the XDP program that native XDP on the balancer's veth needs on
    /// the far side: for generic XDP, which is better off without it.
    pub fn without_peer_program(mut self) -> Self {
        self.peer_program = false;
        self
    }

    fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    fn record(&self) -> Record {
        let run = Path::new(record::DIRECTORY).join(&self.name);
        let roles = ["switch".to_owned(), "balancer".to_owned()]
            .into_iter()
            .chain((1..=self.nodes).map(node_role))
            .chain((1..=self.clients).map(client_role));
        Record {
            lab: self.name.clone(),
            owner: std::process::id(),
            namespaces: roles.map(|role| self.namespace(&role)).collect(),
            root_link: self.root_access.then(|| self.namespace("root")),
            bpffs: run.join("bpf"),
            directories: vec![run, Path::new(DATA).join(format!("lb-lab-{}", self.name))],
        }
    }
}

fn node_role(id: usize) -> String {
    format!("n{id}")
}

/// The first one needs no number: most labs have just one.
fn client_role(number: usize) -> String {
    if number == 1 {
        "client".to_owned()
    } else {
        format!("client{number}")
    }
}

/// A running lab. Everything that it made is removed when it is dropped, the
/// processes in it included.
#[derive(Debug)]
pub struct Lab {
    switch: Namespace,
    balancer: Namespace,
    nodes: Vec<Namespace>,
    clients: Vec<Namespace>,
    run: PathBuf,
    bpffs: PathBuf,
    data: PathBuf,
    /// Before the claim: detached before its port is removed.
    peer: Option<PeerProgram>,
    _claim: Removal,
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
            balancer: namespace("balancer")?,
            nodes: Vec::new(),
            clients: Vec::new(),
            run: run.clone(),
            bpffs: record.bpffs.clone(),
            data: data.clone(),
            peer: None,
            _claim: claim,
        };
        for id in 1..=spec.nodes {
            lab.nodes.push(namespace(&node_role(id))?);
        }
        for number in 1..=spec.clients {
            lab.clients.push(namespace(&client_role(number))?);
        }
        lab.connect(spec)?;
        if spec.peer_program {
            lab.peer = Some(PeerProgram::attach(&lab.switch, "balancer")?);
        }
        Ok(lab)
    }

    /// The balancer's namespace.
    pub fn balancer(&self) -> &Namespace {
        &self.balancer
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

    /// Cuts node `id` off from all other nodes, in both directions. The
    /// balancer and the clients still reach it.
    pub fn isolate(&self, id: usize) -> Result<()> {
        self.change_routes(id, "add")
    }

    /// Ends the isolation of node `id`.
    pub fn rejoin(&self, id: usize) -> Result<()> {
        self.change_routes(id, "del")
    }

    /// A blackhole for each peer stops what the node sends; and since the node
    /// filters by reverse path (see `connect`), also what it would receive.
    fn change_routes(&self, id: usize, verb: &str) -> Result<()> {
        let lines: Vec<String> = (1..=self.nodes.len())
            .filter(|&peer| peer != id)
            .map(|peer| format!("route {verb} blackhole {}/32", address::node(peer)))
            .collect();
        ip::batch(self.node(id).name(), &lines)
    }

    fn connect(&self, spec: &Spec) -> Result<()> {
        let mut members = vec![(
            "balancer".to_owned(),
            self.balancer.clone(),
            address::BALANCER,
        )];
        for (id, namespace) in (1..).zip(&self.nodes) {
            members.push((node_role(id), namespace.clone(), address::node(id)));
        }
        for (number, namespace) in (1..).zip(&self.clients) {
            members.push((
                client_role(number),
                namespace.clone(),
                address::client(number),
            ));
        }
        // No port ever waits to learn, and no multicast snooper drops what it
        // has not heard of yet.
        let mut lines =
            vec!["link add br0 type bridge forward_delay 0 mcast_snooping 0".to_owned()];
        for (port, namespace, _) in &members {
            lines.push(format!(
                "link add {port} type veth peer name {NIC} netns {}",
                namespace.name()
            ));
            lines.push(format!("link set {port} master br0 up"));
        }
        lines.push("link set br0 up".to_owned());
        quiet(&self.switch)?;
        ip::batch(self.switch.name(), &lines)?;
        for (port, namespace, address) in &members {
            self.configure(spec, port, namespace, *address)?;
        }
        for client in &self.clients {
            // Tens of thousands of short connections from one address.
            client.set_sysctl("ipv4/ip_local_port_range", "10000 65000")?;
        }
        if spec.root_access {
            self.connect_root(&spec.namespace("root"))?;
        }
        Ok(())
    }

    fn configure(
        &self,
        spec: &Spec,
        port: &str,
        namespace: &Namespace,
        address: Ipv4Addr,
    ) -> Result<()> {
        quiet(namespace)?;
        // By reverse path: see `change_routes`.
        namespace.set_sysctl("ipv4/conf/all/rp_filter", "1")?;
        let lines = [
            format!("addr add {address}/{} dev {NIC}", address::PREFIX),
            format!("link set {NIC} up"),
        ];
        ip::batch(namespace.name(), &lines)?;
        if spec.checksums_verified {
            ip::checksums_in_full(namespace.name(), NIC)?;
            ip::checksums_in_full(self.switch.name(), port)?;
        }
        Ok(())
    }

    /// A veth from root's own namespace to the switch. The interface's own
    /// sysctls in root's namespace are left alone.
    fn connect_root(&self, link: &str) -> Result<()> {
        let lines = [
            "link add root type veth peer name root-peer".to_owned(),
            "link set root master br0 up".to_owned(),
            // Renamed as it moves; `netns 1` is the namespace of process 1,
            // which a container's root need not be in: so by our own id.
            format!(
                "link set root-peer name {link} netns {}",
                std::process::id()
            ),
        ];
        ip::batch(self.switch.name(), &lines)?;
        let address = format!("{}/{}", address::ROOT, address::PREFIX);
        ip::ip(&["addr", "add", &address, "dev", link])?;
        ip::ip(&["link", "set", link, "up"])
    }
}

/// No IPv6 for now, and so no router solicitations and duplicate address
/// detection: the packets of a lab are those that a test sends.
fn quiet(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    namespace.set_sysctl("ipv6/conf/default/disable_ipv6", "1")
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
