//! A scripted agent: the real admin API over answers that never change.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use lb_userspace::api::{
    Change, Changed, CheckStatus, FlowFilter, FlowStatus, Flows, OverrideStatus, PoolStatus,
    Reloaded, Role, ServerState, ServerStatus, ServiceState, ServiceStats, ServiceStatus, Stats,
    Status, TableStats, TargetStats, TargetStatus, VerdictStats,
};
use lb_userspace::config::{Algorithm, Hook, Mode, Route};
use lb_userspace::shell::admin::{self, Query, Refusal, Socket};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// An agent that only has its admin API, until it is dropped.
pub struct Agent {
    directory: TempDir,
    _runtime: Runtime,
}

impl Agent {
    /// Serves the API; every query goes to `answer`.
    pub fn start(answer: fn(Query)) -> Self {
        Self::start_loop(move |mut queries| async move {
            while let Some(query) = queries.recv().await {
                answer(query);
            }
        })
    }

    /// Serves the API; `answer` gets the queries.
    pub fn start_loop<F>(answer: impl FnOnce(mpsc::Receiver<Query>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let (asked, queries) = admin::queries();
        let socket = {
            let _within = runtime.enter();
            Socket::bind(&directory.path().join("lb.sock")).unwrap()
        };
        runtime.spawn(admin::serve(socket, asked));
        runtime.spawn(answer(queries));
        Self {
            directory,
            _runtime: runtime,
        }
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("lb.sock")
    }

    /// Runs the program against this agent.
    pub fn lb(&self, arguments: &[&str]) -> Output {
        lb(&self.socket(), arguments)
    }

    /// The answer's status line and body to one raw request.
    pub fn raw(&self, request_line: &str) -> (String, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(
            stream,
            "{request_line} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

/// Runs the program against `socket`.
pub fn lb(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(arguments)
        .env("LB_SOCKET", socket)
        .output()
        .unwrap()
}

/// Answers like an agent with two services.
pub fn answer(query: Query) {
    match query {
        Query::Status(answer) => drop(answer.send(Ok(status()))),
        Query::Stats(answer) => drop(answer.send(Ok(stats()))),
        Query::Flows { filter, answer } => drop(answer.send(flows(&filter))),
        Query::Reload(answer) => drop(answer.send(Ok(RELOADED))),
        Query::Change { change, answer } => drop(answer.send(Ok(changed(&change)))),
    }
}

/// What the verbs that change something are given: the change as it came.
pub fn changed(change: &Change) -> Changed {
    let (pool, server) = ("kv".into(), "n1".into());
    let what = Some(serde_json::to_string(change).unwrap());
    Changed {
        servers: vec![OverrideStatus { pool, server, what }],
    }
}

/// What `lb reload` is given.
pub const RELOADED: Reloaded = Reloaded {
    services: 2,
    pools: 1,
    servers: 3,
};

fn socket_address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What `lb status` is given.
pub fn status() -> Status {
    let serving = vec![TargetStatus {
        id: 1,
        server: "n1".into(),
        address: socket_address("10.0.0.11:8081"),
        connections: 3,
    }];
    Status {
        version: "0.1.0".into(),
        interface: "eth0".into(),
        hook: Hook::XdpNative,
        pid: 4242,
        uptime_ms: 12_000_000,
        services: vec![
            service(
                "kv-read",
                8081,
                Route::Replicas,
                ServiceState::NoTarget,
                vec![],
            ),
            service(
                "kv-write",
                8080,
                Route::Leader,
                ServiceState::Serving,
                serving,
            ),
        ],
        pools: vec![PoolStatus {
            members: None,
            name: "kv".into(),
            leader: Some("n1".into()),
            term: Some(7),
            problem: Some("no replica is UP".into()),
            servers: vec![
                server(1, ServerState::Up, Role::Leader, check("L7OK", "")),
                server(
                    2,
                    ServerState::Down,
                    Role::Unknown,
                    check("L7STS", "503 \u{1b}[2J"),
                ),
                server(3, ServerState::Down, Role::Unknown, None),
            ],
        }],
        draining: vec![],
        overrides: vec![],
    }
}

fn service(
    name: &str,
    port: u16,
    route: Route,
    state: ServiceState,
    targets: Vec<TargetStatus>,
) -> ServiceStatus {
    ServiceStatus {
        name: name.into(),
        listen: SocketAddr::new([10, 0, 0, 100].into(), port),
        route,
        algorithm: Algorithm::Maglev,
        mode: Mode::Nat,
        pool: "kv".into(),
        state,
        targets,
    }
}

fn server(number: u8, state: ServerState, role: Role, check: Option<CheckStatus>) -> ServerStatus {
    ServerStatus {
        name: format!("n{number}").into(),
        address: socket_address(&format!("10.0.0.1{number}:8081")),
        check_address: socket_address(&format!("10.0.0.1{number}:10001")),
        weight: 1,
        backup: false,
        warmth: 100,
        state,
        role,
        term: (role == Role::Leader).then_some(7),
        check,
        since_ms: 125_000,
        lag: None,
        lagging: false,
        agent: None,
        why: vec!["checks: UP".into(), "role: it says \u{7}".into()],
    }
}

fn check(code: &str, detail: &str) -> Option<CheckStatus> {
    Some(CheckStatus {
        code: code.into(),
        detail: detail.into(),
        took_ms: 2,
        ago_ms: 40,
    })
}

/// What `lb stats` is given.
pub fn stats() -> Stats {
    let verdict = |action: &str, reason: &str, packets| VerdictStats {
        reason: reason.into(),
        action: action.into(),
        packets,
        bytes: packets * 60,
    };
    Stats {
        verdicts: vec![
            verdict("transmit", "established", 12_345_678),
            verdict("pass", "not-ours", 99),
            verdict("drop", "bad-checksum", 0),
        ],
        services: vec![ServiceStats {
            service: "kv-write".into(),
            listen: socket_address("10.0.0.100:8080"),
            connections: 20_000,
            refused: 4,
        }],
        targets: vec![TargetStats {
            service: "kv-write".into(),
            server: "n1".into(),
            id: 1,
            open: 3,
            connections: 20_000,
            packets_in: 140_000,
            bytes_in: 9_800_000,
            packets_out: 120_000,
            bytes_out: 88_800_000,
            refused: 1,
        }],
        table: TableStats {
            flows: 6,
            flows_max: 262_144,
            pending: 4,
            pending_max: 32_768,
        },
    }
}

/// 250 connections, or those of the filter.
pub fn flows(filter: &FlowFilter) -> Result<Flows, Refusal> {
    if let Some(service) = filter
        .service
        .as_ref()
        .filter(|name| name.as_str() != "kv-write")
    {
        return Err(Refusal::Unknown(format!(
            "no service is named \"{service}\""
        )));
    }
    let flow = |port| FlowStatus {
        service: "kv-write".into(),
        client: SocketAddr::new([192, 0, 2, 7].into(), port),
        vip: socket_address("10.0.0.100:8080"),
        snat: SocketAddr::new([10, 0, 0, 5].into(), port),
        server: socket_address("10.0.0.11:8081"),
        server_name: "n1".into(),
        state: "established".into(),
        idle_ms: 1500,
    };
    let shown: Vec<FlowStatus> = (20_001..20_251).take(filter.limit()).map(flow).collect();
    Ok(Flows {
        truncated: shown.len() < 250,
        flows: shown,
        total: 250,
    })
}
