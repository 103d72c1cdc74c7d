//! What most of these tests need: servers that say who they are, and `lb` in
//! front of all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_tests::balancer::{Balancer, Configuration, Hook, READ_SERVICE, Stats, TargetCount};
use lb_tests::fake::{Claim, FakeNode};
use lb_tests::http::Connection;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Namespace, Spec};
use lb_tests::patience::wait_until;
use lb_tests::traffic::Failure;

use super::PATIENCE;

/// Every hook, with each family, and both in words.
pub fn in_every_way(through: impl Fn(Hook, Family, &str)) {
    for hook in Hook::ALL {
        for family in Family::BOTH {
            through(hook, family, &format!("{hook:?} {family:?}"));
        }
    }
}

/// The keys of a server that serves only while no other can.
pub const BACKUP: &str = "backup = true";

/// A lab with one node, as `hook` needs it, in which everybody looks at
/// checksums.
pub fn strict_lab(hook: Hook) -> Lab {
    let spec = Spec::for_test(1).checksums_verified();
    Lab::new(&hook.lab(spec)).unwrap()
}

/// A lab with `lb` and a server on each node. The read service has them all,
/// the write service the first.
pub struct Stage {
    /// Before the lab, so that it ends first.
    pub balancer: Balancer,
    nodes: Vec<Option<FakeNode>>,
    pub lab: Lab,
    family: Family,
}

impl Stage {
    /// With three servers, by IPv4, the configuration changed; serving.
    pub fn start(change: impl FnOnce(&mut Configuration)) -> Self {
        Self::with(&Spec::for_test(3), Family::V4, change)
    }

    /// In the lab that `spec` describes, by IPv4 or by IPv6; serving.
    pub fn with(spec: &Spec, family: Family, change: impl FnOnce(&mut Configuration)) -> Self {
        Self::prepared(Lab::new(spec).unwrap(), family, change)
    }

    /// As [`with`](Self::with), in a lab that exists.
    pub fn prepared(lab: Lab, family: Family, change: impl FnOnce(&mut Configuration)) -> Self {
        let mut configuration = Configuration::in_family(&lab, family);
        configuration.read_route = "any";
        // Nodes whose threads wait for a core are not to be taken for DOWN.
        configuration.check =
            r#"interval = "250ms", timeout = "250ms", rise = 1, fall = 10"#.to_owned();
        change(&mut configuration);
        let servers = (1..).zip(&configuration.servers);
        let regular = servers.filter(|(_, server)| server.keys != BACKUP);
        let regular: Vec<usize> = regular.map(|(id, _)| id).collect();
        let mut stage = Self {
            nodes: lab.nodes().iter().map(|_| None).collect(),
            balancer: Balancer::with_configuration(&lab, &configuration.to_toml()).unwrap(),
            lab,
            family,
        };
        for id in 1..=stage.nodes.len() {
            stage.start_server(id);
        }
        stage.balancer.start_again().unwrap();
        stage.wait_for_targets(&regular);
        stage
    }

    /// Starts the server of node `id`, which does not run.
    pub fn start_server(&mut self, id: usize) {
        let claim = if id == 1 {
            Claim::leader(1)
        } else {
            Claim::replica(1)
        };
        let at = self.lab.node_address(self.family, id);
        let node = FakeNode::start(self.lab.node(id), id as u64, at, claim);
        self.nodes[id - 1] = Some(node.unwrap());
    }

    /// Stops the server of node `id`: its ports refuse connections.
    pub fn stop_server(&mut self, id: usize) {
        self.nodes[id - 1] = None;
    }

    /// Waits until these servers, and no others, are given new connections.
    pub fn wait_for_targets(&mut self, ids: &[usize]) {
        let names: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
        self.balancer
            .wait_for_status(&format!("waiting for {names:?}"), PATIENCE, |status| {
                status.targets(READ_SERVICE) == names
            })
            .unwrap();
    }

    pub fn client(&self) -> &Namespace {
        self.lab.client()
    }

    /// A connection to the read service, from any port.
    pub fn call(&self) -> Result<Call, Failure> {
        self.call_from(self.client(), self.family.unspecified(), 0)
    }

    /// As [`call`](Self::call), from an address and port of `client`.
    pub fn call_from(&self, client: &Namespace, ip: IpAddr, port: u16) -> Result<Call, Failure> {
        let target = self.family.read();
        client.enter(|| Call::connect(SocketAddr::new(ip, port), target))
    }

    /// So many connections one after the other: how often each server
    /// answered.
    pub fn shares(&self, connections: usize) -> BTreeMap<u64, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..connections {
            let call = self.call().unwrap();
            *shares.entry(call.server).or_default() += 1;
            call.abort();
        }
        shares
    }

    /// What `lb` counts of the read service at a server.
    pub fn target(&self, id: usize) -> TargetCount {
        let name = format!("n{id}");
        let targets = self.balancer.stats().unwrap().targets;
        let mut of_service = targets
            .into_iter()
            .filter(|target| target.service == READ_SERVICE);
        let found = of_service.find(|target| target.server == name);
        found.unwrap_or_else(|| panic!("lb stats has no {name}"))
    }

    /// Waits until `lb stats` meets this.
    pub fn wait_for_stats(&self, what: &str, holds: impl Fn(&Stats) -> bool) {
        let mut last = None;
        let came = wait_until(PATIENCE, || {
            let stats = self.balancer.stats().unwrap();
            let held = holds(&stats);
            last = Some(stats);
            held
        });
        assert!(came, "{what}: in vain: {last:?}");
    }

    /// Waits until no connection is open, as `lb` counts them.
    pub fn wait_until_none_is_open(&self) {
        self.wait_for_stats("no open connection", |stats| {
            stats.targets.iter().all(|target| target.open == 0)
        });
    }
}

/// An open connection, and who is at its other end.
#[derive(Debug)]
pub struct Call {
    /// The server's node.
    pub server: u64,
    connection: Connection,
}

impl Call {
    /// Connects from the calling thread's namespace, and asks who is there.
    pub fn connect(from: SocketAddr, target: SocketAddr) -> Result<Self, Failure> {
        let connection = Connection::open_between(from, target, PATIENCE / 4)?;
        let mut call = Self {
            server: 0,
            connection,
        };
        call.server = call.ask()?;
        Ok(call)
    }

    /// Asks again: whether the connection still works, to the same server.
    pub fn ping(&mut self) -> Result<(), Failure> {
        let server = self.ask()?;
        assert_eq!(server, self.server, "a connection moved");
        Ok(())
    }

    /// The client's end, as `lb flows` shows it.
    pub fn client(&self) -> String {
        self.connection.local_address().unwrap().to_string()
    }

    /// Ends the connection with a RST.
    pub fn abort(self) {
        self.connection.abort().unwrap();
    }

    fn ask(&mut self) -> Result<u64, Failure> {
        let answer = self.connection.request("GET", "/whoami", None)?;
        let node = answer.json()["node"].as_u64();
        node.ok_or_else(|| Failure::Other("no node in the answer".into()))
    }
}
