//! What most of these tests need: three nodes that do as they are told, and
//! `lb` in front of them.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use lb_tests::balancer::{Balancer, Configuration, Hook, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::binaries;
use lb_tests::fake::{Claim, FakeNode, echo};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Namespace, Spec};
use lb_tests::traffic::Failure;
use rustix::net::{self, SocketType, sockopt};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A lab with `lb` and three fake nodes: node 1 leads, and echoes what its
/// clients send it; nodes 2 and 3 follow, and say who they are.
pub struct Site {
    /// Before the lab, so that it ends first.
    pub balancer: Balancer,
    /// Node 1 first.
    pub nodes: Vec<FakeNode>,
    pub lab: Lab,
    family: Family,
}

/// A lab for three nodes, as `hook` needs it.
pub fn spec_for(hook: Hook) -> Spec {
    hook.lab(Spec::for_test(3))
}

impl Site {
    /// How the servers are checked. Nodes whose threads wait for a core are not
    /// to be taken for DOWN.
    pub const CHECK: &str = r#"interval = "250ms", timeout = "250ms", rise = 1, fall = 10"#;

    /// With native XDP, and the configuration changed.
    pub fn start(change: impl FnOnce(&mut Configuration)) -> Self {
        Self::with(&spec_for(Hook::Native), Hook::Native, change)
    }

    /// In the lab that `spec` describes; serving.
    pub fn with(spec: &Spec, hook: Hook, change: impl FnOnce(&mut Configuration)) -> Self {
        Self::with_leader(spec, hook, change, echo)
    }

    /// As [`with`](Self::with), but the leader serves its clients by `serve`.
    pub fn with_leader(
        spec: &Spec,
        hook: Hook,
        change: impl FnOnce(&mut Configuration),
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::build(spec, Family::V4, hook, change, serve)
    }

    /// As [`with`](Self::with), by IPv4 or by IPv6.
    pub fn in_family(
        family: Family,
        spec: &Spec,
        hook: Hook,
        change: impl FnOnce(&mut Configuration),
    ) -> Self {
        Self::build(spec, family, hook, change, echo)
    }

    fn build(
        spec: &Spec,
        family: Family,
        hook: Hook,
        change: impl FnOnce(&mut Configuration),
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let lab = Lab::new(spec).unwrap();
        let (at, claim) = (lab.node_address(family, 1), Claim::leader(1));
        let mut nodes = vec![FakeNode::serving(lab.node(1), 1, at, claim, serve).unwrap()];
        for id in [2, 3] {
            let (at, claim) = (lab.node_address(family, id), Claim::replica(1));
            nodes.push(FakeNode::start(lab.node(id), id as u64, at, claim).unwrap());
        }
        let mut configuration = Configuration::in_family(&lab, family);
        configuration.hook = hook;
        configuration.check = Self::CHECK.to_owned();
        change(&mut configuration);
        let mut site = Self {
            balancer: Balancer::start(&lab, &configuration).unwrap(),
            nodes,
            lab,
            family,
        };
        site.wait_for_all_targets();
        site
    }

    /// Waits until each service has all of its targets: the read service does
    /// with the leader until it knows of a replica, and of the way to it.
    pub fn wait_for_all_targets(&mut self) {
        let all = |status: &Status| {
            status.targets(WRITE_SERVICE) == ["n1"] && status.targets(READ_SERVICE) == ["n2", "n3"]
        };
        self.balancer
            .wait_for_status("waiting for all targets", PATIENCE, all)
            .unwrap();
    }

    pub fn client(&self) -> &Namespace {
        self.lab.client()
    }

    /// A connection from the client's `port` to the write service.
    pub fn connect_from(&self, port: u16) -> Result<Echo, Failure> {
        let from = SocketAddr::new(self.family.unspecified(), port);
        self.client()
            .enter(|| Echo::connect(from, self.family.write()))
    }

    /// A connection from any of the client's ports to the write service.
    pub fn connect(&self) -> Result<Echo, Failure> {
        self.connect_from(0)
    }

    /// What `lb VERB` prints for a person.
    pub fn table(&self, arguments: &[&str]) -> String {
        let output = Command::new(binaries::find("lb").unwrap())
            .args(arguments)
            .arg("--socket")
            .arg(self.balancer.socket())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `ip` and `ethtool` say of the balancer's NIC.
    pub fn nic(&self, program: &str, arguments: &[&str]) -> String {
        nic(&self.lab, program, arguments)
    }
}

/// What a program that is told of the balancer's NIC says, in its namespace.
pub fn nic(lab: &Lab, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).arg(NIC);
    let output = lab.balancer().enter(move || command.output()).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A connection to a server that echoes.
#[derive(Debug)]
pub struct Echo(TcpStream);

impl Echo {
    /// Connects from the calling thread's namespace, and an address and port
    /// of it; those that are 0 are the kernel's to choose.
    pub fn connect(from: SocketAddr, target: SocketAddr) -> Result<Self, Failure> {
        let connect = || -> io::Result<TcpStream> {
            let family = Family::of(target.ip()).for_socket();
            let socket = net::socket(family, SocketType::STREAM, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            // Bounds the connect, as long as the socket blocks.
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE / 4))?;
            net::bind(&socket, &from)?;
            net::connect(&socket, &target)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE / 4))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        Ok(Self(connect()?))
    }

    /// Sends a byte and waits for it to come back.
    pub fn ping(&mut self) -> Result<(), Failure> {
        self.0.write_all(b"x")?;
        self.0.read_exact(&mut [0])?;
        Ok(())
    }

    /// The client's end, as `lb flows` shows it.
    pub fn client(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// Ends the connection with a RST.
    pub fn abort(self) {
        sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)).unwrap();
    }

    pub fn stream(&self) -> &TcpStream {
        &self.0
    }
}
