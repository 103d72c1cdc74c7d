//! Configurations and reports for the engine's tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use lb_common::target::Hop;

use super::{CheckReport, Event, NextHop, Outcome, Role, RoleClaim, WatchReport};
use crate::config::{
    Algorithm, Check, CheckKind, Config, Discover, Duty, Hook, Limits, Mode, OnChange, OnDown,
    OnStop, Pool, Refusal, RoleCheck, Route, Server, Service, Snat, SourceLimits, Template,
    Timeouts, Vips,
};

/// How often the servers of [`pool`] are checked.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Server `n1`, `n2`, …
pub fn server(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 10 + number], 8081))
}

/// The VIP at a port.
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 100], port))
}

/// A pool `kv` of three servers with roles; rise 2, fall 3.
pub fn pool() -> Pool {
    let server = |number| Server {
        name: format!("n{number}").into(),
        address: server(number),
        check_address: SocketAddr::new(server(number).ip(), 10_001),
        agent_address: None,
        weight: Server::WEIGHT,
        max_connections: None,
        backup: false,
        duty: Duty::Ready,
    };
    Pool {
        name: "kv".into(),
        check: Check {
            port: Some(10_001),
            interval: INTERVAL,
            fast_interval: INTERVAL,
            down_interval: INTERVAL,
            timeout: INTERVAL,
            rise: 2,
            fall: 3,
            ..Check::with_defaults(CheckKind::get(None))
        },
        role: Some(RoleCheck::by_paths("/primary", "/replica")),
        slow_start: None,
        discover: None,
        servers: (1..=3).map(server).collect(),
    }
}

/// How the sample cluster lists its members.
pub fn discover() -> Discover {
    let template = |text| Template::parse(text).unwrap();
    Discover {
        path: "/members".into(),
        interval: Discover::INTERVAL,
        list: Discover::LIST.into(),
        name: template("n{/id}"),
        address: template("{/api}"),
        check_address: Some(template("{/health}")),
    }
}

/// A service of that pool with the defaults of its route.
pub fn service(name: &str, port: u16, route: Route) -> Service {
    Service {
        name: name.into(),
        listen: vip(port),
        pool: "kv".into(),
        route,
        algorithm: Algorithm::Maglev,
        affinity: None,
        mode: Mode::Nat,
        max_connections: None,
        on_no_target: Refusal::Reset,
        on_full: Refusal::Reset,
        source: SourceLimits::default(),
        rules: BTreeMap::new(),
        on_change: if route == Route::Leader {
            OnChange::Reset
        } else {
            OnChange::Keep
        },
        on_down: OnDown::Reset,
        drain_timeout: Service::DRAIN_TIMEOUT,
        idle_timeout: Service::IDLE_TIMEOUT,
    }
}

/// That pool behind these services.
pub fn config(services: &[Service]) -> Config {
    let pool = pool();
    Config {
        interfaces: vec!["eth0".into()],
        hook: Hook::XdpNative,
        vips: Vips::default(),
        on_stop: OnStop::default(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        snat: Snat::default(),
        pools: [(pool.name.clone(), pool)].into(),
        services: services
            .iter()
            .map(|one| (one.name.clone(), one.clone()))
            .collect(),
    }
}

/// A service for writes on port 8080 and one for reads on port 8081.
pub fn write_and_read() -> Config {
    config(&[
        service("write", 8080, Route::Leader),
        service("read", 8081, Route::Replicas),
    ])
}

/// A way to nowhere in particular.
pub fn way() -> NextHop {
    NextHop {
        hop: Hop::default(),
        mtu: 1500,
        snat: IpAddr::from([10, 0, 0, 100]),
    }
}

/// The way to server `number` is known.
pub fn resolved(number: u8) -> Event {
    let hop = Hop {
        destination: [2, 0, 0, 0, 0, number].into(),
        source: [2, 0, 0, 0, 0, 100].into(),
        ifindex: 2,
    };
    Event::Resolved {
        server: server(number).ip(),
        route: Some(NextHop { hop, ..way() }),
    }
}

/// What a server may say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// 200 at /primary.
    Leads(Option<u64>),
    /// 200 at /replica.
    Follows(Option<u64>),
    /// 503 at both.
    Neither(Option<u64>),
    /// Nothing before the timeout.
    Nothing,
    /// RST.
    Refuses,
    /// 200 at /primary, and RST at the port that clients connect to.
    LeadsUnready(Option<u64>),
    /// 200 at /primary, and nothing at that port before the timeout.
    LeadsStuck(Option<u64>),
}

/// How such a server's check ends, and what the server says of itself.
fn finding(says: Says) -> (Outcome, Option<RoleClaim>) {
    let claim = |role, term| {
        Some(RoleClaim {
            role,
            term,
            ..RoleClaim::default()
        })
    };
    match says {
        Says::Leads(term) => (Outcome::Answered, claim(Role::Leader, term)),
        Says::Follows(term) => (Outcome::Answered, claim(Role::Replica, term)),
        Says::Neither(term) => (Outcome::Status, claim(Role::Unknown, term)),
        Says::Nothing => (Outcome::AnswerTimeout, None),
        Says::Refuses => (Outcome::Refused, None),
        Says::LeadsUnready(term) => (Outcome::Refused, claim(Role::Leader, term)),
        Says::LeadsStuck(term) => (Outcome::ConnectTimeout, claim(Role::Leader, term)),
    }
}

/// How long a check takes that nothing delays.
pub const TOOK: Duration = Duration::from_millis(1);

/// A check of server `number` has ended just now.
pub fn checked(now: Instant, number: u8, says: Says) -> Event {
    let (outcome, role) = finding(says);
    Event::Checked {
        pool: "kv".into(),
        server: format!("n{number}").as_str().into(),
        report: CheckReport {
            outcome,
            detail: String::new(),
            role,
            began: now - TOOK,
            took: TOOK,
        },
    }
}

/// Server `number` tells by itself.
pub fn line(number: u8, says: Says) -> Event {
    let report = match finding(says).1 {
        Some(said) => WatchReport::Line(said),
        None => WatchReport::Lost("silent".to_owned()),
    };
    Event::Watched {
        pool: "kv".into(),
        server: format!("n{number}").as_str().into(),
        report,
    }
}

/// The same, where the server tells how far behind it is, or does not.
pub fn behind(mut event: Event, lag: Option<u64>) -> Event {
    if let Event::Checked { report, .. } = &mut event
        && let Some(role) = &mut report.role
    {
        role.lag = lag;
    }
    if let Event::Watched { report, .. } = &mut event
        && let WatchReport::Line(role) = report
    {
        role.lag = lag;
    }
    event
}

/// As `checked`, where the server also tells its node id and its leader's.
pub fn checked_with_hint(now: Instant, number: u8, says: Says, leader: &str) -> Event {
    let mut event = checked(now, number, says);
    if let Event::Checked { report, .. } = &mut event
        && let Some(role) = &mut report.role
    {
        role.leader = Some(leader.to_owned());
        role.node = Some(number.to_string());
    }
    event
}
