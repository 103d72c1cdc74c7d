//! How soon the agent hears from the kernel of a SYN that a server refused,
//! or did not answer.
//!
//! The agent's debug log has the moment at which it read the event, by the
//! clock that the test reads too.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_tests::balancer::Configuration;
use lb_tests::http::Connection;
use lb_tests::lab::address::{self, Family};
use lb_tests::lab::{NIC, Namespace};
use lb_tests::patience::{wait_for, wait_until};
use lb_tests::privileged;
use lb_tests::rows::frame::{Leg, SYN, segment};
use lb_tests::traffic::Failure;
use lb_tests::traffic::flood::{Flood, Plan};
use lb_tests::traffic::frames::{FrameSender, mac_address};
use rustix::net::{self, SocketType};

use super::site::Echo;
use super::{PATIENCE, Site};

/// How late a report may be.
const LATE: Duration = Duration::from_millis(10);
/// How long a budget of the kernel program's lasts.
const BUDGET_WINDOW: Duration = Duration::from_millis(67);
/// SYNs in a round.
const SYNS: u16 = 20;
/// On a busy machine a thread may wait longer than that for a core: of so many
/// rounds, one must be on time throughout. Who polls is late in every round.
const ROUNDS: u16 = 8;
/// The first client port of the first round.
const FIRST_PORT: u16 = 30_000;
/// A port that none of the lab's nodes listens on.
const NOBODYS_PORT: u16 = 8999;

/// A site whose leader serves its clients on a port of one's choice, and which
/// logs every event of the kernel's.
fn site(port: u16, change: impl FnOnce(&mut Configuration)) -> Site {
    let mut site = Site::start(|configuration| {
        configuration.servers[0].address.set_port(port);
        configuration.check.push_str(", service_port = false");
        change(configuration);
    });
    site.balancer
        .set_log_filter("info,lb_userspace::shell::events=debug");
    site.balancer.kill().unwrap();
    site.balancer.start_again().unwrap();
    let up = wait_until(PATIENCE, || {
        site.balancer
            .output()
            .matches("the data path is up")
            .count()
            == 2
    });
    assert!(up, "{}", site.balancer.output());
    site.wait_for_all_targets();
    site
}

/// The time of day.
fn clock() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_micros((now.as_micros() % (24 * 3600 * 1_000_000)) as u64)
}

/// The time of day of a line of the log: `2026-11-21T15:04:05.678901Z …`.
fn time_of(line: &str) -> Duration {
    let (_, after) = line.split_once('T').unwrap();
    let (time, _) = after.split_once('Z').unwrap();
    let seconds = time
        .split(':')
        .fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap());
    Duration::from_secs_f64(seconds)
}

/// When the agent noted that `reason` befell a packet of which `field` is the
/// address and port `end`.
fn reported(site: &Site, reason: &str, field: &str, end: SocketAddr) -> Duration {
    let (reason, end) = (format!("reason=\"{reason}\""), format!(" {field}={end} "));
    let found = wait_for(PATIENCE, || {
        let log = site.balancer.output();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains(&reason) && line.contains(&end))?;
        Some(time_of(line))
    });
    found.unwrap_or_else(|| panic!("no {reason} with {end} in:\n{}", site.balancer.output()))
}

/// Has `provoke` make the kernel report `SYNS` events a round, each for a
/// client port of its own. It gives the moment before, and whose event it is.
fn on_time(
    site: &Site,
    reason: &str,
    field: &str,
    provoke: impl Fn(u16) -> (Duration, SocketAddr),
) {
    let mut slowest = Vec::new();
    for round in 0..ROUNDS {
        let first = FIRST_PORT + round * SYNS;
        let provoked: Vec<_> = (first..first + SYNS).map(&provoke).collect();
        let late = provoked
            .into_iter()
            .map(|(moment, end)| reported(site, reason, field, end).saturating_sub(moment));
        let mut late: Vec<_> = late.collect();
        late.sort();
        let (median, most) = (late[late.len() / 2], late[late.len() - 1]);
        println!("{reason}: reported after {median:?} (median), {most:?} (slowest of {SYNS})");
        if most <= LATE {
            return;
        }
        slowest.push(most);
    }
    panic!("{reason} is reported too late, in every round: {slowest:?}");
}

#[test]
fn the_agent_hears_of_a_refused_syn_within_ten_milliseconds() {
    privileged!();
    // It is UP by its health port, and its own kernel refuses.
    let site = site(NOBODYS_PORT, |_| {});
    on_time(&site, "backend_refused", "to", |port| {
        let client = SocketAddr::new(Family::V4.client(1), port);
        let from = SocketAddr::new(Family::V4.unspecified(), port);
        let (moment, outcome) = site.client().enter(|| {
            let moment = clock();
            (moment, Echo::connect(from, Family::V4.write()))
        });
        assert_eq!(outcome.unwrap_err(), Failure::Refused);
        (moment, client)
    });
}

/// A service of a pool whose one server is DOWN, on this port.
const DESERTED: u16 = 8090;

#[test]
fn a_refused_syn_is_reported_while_a_service_without_a_server_is_flooded() {
    privileged!();
    let nobody = SocketAddr::new(Family::V4.node(1), NOBODYS_PORT);
    let flooded = SocketAddr::new(Family::V4.vip(), DESERTED);
    let site = site(NOBODYS_PORT, |configuration| {
        configuration.read_service = format!(
            r#"
[pool.deserted]
check = {{ type = "tcp" }}
server = [{{ name = "d1", address = "{nobody}" }}]
[service.deserted]
listen = "{flooded}"
pool = "deserted"
route = "any"
"#
        );
    });
    // One for each CPU that may see the RST: each has its own budgets.
    let floods = (0..thread::available_parallelism().unwrap().get() as u64).map(|seed| {
        let plan = Plan {
            target: flooded,
            rate: 10_000,
            count_max: u64::MAX,
            duration_max: PATIENCE,
            seed,
        };
        Flood::start(site.client(), site.lab.balancer(), &plan).unwrap()
    });
    let floods: Vec<Flood> = floods.collect();
    assert!(wait_until(PATIENCE, || {
        site.balancer.stats().unwrap().packets("no_target") > 10_000
    }));
    let clients = (FIRST_PORT..FIRST_PORT + SYNS).map(|port| {
        let from = SocketAddr::new(Family::V4.unspecified(), port);
        let outcome = site
            .client()
            .enter(|| Echo::connect(from, Family::V4.write()));
        assert_eq!(outcome.unwrap_err(), Failure::Refused);
        thread::sleep(BUDGET_WINDOW / 8);
        SocketAddr::new(Family::V4.client(1), port)
    });
    let clients: Vec<SocketAddr> = clients.collect();
    let sent: u64 = floods.into_iter().map(|f| f.stop().unwrap().sent).sum();
    println!("{sent} SYNs for nobody");
    for client in clients {
        reported(&site, "backend_refused", "to", client);
    }
}

/// A listener on the first node that drops every SYN: a connection that nobody
/// accepts fills its queue. What must live for that.
fn deaf(node: &Namespace, at: SocketAddr) -> (rustix::fd::OwnedFd, Connection) {
    node.enter(|| {
        let listener = net::socket(Family::V4.for_socket(), SocketType::STREAM, None).unwrap();
        net::bind(&listener, &at).unwrap();
        net::listen(&listener, 0).unwrap();
        (listener, Connection::open(at, PATIENCE).unwrap())
    })
}

#[test]
fn the_agent_hears_of_an_unanswered_syn_within_ten_milliseconds_of_the_next_one() {
    privileged!();
    let site = site(NOBODYS_PORT, |_| {});
    let at = SocketAddr::new(site.lab.node_address(Family::V4, 1), NOBODYS_PORT);
    let _deaf = deaf(site.lab.node(1), at);
    let sender = FrameSender::open(site.client(), NIC).unwrap();
    let from = mac_address(site.client()).unwrap();
    let to = mac_address(site.lab.balancer()).unwrap();
    // What the server takes for its client has the client's port here.
    on_time(&site, "syn_unanswered", "from", |port| {
        let leg = Leg {
            from,
            to,
            source: (Family::V4.client(1), port),
            destination: (Family::V4.vip(), address::WRITE.port()),
        };
        let syn = segment(leg, SYN).numbers(1000, 0).build();
        sender.send(&syn).unwrap();
        thread::sleep(Duration::from_millis(5));
        let moment = clock();
        sender.send(&syn).unwrap();
        let seen_as = format!("{}:{port}", Family::V4.balancer());
        (moment, seen_as.parse().unwrap())
    });
}
