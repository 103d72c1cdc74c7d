//! How servers are found out, end to end: answers over TCP, agents, lines that
//! they send by themselves, and what the kernel sees of clients' connections.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use lb_tests::balancer::{Balancer, Configuration, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::binaries;
use lb_tests::cluster::API_PORT;
use lb_tests::fake::{Claim, FakeNode, Server};
use lb_tests::lab::{Lab, NIC, Spec, address};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::connections::{who_answers, who_is_at};

use crate::failover::PATIENCE;

const REDIS_PORT: u16 = 6379;
const AGENT_PORT: u16 = 7777;
/// A port that nobody listens on.
const DEAD_PORT: u16 = 9;

/// A text that a test changes and a server says.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<String>>);

impl Text {
    fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
    }

    fn get(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A server that answers as Redis does, with an agent beside it.
struct Redis {
    replication: Text,
    advice: Text,
    _servers: (Server, Server, FakeNode),
}

const MASTER: &str = "role:master\r\n";
const SLAVE: &str = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:1\r\n";
const BEHIND: &str = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:99\r\n";

impl Redis {
    fn start(lab: &Lab, id: usize, replication: &str) -> Self {
        let (says, advice) = (Text::default(), Text::default());
        says.set(replication);
        let (saying, advising) = (says.clone(), advice.clone());
        let at = |port| SocketAddr::from((address::node(id), port));
        let redis = Server::start(lab.node(id), at(REDIS_PORT), move |stream| {
            answer_info(stream, &saying.get())
        });
        let agent = Server::start(
            lab.node(id),
            at(AGENT_PORT),
            move |mut stream: TcpStream| {
                stream.write_all(format!("{}\n", advising.get()).as_bytes())
            },
        );
        // Who serves clients says who it is.
        let node = FakeNode::start(lab.node(id), id as u64, address::node(id), Claim::none());
        Self {
            replication: says,
            advice,
            _servers: (redis.unwrap(), agent.unwrap(), node.unwrap()),
        }
    }
}

fn answer_info(mut stream: TcpStream, replication: &str) -> io::Result<()> {
    let mut request = [0; b"INFO replication\r\n".len()];
    stream.read_exact(&mut request)?;
    let text = format!("# Replication\r\n{replication}repl_backlog_histlen:0\r\n");
    stream.write_all(format!("${}\r\n{text}\r\n", text.len()).as_bytes())
}

fn redis_configuration() -> String {
    let server = |id| {
        format!(
            "{{ name = \"n{id}\", address = \"{}:{API_PORT}\" }},",
            address::node(id)
        )
    };
    let servers: String = (1..=3).map(server).collect();
    format!(
        r#"interface = "{NIC}"
[pool.cache]
server = [{servers}]
[pool.cache.check]
type = "tcp"
port = {REDIS_PORT}
send = "INFO replication\r\n"
expect = "repl_backlog_histlen:"
agent_port = {AGENT_PORT}
interval = "100ms"
rise = 1
fall = 2
[pool.cache.role]
leader = {{ body = "role:master" }}
replica = {{ regex = "role:slave[^$]*master_link_status:up" }}
lag = {{ regex = "master_last_io_seconds_ago:(\\d+)" }}
max_lag = 10
[service.{WRITE_SERVICE}]
listen = "{write}"
pool = "cache"
route = "leader"
[service.{READ_SERVICE}]
listen = "{read}"
pool = "cache"
route = "replicas-first"
"#,
        write = address::WRITE,
        read = address::READ,
    )
}

fn wait_for(balancer: &mut Balancer, what: &str, holds: impl FnMut(&Status) -> bool) {
    balancer.wait_for_status(what, PATIENCE, holds).unwrap();
}

fn reads(status: &Status, expected: &[&str]) -> bool {
    let mut targets = status.targets(READ_SERVICE);
    targets.sort_unstable();
    targets == expected
}

/// What `lb explain` says about a server.
fn explain(balancer: &Balancer, server: &str) -> String {
    let mut command = Command::new(binaries::find("lb").unwrap());
    command
        .args(["explain", server, "--socket"])
        .arg(balancer.socket());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_is_followed_by_its_own_words_and_agents_have_a_say() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let nodes: Vec<Redis> = [MASTER, SLAVE, BEHIND]
        .iter()
        .zip(1..)
        .map(|(says, id)| Redis::start(&lab, id, says))
        .collect();
    nodes.iter().for_each(|node| node.advice.set("up"));
    let mut balancer = Balancer::with_configuration(&lab, &redis_configuration()).unwrap();
    balancer.start_again().unwrap();
    wait_for(
        &mut balancer,
        "n1 writes, n2 reads, n3 is behind",
        |status| status.targets(WRITE_SERVICE) == ["n1"] && reads(status, &["n2"]),
    );
    assert_eq!(lab.client().enter(|| who_is_at(address::WRITE)), Ok(1));
    assert_eq!(lab.client().enter(|| who_is_at(address::READ)), Ok(2));
    let explained = explain(&balancer, "n3");
    assert!(
        explained.contains("99 behind, which is too far"),
        "{explained}"
    );

    nodes[1].advice.set("drain");
    wait_for(&mut balancer, "reads at the leader", |status| {
        reads(status, &["n1"]) && status.pools[0].servers[1].state == "DRAIN"
    });
    nodes[2].replication.set(SLAVE);
    wait_for(&mut balancer, "n3 has caught up", |status| {
        reads(status, &["n3"])
    });

    // A switchover without terms: nobody writes until it is clear who.
    nodes[0].replication.set(SLAVE);
    nodes[1].replication.set(MASTER);
    wait_for(&mut balancer, "n2 leads, and is drained", |status| {
        status.pools[0].leader.as_deref() == Some("n2") && status.targets(WRITE_SERVICE).is_empty()
    });
    let refused = || lab.client().enter(|| who_is_at(address::WRITE)) == Err(Failure::Refused);
    assert!(refused());
    nodes[1].advice.set("ready 100% up");
    wait_for(&mut balancer, "n2 writes, n1 and n3 read", |status| {
        status.targets(WRITE_SERVICE) == ["n2"] && reads(status, &["n1", "n3"])
    });
    assert_eq!(lab.client().enter(|| who_is_at(address::WRITE)), Ok(2));
    assert!(balancer.terminate().unwrap().success());
}

#[test]
fn a_server_that_tells_by_itself_is_followed_between_two_polls() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let start = |id: usize, claim| {
        FakeNode::start(lab.node(id), id as u64, address::node(id), claim).unwrap()
    };
    let nodes = [
        start(1, Claim::leader(5)),
        start(2, Claim::replica(5)),
        start(3, Claim::replica(5)),
    ];
    // The next poll comes after all patience.
    let configuration = Configuration {
        check: r#"interval = "10m", fast_interval = "10m", timeout = "1s", rise = 1, fall = 2"#
            .to_owned(),
        ..Configuration::for_nodes(&lab)
    };
    let role = r#"replica = "/replica""#;
    let toml = configuration.to_toml();
    let toml = toml.replace(role, &format!("{role}, watch = \"/watch\""));
    assert!(toml.contains("watch"));
    let mut balancer = Balancer::with_configuration(&lab, &toml).unwrap();
    balancer.start_again().unwrap();
    let writer = |balancer: &mut Balancer, id: usize| {
        let name = format!("n{id}");
        wait_for(balancer, &format!("{name} writes"), |status| {
            status.targets(WRITE_SERVICE) == [&name[..]]
        });
        let answered = || lab.client().enter(|| who_is_at(address::WRITE)) == Ok(id as u64);
        assert!(wait_until(PATIENCE, answered));
    };
    writer(&mut balancer, 1);
    for term in 6..20_usize {
        let (old, new) = ((term - 6) % 3, (term - 5) % 3);
        nodes[new].claim(Claim::leader(term as u64));
        nodes[old].claim(Claim::replica(term as u64));
        writer(&mut balancer, new + 1);
    }
    // A leader that can vouch for itself no more says so, and nobody writes.
    nodes[(19 - 5) % 3].claim(Claim::none());
    wait_for(&mut balancer, "nobody writes", |status| {
        status.targets(WRITE_SERVICE).is_empty()
    });
    let explained = explain(&balancer, "n1");
    assert!(
        explained.contains("watch: it tells of changes by itself"),
        "{explained}"
    );
}

#[test]
fn a_server_that_refuses_clients_is_left_alone_for_a_while() {
    privileged!();
    let lab = Lab::new(&Spec::for_test(3)).unwrap();
    let start = |id: usize, claim| {
        FakeNode::start(lab.node(id), id as u64, address::node(id), claim).unwrap()
    };
    let _nodes = [
        start(1, Claim::leader(5)),
        start(2, Claim::replica(5)),
        start(3, Claim::replica(5)),
    ];
    let mut configuration = Configuration {
        check: r#"interval = "100ms", rise = 2, fall = 2, service_port = false, observe = "layer4",
            error_limit = 3, open_time = "3s""#
            .replace('\n', ""),
        read_service: "algorithm = \"round-robin\"".to_owned(),
        ..Configuration::for_nodes(&lab)
    };
    // Its checks are as good as the others'; its clients are refused.
    configuration.servers[2].address.set_port(DEAD_PORT);
    let mut balancer = Balancer::start(&lab, &configuration).unwrap();
    wait_for(&mut balancer, "n2 and n3 are read from", |status| {
        reads(status, &["n2", "n3"])
    });
    let refused = || {
        let answers = who_answers(lab.client(), address::READ, 10, 1);
        answers.failures.values().sum::<usize>()
    };
    let before = refused();
    assert!(before >= 3, "{before} refusals");
    wait_for(&mut balancer, "n3 is left alone", |status| {
        reads(status, &["n2"]) && status.pools[0].servers[2].state == "DOWN"
    });
    assert_eq!(refused(), 0);
    let explained = explain(&balancer, "n3");
    assert!(explained.contains("circuit: "), "{explained}");
    wait_for(&mut balancer, "probes have closed it", |status| {
        reads(status, &["n2", "n3"])
    });
}
