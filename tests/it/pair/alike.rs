//! Balancers with the same configuration choose alike, and share nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use lb_tests::balancer::{Balancer, Configuration};
use lb_tests::fake::{Claim, FakeNode};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, NIC, Spec};
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::frames::mac_address;

use super::PATIENCE;
use crate::dataplane::Call;

const SERVERS: usize = 5;
/// The ports of a client whose choices are compared.
const PORTS: std::ops::Range<u16> = 20_000..20_100;
const FAMILY: Family = Family::V4;

/// Two balancers that run, with a service on all servers, and a client whose
/// packets a router would bring to either.
struct Sides {
    // In the order in which they are dropped.
    balancers: Vec<Balancer>,
    _servers: Vec<FakeNode>,
    lab: Lab,
}

impl Sides {
    fn start(read_service: &str) -> Self {
        let lab = Lab::new(&Spec::for_test(SERVERS).balancers(2)).unwrap();
        let mut servers = Vec::new();
        for id in 1..=SERVERS {
            lab.own_vips(id).unwrap();
            for at in [lab.node_address(FAMILY, id), FAMILY.vip()] {
                let node = FakeNode::start(lab.node(id), id as u64, at, Claim::replica(1));
                servers.push(node.unwrap());
            }
        }
        let mut configuration = Configuration::in_family(&lab, FAMILY);
        configuration.top = "vips = \"external\"".to_owned();
        configuration.check = r#"interval = "250ms", fall = 10"#.to_owned();
        configuration.read_route = "any";
        configuration.read_service = read_service.to_owned();
        let mut balancers = Balancer::on_each(&lab, &configuration.to_toml()).unwrap();
        for balancer in &mut balancers {
            balancer.start_again().unwrap();
        }
        for balancer in &mut balancers {
            let all = balancer.wait_for_status("all servers", PATIENCE, |status| {
                status
                    .services
                    .iter()
                    .any(|service| service.targets.len() == SERVERS)
            });
            all.unwrap();
        }
        Self {
            balancers,
            _servers: servers,
            lab,
        }
    }

    /// What the client sends to the VIP goes to the balancer `index` from now on.
    fn through(&self, index: usize) {
        let mac = mac_address(&self.lab.balancers()[index]).unwrap();
        let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
        let mut command = Command::new("ip");
        command.args(["-n", self.lab.client().name(), "neighbour", "replace"]);
        command.arg(FAMILY.vip().to_string());
        command.args(["lladdr", &mac, "dev", NIC, "nud", "permanent"]);
        assert!(command.status().unwrap().success());
    }

    fn call(&self, port: u16) -> Result<Call, Failure> {
        let from = SocketAddr::new(FAMILY.client(1), port);
        let client = self.lab.client();
        client.enter(|| Call::connect(from, FAMILY.read()))
    }

    /// Which server each port of the client gets.
    fn choices(&self) -> BTreeMap<u16, u64> {
        let choice = |port| {
            let call = self.call(port).unwrap();
            let server = call.server;
            call.abort();
            (port, server)
        };
        PORTS.map(choice).collect()
    }
}

#[test]
fn both_balancers_send_a_client_to_the_same_server() {
    privileged!();
    for read_service in ["", "algorithm = \"source-hash\""] {
        let sides = Sides::start(read_service);
        sides.through(0);
        let first = sides.choices();
        sides.through(1);
        assert_eq!(sides.choices(), first, "{read_service}");
        let served = |balancer: &Balancer| balancer.stats().unwrap().packets("opened");
        for balancer in &sides.balancers {
            assert!(served(balancer) >= PORTS.len() as u64);
        }
        let servers: Vec<u64> = first.into_values().collect();
        let one = servers.iter().all(|&server| server == servers[0]);
        assert_eq!(one, read_service.contains("source-hash"), "{servers:?}");
    }
}

#[test]
fn an_open_connection_that_moves_to_the_other_balancer_is_reset_in_every_mode() {
    privileged!();
    for mode in ["nat", "dsr"] {
        let sides = Sides::start(&format!("mode = \"{mode}\""));
        sides.through(0);
        let mut call = sides.call(0).unwrap();
        call.ping().unwrap();
        sides.through(1);
        // The other one would choose the same server, and does not know that
        // there is anything to choose for.
        assert_eq!(call.ping(), Err(Failure::Reset), "{mode}");
        let unknown = sides.balancers[1].stats().unwrap();
        assert!(unknown.packets("unknown_flow") > 0, "{mode}");
        // A new one gets through at once.
        sides.call(0).unwrap().ping().unwrap();
    }
}
