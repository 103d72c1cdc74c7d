//! What is refused, and how the client learns of it: no service, no port, no
//! room. And that half of a connection may be closed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Mutex;
use std::sync::mpsc;

use lb_tests::balancer::{Hook, READ_SERVICE, WRITE_SERVICE};
use lb_tests::lab::address::{self, Family};
use lb_tests::patience::wait_until;
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::bulk;

use super::site::Echo;
use super::{PATIENCE, Site, spec_for};

#[test]
fn a_port_of_the_vip_that_is_no_service_is_refused_by_the_host() {
    privileged!();
    let site = Site::start(|_| {});
    let target = SocketAddr::new(Family::V4.vip(), 8082);
    let any = SocketAddr::new(Family::V4.unspecified(), 0);
    let before = site.balancer.stats().unwrap();
    let outcome = site.client().enter(|| Echo::connect(any, target));
    assert_eq!(outcome.unwrap_err(), Failure::Refused);
    let after = site.balancer.stats().unwrap();
    assert!(after.packets("not_ours") > before.packets("not_ours"));
    for service in [WRITE_SERVICE, READ_SERVICE] {
        assert_eq!(after.service(service), before.service(service));
    }
}

#[test]
fn where_all_source_ports_are_taken_a_connection_is_refused_until_one_ends() {
    privileged!();
    let mut site = Site::start(|configuration| {
        configuration.top = "snat = { ports = \"20000-20003\" }".to_owned();
        // A port rests as long after a RST.
        configuration.write_service = "idle_timeout = \"2s\"".to_owned();
    });
    // Each finds the port of the range that its own is folded to.
    let mut four: Vec<Echo> = (30_000..30_004)
        .map(|port| site.connect_from(port).unwrap())
        .collect();
    for attempt in 1..=3 {
        assert_eq!(site.connect_from(30_004).unwrap_err(), Failure::Refused);
        let stats = site.balancer.stats().unwrap();
        assert_eq!(stats.packets("ports_exhausted"), attempt);
        assert_eq!(stats.service(WRITE_SERVICE).refused, attempt);
    }
    assert!(four.iter_mut().all(|open| open.ping().is_ok()));

    // The same client may come again at once,
    four.remove(0).abort();
    site.connect_from(30_000).unwrap().abort();
    // and another one when the port has rested.
    let freed = wait_until(PATIENCE, || {
        assert!(four.iter_mut().all(|open| open.ping().is_ok()));
        site.connect_from(30_004)
            .is_ok_and(|mut open| open.ping().is_ok())
    });
    assert!(freed, "the port of a finished connection was not freed");
    assert!(site.balancer.terminate().unwrap().success());
}

#[test]
fn where_the_table_is_full_new_connections_are_refused_and_established_ones_live_on() {
    privileged!();
    const ROOM: u16 = 16;
    let site = Site::start(|configuration| {
        configuration.top = format!("limits = {{ connections = {ROOM} }}");
    });
    let notices = |notice: &str| site.balancer.output().matches(notice).count();
    let said_once = |notice: &str| {
        assert!(wait_until(PATIENCE, || notices(notice) > 0), "{notice}");
        assert_eq!(notices(notice), 1, "{notice}");
    };
    let mut open: Vec<Echo> = (30_000..30_000 + ROOM)
        .map(|port| site.connect_from(port).unwrap())
        .collect();
    assert!(open.iter_mut().all(|open| open.ping().is_ok()));
    said_once("connections is nearly full");
    for attempt in 1..=5 {
        // It is the end of the handshake that finds no room, so that the
        // client may have seen the SYN+ACK.
        let outcome = site.connect().and_then(|mut one_more| one_more.ping());
        assert!(
            matches!(outcome, Err(Failure::Refused | Failure::Reset)),
            "{outcome:?}"
        );
        let stats = site.balancer.stats().unwrap();
        assert_eq!(stats.packets("table_full"), attempt);
        let write = stats.service(WRITE_SERVICE);
        assert_eq!((write.connections, write.refused), (ROOM.into(), attempt));
    }
    assert!(open.iter_mut().all(|open| open.ping().is_ok()));

    // The same client may come again at once, in its own place.
    open.remove(0).abort();
    site.connect_from(30_000).unwrap().ping().unwrap();

    said_once("connections is full, and new ones are refused");
    assert_eq!(notices("connections has room again"), 0);
    open.into_iter().for_each(Echo::abort);
    said_once("connections has room again");
    assert_eq!(notices("connections is nearly full"), 1);
}

#[test]
fn a_client_that_has_finished_sending_still_receives() {
    privileged!();
    let site = Site::start(|_| {});
    let echo = site.connect().unwrap();
    let mut stream = echo.stream();
    stream.write_all(b"all that I have").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    assert_eq!(received, "all that I have");
    bulk::echo(site.client(), address::WRITE, 1 << 20, 1).unwrap();
}

#[test]
fn a_server_that_has_finished_sending_still_receives() {
    privileged!();
    let (told, received) = mpsc::channel();
    let told = Mutex::new(told);
    let greet_and_listen = move |mut stream: std::net::TcpStream| {
        stream.write_all(b"speak")?;
        stream.shutdown(Shutdown::Write)?;
        let mut text = String::new();
        let length = stream.read_to_string(&mut text)?;
        let _ = told.lock().unwrap().send((length, text));
        Ok(())
    };
    let spec = spec_for(Hook::Native);
    let site = Site::with_leader(&spec, Hook::Native, |_| {}, greet_and_listen);
    let client = site.connect().unwrap();
    let mut stream = client.stream();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "speak");
    let speech = "word ".repeat(20_000);
    stream.write_all(speech.as_bytes()).unwrap();
    let state = |site: &Site| {
        let flows = site.balancer.flows().unwrap().flows;
        let mut own = flows
            .into_iter()
            .filter(|flow| flow.client == client.client());
        own.next().map(|flow| flow.state)
    };
    assert_eq!(state(&site).as_deref(), Some("closing"));
    stream.shutdown(Shutdown::Write).unwrap();
    let (length, text) = received.recv_timeout(PATIENCE).unwrap();
    assert_eq!(length, speech.len());
    assert!(text == speech);
    assert!(wait_until(PATIENCE, || state(&site).as_deref() == Some("closed")));
}
