//! Servers that hold the VIP and answer clients directly.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use lb_tests::balancer::{Hook, READ_SERVICE};
use lb_tests::fake::{Server, echo};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Namespace, Spec};
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::{PATIENCE, Stage, in_every_way};

/// A server on a node, at the VIP; whom it sees comes through the channel.
fn serve(node: &Namespace, vip: SocketAddr) -> (Server, mpsc::Receiver<SocketAddr>) {
    let (told, seen) = mpsc::channel();
    let server = Server::start(node, vip, move |stream| {
        let _ = told.send(stream.peer_addr()?);
        echo(stream)
    });
    (server.unwrap(), seen)
}

#[test]
fn a_server_that_holds_the_vip_sees_the_client_and_answers_it() {
    privileged!();
    in_every_way(through);
}

fn through(hook: Hook, family: Family, what: &str) {
    let lab = Lab::new(&Spec::for_test(2)).unwrap();
    let vip = family.read();
    let mut servers = Vec::new();
    for id in [1, 2] {
        lab.own_vips(id).unwrap();
        servers.push(serve(lab.node(id), vip));
    }
    let stage = Stage::prepared(lab, family, |configuration| {
        configuration.hook = hook;
        configuration.read_service = "mode = \"dsr\"\nalgorithm = \"round-robin\"".to_owned();
    });
    for seed in 0..4 {
        bulk::echo(stage.client(), vip, 500_000, seed).unwrap();
    }
    for (_, seen) in &servers {
        for _ in 0..2 {
            let peer = seen.recv_timeout(PATIENCE).unwrap();
            assert_eq!(peer.ip(), family.client(1), "{what}");
        }
        assert!(seen.recv_timeout(Duration::ZERO).is_err());
    }
    let counted = stage.balancer.stats().unwrap().service(READ_SERVICE);
    assert_eq!((counted.connections, counted.refused), (4, 0), "{what}");
    stage.wait_until_none_is_open();
}
