//! Servers that hold the VIP behind a tunnel, and answer clients directly.

use std::net::SocketAddr;

use lb_tests::balancer::{Hook, READ_SERVICE};
use lb_tests::fake::{Server, echo};
use lb_tests::lab::address::Family;
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::bulk;

use super::{PATIENCE, Stage, in_every_way, strict_lab};
use crate::lab::path_mtu;

#[test]
fn what_comes_in_a_tunnel_is_served_and_what_does_not_fit_is_sent_shorter() {
    privileged!();
    in_every_way(through);
}

fn through(hook: Hook, family: Family, what: &str) {
    let lab = strict_lab(hook);
    let vip: SocketAddr = family.read();
    lab.own_vips(1).unwrap();
    let _program = lab.decapsulate(1).unwrap();
    let client = family.client(1);
    let _server = Server::start(lab.node(1), vip, move |stream| {
        assert_eq!(stream.peer_addr()?.ip(), client);
        echo(stream)
    });
    let stage = Stage::prepared(lab, family, |configuration| {
        configuration.hook = hook;
        configuration.read_service = "mode = \"ipip\"".to_owned();
    });
    let outcome = bulk::echo(stage.client(), vip, 1_000_000, 1);
    assert!(outcome.is_ok(), "{what}: {outcome:?}");
    // A full segment and the tunnel's header are more than the link takes:
    // the client has learned so.
    let header = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let learned = wait_until(PATIENCE, || {
        path_mtu(stage.client(), family.vip()) == Some(1500 - header)
    });
    let stats = stage.balancer.stats().unwrap();
    assert!(learned, "{what}: {stats:?}");
    assert!(stats.packets("too_big") > 0, "{what}");
    let service = stats.service(READ_SERVICE);
    assert_eq!((service.connections, service.refused), (1, 0), "{what}");
    stage.wait_until_none_is_open();
}
