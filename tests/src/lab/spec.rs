//! What a lab is to consist of.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::record::{self, Record};

/// The name of the one lab that a user starts by hand.
const INTERACTIVE: &str = "lb";
/// Where the nodes' data goes: a disk, where `/run` may be memory.
const DATA: &str = "/var/tmp";

/// What a lab consists of.
#[derive(Debug, Clone)]
pub struct Spec {
    pub(super) name: String,
    pub(super) balancers: usize,
    pub(super) nodes: usize,
    pub(super) clients: usize,
    pub(super) root_access: bool,
    pub(super) checksums_verified: bool,
    pub(super) peer_program: bool,
    pub(super) remote_mtu: Option<u16>,
    pub(super) two_arms: bool,
}

impl Spec {
    /// A lab for a test: a name that no other lab has, one client.
    pub fn for_test(nodes: usize) -> Self {
        static SEQUENCE: AtomicU32 = AtomicU32::new(1);
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("lbt{}x{sequence}", std::process::id()),
            balancers: 1,
            nodes,
            clients: 1,
            root_access: false,
            checksums_verified: false,
            peer_program: true,
            remote_mtu: None,
            two_arms: false,
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

    /// With so many balancers' hosts. A switch port of theirs then brings no
    /// frames for other hosts, flooded because nobody knows where those are: a
    /// real NIC would not take them, but a veth does.
    pub fn balancers(mut self, balancers: usize) -> Self {
        self.balancers = balancers;
        self
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

    /// With one more host, [`remote`](super::Lab::remote), behind a router
    /// that forwards no packet longer than `mtu`, in either direction. Both
    /// ends believe in 1500 bytes until the router tells them better.
    ///
    /// # Panics
    /// If IPv6 could not be used over such a path, or nothing would be too
    /// long for it.
    pub fn remote_host(mut self, mtu: u16) -> Self {
        assert!(
            (1280..1500).contains(&mtu),
            "a narrow path takes from 1280 to 1499 bytes, not {mtu}"
        );
        self.remote_mtu = Some(mtu);
        self
    }

    /// With a second NIC of the balancer, [`BACK_NIC`](super::BACK_NIC), on a
    /// network of its own, and the nodes there: they and the clients share no
    /// link, and have no route to each other.
    pub fn two_arms(mut self) -> Self {
        self.two_arms = true;
        self
    }

    pub(super) fn namespace(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    pub(super) fn record(&self) -> Record {
        let run = Path::new(record::DIRECTORY).join(&self.name);
        let remote = self.remote_mtu.map(|_| ["router", "remote"]);
        let roles = ["switch"]
            .into_iter()
            .chain(remote.into_iter().flatten())
            .map(str::to_owned)
            .chain((1..=self.balancers).map(balancer_role))
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

pub(super) fn node_role(id: usize) -> String {
    format!("n{id}")
}

pub(super) fn client_role(number: usize) -> String {
    role("client", number)
}

pub(super) fn balancer_role(number: usize) -> String {
    role("balancer", number)
}

/// The first one needs no number: most labs have just one.
fn role(name: &str, number: usize) -> String {
    if number == 1 {
        name.to_owned()
    } else {
        format!("{name}{number}")
    }
}
