//! The admin API and the command line, end to end: the real server on a real
//! socket, answered by a scripted loop, asked by the real program.

mod agent;

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use agent::{Agent, RELOADED, answer, flows, lb, stats, status};
use lb_userspace::api::{FlowFilter, Flows, Reloaded, ServerStatus, Stats, Status};
use lb_userspace::shell::admin::{Query, Refusal};

const STATUS: &str = "\
lb 0.1.0 on eth0 (xdp-native), pid 4242, up 3h20m

SERVICE   LISTEN           ROUTE     POOL  STATE      OPEN  TARGETS
kv-read   10.0.0.100:8081  replicas  kv    no-target     0  -
kv-write  10.0.0.100:8080  leader    kv    serving       3  n1

pool kv, leader n1, term 7, problem: no replica is UP
SERVER  ADDRESS         STATE  SINCE  ROLE     TERM  CHECK
n1      10.0.0.11:8081  UP     2m05s  leader      7  L7OK in 2ms, 40ms ago
n2      10.0.0.12:8081  DOWN   2m05s  unknown     -  L7STS in 2ms, 40ms ago: 503 ?[2J
n3      10.0.0.13:8081  DOWN   2m05s  unknown     -  none yet
";

const STATS: &str = "\
SERVICE   LISTEN           CONNECTIONS  REFUSED
kv-write  10.0.0.100:8080        20000        4

SERVICE   SERVER  ID  OPEN  TOTAL  REFUSED  PKTS-IN  BYTES-IN  PKTS-OUT  BYTES-OUT
kv-write  n1       1     3  20000        1   140.0k      9.8M    120.0k      88.8M

VERDICT   REASON       PACKETS   BYTES
transmit  established    12.3M  740.7M
pass      not-ours          99    5940

3 of 131072 connections, resting ones included, and 2 of 16384 half-open ones
";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Asserts that the program printed exactly `expected`, and nothing else.
fn assert_prints(output: &Output, expected: &str) {
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
}

/// Asserts that the program failed with `code` and exactly the line `expected`.
fn assert_fails(output: &Output, code: i32, expected: &str) {
    assert_eq!(text(&output.stderr), format!("{expected}\n"));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(code));
}

#[test]
fn status_is_two_tables_that_fit_a_terminal() {
    let agent = Agent::start(answer);
    assert_prints(&agent.lb(&["status"]), STATUS);
    assert!(STATUS.lines().all(|line| line.len() <= 100));
}

#[test]
fn shares_have_a_column_where_they_differ() {
    let agent = Agent::start(|query| {
        let Query::Status(reply) = query else {
            panic!("not about the status");
        };
        let mut status = status();
        let servers = &mut status.pools[0].servers;
        servers[0].weight = 3;
        (servers[1].warmth, servers[2].backup) = (40, true);
        let _ = reply.send(Ok(status));
    });
    let output = agent.lb(&["status"]);
    let table = text(&output.stdout).split("pool kv").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert!(rows[0].contains("SINCE  WEIGHT     ROLE"), "{table}");
    assert!(rows[1].contains("2m05s  3          leader"), "{table}");
    assert!(rows[2].contains("2m05s  1 at 40 %  unknown"), "{table}");
    assert!(rows[3].contains("2m05s  1, backup  unknown"), "{table}");
}

#[test]
fn lags_and_agents_have_columns_where_there_are_any() {
    let agent = Agent::start(|query| {
        let Query::Status(reply) = query else {
            panic!("not about the status");
        };
        let mut status = status();
        let servers = &mut status.pools[0].servers;
        (servers[0].lag, servers[1].lag) = (Some(0), Some(40));
        servers[1].lagging = true;
        servers[0].agent = Some("up 50%".into());
        let _ = reply.send(Ok(status));
    });
    let output = agent.lb(&["status"]);
    let table = text(&output.stdout).split("pool kv").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert!(rows[0].contains("TERM  LAG  AGENT   CHECK"), "{table}");
    assert!(rows[1].contains("   7    0  up 50%  L7OK"), "{table}");
    assert!(rows[2].contains("   -  40!  -       L7STS"), "{table}");
}

#[test]
fn a_server_is_explained_line_by_line() {
    let agent = Agent::start(answer);
    let expected = "\
kv/n1 at 10.0.0.11:8081: UP for 2m05s
  checks: UP
  role: it says ?
";
    assert_prints(&agent.lb(&["explain", "n1"]), expected);
    assert_prints(&agent.lb(&["explain", "kv/n1"]), expected);
    let json = agent.lb(&["explain", "n1", "--json"]);
    let shown: Vec<ServerStatus> = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(shown, status().pools[0].servers[..1]);
    for wrong in ["n9", "web/n1"] {
        let line = format!("lb: no server is named \"{wrong}\"; `lb status` lists them");
        assert_fails(&agent.lb(&["explain", wrong]), 1, &line);
    }
}

#[test]
fn a_balancer_that_can_do_its_work_is_ready() {
    let agent = Agent::start(answer);
    assert_prints(&agent.lb(&["ready"]), "ready\n");
    assert_prints(&agent.lb(&["ready", "--service", "kv-write"]), "ready\n");
    let both = ["ready", "--service", "kv-write", "--service", "kv-read"];
    assert_fails(
        &agent.lb(&both),
        1,
        "lb: not ready: service \"kv-read\" has no target",
    );
    assert_fails(
        &agent.lb(&["ready", "--service", "web"]),
        1,
        "lb: not ready: no service is named \"web\"; `lb status` lists them",
    );
}

#[test]
fn a_balancer_that_has_just_started_is_not_ready() {
    let agent = Agent::start(|query| {
        let Query::Status(reply) = query else {
            panic!("not about the status");
        };
        let mut status = status();
        status.uptime_ms = status.pools[0].servers[2].since_ms;
        let _ = reply.send(Ok(status));
    });
    let reason = "lb: not ready: kv/n3 has not been checked yet";
    assert_fails(&agent.lb(&["ready"]), 1, reason);
}

#[test]
fn a_balancer_that_reaches_no_server_is_not_ready() {
    let agent = Agent::start(|query| {
        let Query::Status(reply) = query else {
            panic!("not about the status");
        };
        let mut status = status();
        for (server, code) in status.pools[0].servers.iter_mut().zip(["L4TOUT", "L4CON"]) {
            server.check.as_mut().unwrap().code = code.into();
        }
        let _ = reply.send(Ok(status));
    });
    let reason = "lb: not ready: no server answers its checks; `lb status` shows them";
    assert_fails(&agent.lb(&["ready"]), 1, reason);
}

#[test]
fn stats_leave_off_what_never_occurred() {
    let agent = Agent::start(answer);
    assert_prints(&agent.lb(&["stats"]), STATS);
    assert!(STATS.lines().all(|line| line.len() <= 100));
}

#[test]
fn flows_are_filtered_by_the_agent_and_say_what_is_left_off() {
    let agent = Agent::start(answer);
    let arguments = [
        "flows",
        "--service",
        "kv-write",
        "--server",
        "n1",
        "--limit",
        "2",
    ];
    assert_prints(
        &agent.lb(&arguments),
        "\
SERVICE   CLIENT           SNAT            SERVER  STATE        IDLE
kv-write  192.0.2.7:20001  10.0.0.5:20001  n1      established    1s
kv-write  192.0.2.7:20002  10.0.0.5:20002  n1      established    1s
2 of 250 connections; --limit shows more
",
    );
}

#[test]
fn the_filter_reaches_the_agent_as_it_was_typed() {
    let agent = Agent::start(|query| {
        let Query::Flows { filter, answer } = query else {
            panic!("not about flows");
        };
        let echo = format!(
            "{:?} {:?} {}",
            filter.service,
            filter.server,
            filter.limit()
        );
        let _ = answer.send(Err(Refusal::Failed(echo)));
    });
    assert_fails(
        &agent.lb(&["flows", "--server", "n-1.a_b"]),
        1,
        "lb: the agent refused: None Some(ServerName(\"n-1.a_b\")) 1000",
    );
}

#[test]
fn json_is_the_answer_of_the_api() {
    let agent = Agent::start(answer);
    let output = agent.lb(&["status", "--json"]);
    let shown: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown, status());
    let output = agent.lb(&["stats", "--json"]);
    let shown: Stats = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown, stats());
    let output = agent.lb(&["flows", "--json"]);
    let shown: Flows = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(Ok(shown), flows(&FlowFilter::default()));
}

#[test]
fn the_words_of_the_api_are_those_of_the_documentation() {
    let json = serde_json::to_value(status()).unwrap();
    assert_eq!(json["hook"], "xdp-native");
    assert_eq!(json["services"][0]["state"], "no-target");
    assert_eq!(json["services"][0]["route"], "replicas");
    assert_eq!(json["pools"][0]["servers"][0]["state"], "UP");
    assert_eq!(json["pools"][0]["servers"][0]["role"], "leader");
    assert_eq!(
        json["pools"][0]["servers"][2]["check"],
        serde_json::Value::Null
    );
}

#[test]
fn what_the_agent_refuses_is_told_with_its_reason() {
    let agent = Agent::start(answer);
    assert_fails(
        &agent.lb(&["flows", "--service", "kv-wirte"]),
        1,
        "lb: the agent refused: no service is named \"kv-wirte\"",
    );
}

#[test]
fn an_agent_whose_loop_is_gone_says_so() {
    let agent = Agent::start_loop(|queries| async move { drop(queries) });
    assert_fails(
        &agent.lb(&["status"]),
        1,
        "lb: the agent refused: the agent is stopping",
    );
}

#[test]
fn an_agent_whose_loop_hangs_says_so_in_time() {
    let agent = Agent::start_loop(|queries| async move {
        std::future::pending::<()>().await;
        drop(queries);
    });
    assert_fails(
        &agent.lb(&["stats"]),
        1,
        "lb: the agent refused: the agent gave no answer within 4 s",
    );
}

#[test]
fn a_missing_socket_is_named_with_the_mend() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("lb.sock");
    let path = socket.display();
    for verb in ["status", "stats", "flows", "ready"] {
        assert_fails(
            &lb(&socket, &[verb]),
            3,
            &format!(
                "lb: no agent answers on {path}: there is no such socket; \
                 start one with `lb run`, or name its socket with --socket"
            ),
        );
    }
}

#[test]
fn the_socket_of_a_dead_agent_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("lb.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = lb(&socket, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("the agent that made it is gone"));
}

#[test]
fn a_reader_that_closes_the_pipe_early_is_no_error() {
    let agent = Agent::start(answer);
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["flows", "--json"])
        .env("LB_SOCKET", agent.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The pipe is gone before the first byte is written.
    drop(child.stdout.take());
    let mut complaint = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut complaint)
        .unwrap();
    assert_eq!(complaint, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_unknown_path_is_answered_with_the_known_ones() {
    let agent = Agent::start(answer);
    let (status, body) = agent.raw("GET /v2/status");
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert_eq!(
        body,
        r#"{"error":"no such path: /v2/status; known: /v1/status, /v1/stats, /v1/flows, /v1/reload, /v1/overrides"}"#
    );
}

#[test]
fn nothing_changes_by_get_and_nothing_is_read_by_post() {
    let agent = Agent::start(answer);
    for (request, error) in [
        (
            "POST /v1/flows",
            "POST /v1/flows is not allowed: it only reads; use GET",
        ),
        (
            "GET /v1/reload",
            "GET /v1/reload is not allowed: it changes something; use POST",
        ),
    ] {
        let (status, body) = agent.raw(request);
        assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(body, format!(r#"{{"error":"{error}"}}"#));
    }
}

#[test]
fn a_reload_says_what_there_is_now_or_what_is_wrong() {
    let agent = Agent::start(answer);
    let expected = "reloaded: 2 services, 1 pool, 3 servers\n";
    assert_prints(&agent.lb(&["reload"]), expected);
    let json = agent.lb(&["reload", "--json"]);
    let reloaded: Reloaded = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(reloaded, RELOADED);
    let agent = Agent::start(|query| {
        let Query::Reload(reply) = query else {
            panic!("no reload");
        };
        let problems = "lb.toml:1:1: one\nlb.toml:2:2: another";
        let _ = reply.send(Err(Refusal::Invalid(problems.into())));
    });
    // As `lb check` has it.
    let problems = "lb.toml:1:1: one\nlb.toml:2:2: another";
    assert_fails(&agent.lb(&["reload"]), 1, problems);
}

#[test]
fn changes_reach_the_agent_as_they_were_typed() {
    let agent = Agent::start(answer);
    let one = r#""pool":"kv","server":"n1""#;
    let deadline = r#""deadline_ms""#;
    let drain = format!(r#"{{"change":"state",{one},"state":"drain",{deadline}:"#);
    let add = format!(r#"{{"change":"add",{one},"address":"10.0.0.9:80","weight":2,"#);
    let table: [(&[&str], String); 8] = [
        (
            &["set", "kv/n1", "weight", "5"],
            format!(r#"{{"change":"weight",{one},"weight":5}}"#),
        ),
        (
            &["set", "kv/n1", "state", "maint"],
            format!(r#"{{"change":"state",{one},"state":"maint",{deadline}:null}}"#),
        ),
        (&["drain", "kv/n1"], format!("{drain}null}}")),
        (
            &["drain", "kv/n1", "--deadline", "5s", "--wait"],
            format!("{drain}5000}}"),
        ),
        (
            &["add", "kv", "n1", "10.0.0.9:80", "--weight", "2"],
            format!(r#"{add}"check_port":null,"max_connections":null}}"#),
        ),
        (
            &["remove", "kv/n1"],
            format!(r#"{{"change":"remove",{one}}}"#),
        ),
        (
            &["clear", "kv/n1"],
            format!(r#"{{"change":"clear",{one}}}"#),
        ),
        (
            &["clear"],
            r#"{"change":"clear","pool":null,"server":null}"#.to_owned(),
        ),
    ];
    for (arguments, body) in table {
        assert_prints(&agent.lb(arguments), &format!("kv/n1: {body}\n"));
    }
    for wrong in [
        &["set", "n1", "weight", "5"][..],
        &["set", "kv/n1", "weight", "many"],
        &["set", "kv/n1", "state", "gone"],
        &["set", "kv/n1", "colour", "red"],
        &["drain", "kv/n1", "--deadline", "5"],
        &["add", "kv", "n1", "somewhere"],
    ] {
        assert_eq!(agent.lb(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_query_that_is_not_understood_is_refused() {
    let agent = Agent::start(answer);
    for query in ["limit=many", "sevice=kv", "limit=-1"] {
        let (status, body) = agent.raw(&format!("GET /v1/flows?{query}"));
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{query}");
        assert!(body.contains("known: service, server, limit"), "{body}");
    }
}
