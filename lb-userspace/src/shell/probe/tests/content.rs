//! What a check says about what a server answers: bodies, JSON, and the
//! answers of servers that do not speak HTTP.

use regex::bytes::Regex;

use super::*;
use crate::config::{Condition, Expected, JsonTest, Method, Page, Pattern, Place, RoleSource};

fn text(text: &str) -> Option<Pattern> {
    Some(Pattern::Text(text.into()))
}

fn regex(text: &str) -> Option<Pattern> {
    Some(Pattern::Regex(Regex::new(text).unwrap()))
}

fn equals(pointer: &str, value: &str) -> JsonTest {
    JsonTest {
        pointer: pointer.into(),
        expected: Expected::OneOf(vec![value.into()]),
    }
}

fn page(body: Option<Pattern>, json: Option<JsonTest>) -> CheckKind {
    CheckKind::Http {
        method: Method::Get,
        path: Some("/health".into()),
        expect_status: vec![StatusRange::SUCCESS],
        expect_body: body,
        json,
    }
}

const JSON: &[Page_] = &[(
    "GET /health ",
    "200 OK",
    "",
    r#"{"status":"passing","checks":{"disk":"ok"}}"#,
)];
type Page_ = super::Page;

#[tokio::test]
async fn a_body_has_to_say_what_is_expected() {
    let address = pages(JSON, Then::Hang).await;
    let table = [
        (
            page(text("passing"), None),
            Outcome::Answered,
            "200 OK at /health",
        ),
        (
            page(text("failing"), None),
            Outcome::Content,
            "the body does not say it",
        ),
        (
            page(regex(r#""disk":\s*"ok""#), None),
            Outcome::Answered,
            "",
        ),
        (
            page(regex("^ok"), None),
            Outcome::Content,
            "the body does not say it",
        ),
        (
            page(None, Some(equals("/checks/disk", "ok"))),
            Outcome::Answered,
            "",
        ),
        (
            page(None, Some(equals("/checks/disk", "full"))),
            Outcome::Content,
            "/checks/disk is \"ok\"",
        ),
        (
            page(None, Some(equals("/none", "ok"))),
            Outcome::Content,
            "/none is missing",
        ),
    ];
    for (kind, outcome, detail) in table {
        let report = check(&pool(address, kind, None)).await;
        let code = if outcome == Outcome::Content {
            "L7RSP"
        } else {
            "L7OK"
        };
        assert_is(&report, outcome, code, detail);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_judged_by_its_beginning() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{\"early\":1";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    })
    .await;
    let report = check(&pool(address, page(text("early"), None), None)).await;
    assert_is(&report, Outcome::Answered, "L7OK", "");
    let report = check(&pool(address, page(text("late"), None), None)).await;
    assert_is(
        &report,
        Outcome::Content,
        "L7RSP",
        "in its first 65536 bytes",
    );
    let json = page(None, Some(equals("/early", "1")));
    let report = check(&pool(address, json, None)).await;
    assert_is(
        &report,
        Outcome::Content,
        "L7RSP",
        "no JSON in its first 65536 bytes",
    );
}

#[tokio::test]
async fn a_head_request_needs_no_body() {
    let address = serve(|mut stream| async move {
        let Some(line) = request(&mut stream).await else {
            return;
        };
        let status = if line.starts_with("HEAD /health ") {
            "200 OK"
        } else {
            "405 No"
        };
        // The length is that of the body which GET would bring.
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 1000\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut kind = page(None, None);
    let CheckKind::Http { method, .. } = &mut kind else {
        panic!()
    };
    *method = Method::Head;
    let report = check(&pool(address, kind, None)).await;
    assert_is(&report, Outcome::Answered, "L7OK", "200 OK at /health");
}

fn redis() -> CheckKind {
    CheckKind::Tcp {
        send: b"INFO replication\r\n".to_vec(),
        expect: text("repl_backlog_histlen:"),
    }
}

fn redis_roles() -> RoleCheck {
    let contains = |pattern: Option<Pattern>| Condition::Contains(pattern.unwrap());
    RoleCheck {
        source: RoleSource::Answer {
            page: None,
            leader: contains(text("role:master")),
            replica: contains(regex("role:slave[^$]*master_link_status:up")),
        },
        lag: Some(Place::Regex(
            Regex::new("master_last_io_seconds_ago:(\\d+)").unwrap(),
        )),
        ..RoleCheck::by_paths("/", "/")
    }
}

/// As Redis 7 answers it, cut short, byte by byte or at once.
fn redis_says(role: &'static str, slowly: bool) -> impl Future<Output = SocketAddr> {
    serve(move |mut stream| async move {
        let mut request = [0; 18];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"INFO replication\r\n");
        let answer = format!("$99\r\n# Replication\r\n{role}repl_backlog_histlen:0\r\n\r\n");
        let size = if slowly { 7 } else { answer.len() };
        for piece in answer.as_bytes().chunks(size) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        std::future::pending::<()>().await;
    })
}

#[tokio::test]
async fn redis_tells_its_role_and_how_far_it_is_behind() {
    let replica = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:4\r\n";
    let broken = "role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n";
    for slowly in [false, true] {
        let table = [
            ("role:master\r\n", Outcome::Answered, Role::Leader, None),
            (replica, Outcome::Answered, Role::Replica, Some(4)),
            (broken, Outcome::Content, Role::Unknown, None),
        ];
        for (says, outcome, role, lag) in table {
            let address = redis_says(says, slowly).await;
            let mut pool = pool(address, redis(), Some(redis_roles()));
            // In pieces it takes a while on a busy machine.
            pool.check.timeout = 10 * TIMEOUT;
            let report = check(&pool).await;
            assert_eq!(report.outcome, outcome, "{report:?}");
            let claim = report.role.unwrap();
            assert_eq!((claim.role, claim.lag), (role, lag), "{says}");
        }
    }
}

#[tokio::test]
async fn a_tcp_answer_that_is_not_the_expected_one() {
    let ended = serve(|mut stream| async move {
        stream.write_all(b"-ERR unknown\r\n").await.unwrap();
        let mut request = [0; 18];
        let _ = stream.read_exact(&mut request).await;
    });
    let report = check(&pool(ended.await, redis(), None)).await;
    assert_is(&report, Outcome::Content, "L7RSP", "closed the connection");

    let endless =
        serve(|mut stream| async move { while stream.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let report = check(&pool(endless.await, redis(), None)).await;
    assert_is(
        &report,
        Outcome::Content,
        "L7RSP",
        "not in the first 16384 bytes",
    );

    let (silent, _listener) = hung().await;
    let report = check(&pool(silent, redis(), None)).await;
    assert_is(&report, Outcome::AnswerTimeout, "L7TOUT", "");

    let dripping = serve(|mut stream| async move {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let report = check(&pool(dripping.await, redis(), None)).await;
    assert_is(&report, Outcome::AnswerTimeout, "L7TOUT", "");
    let report = check(&pool(nobody().await, redis(), None)).await;
    assert_is(&report, Outcome::Refused, "L4CON", "");
}

/// etcd's gateway is asked by POST, and a member that names itself leads.
#[tokio::test]
async fn a_page_that_is_posted_to_tells_the_role_and_the_term() {
    const LEADER: &str =
        r#"{"header":{"member_id":"77","raft_term":"5"},"leader":"77","raftTerm":"5"}"#;
    const FOLLOWER: &str =
        r#"{"header":{"member_id":"78","raft_term":"5"},"leader":"77","raftTerm":"5"}"#;
    const STRAY: &str = r#"{"header":{"member_id":"79"},"error":"no leader"}"#;
    let leader = |expected| {
        Condition::Json(JsonTest {
            pointer: "/leader".into(),
            expected,
        })
    };
    let member = || "/header/member_id".to_owned();
    let role = RoleCheck {
        source: RoleSource::Answer {
            page: Some(Page {
                path: "/v3/maintenance/status".into(),
                post: Some("{}".into()),
            }),
            leader: leader(Expected::SameAs(member())),
            replica: leader(Expected::DiffersFrom(member())),
        },
        term: Some(Place::Pointer("/raftTerm".into())),
        node: Some(Place::Pointer(member())),
        ..RoleCheck::by_paths("/", "/")
    };
    let table = [
        (LEADER, Outcome::Answered, Role::Leader, Some(5)),
        (FOLLOWER, Outcome::Answered, Role::Replica, Some(5)),
        (STRAY, Outcome::Content, Role::Unknown, None),
    ];
    for (body, outcome, expected, term) in table {
        let address = posted(body).await;
        let report = check(&pool(address, CheckKind::get(None), Some(role.clone()))).await;
        assert_eq!(report.outcome, outcome, "{report:?}");
        let claim = report.role.unwrap();
        assert_eq!((claim.role, claim.term), (expected, term), "{body}");
    }
}

/// Whoever meets both conditions is neither: nobody can tell.
#[tokio::test]
async fn an_answer_that_says_both_says_nothing() {
    const BOTH: &[Page_] = &[("GET /s ", "200 OK", "", "leader, and replica")];
    let contains = |word| Condition::Contains(text(word).unwrap());
    let role = RoleCheck {
        source: RoleSource::Answer {
            page: Some(Page {
                path: "/s".into(),
                post: None,
            }),
            leader: contains("leader"),
            replica: contains("replica"),
        },
        ..RoleCheck::by_paths("/", "/")
    };
    let address = pages(BOTH, Then::Hang).await;
    let report = check(&pool(address, CheckKind::get(None), Some(role))).await;
    assert_is(
        &report,
        Outcome::Content,
        "L7RSP",
        "tells neither leader nor replica",
    );
    assert_eq!(report.role.unwrap().role, Role::Unknown);
}

fn posted(body: &'static str) -> impl Future<Output = SocketAddr> {
    serve(move |mut stream| async move {
        let line = request(&mut stream).await.unwrap();
        assert!(line.starts_with("POST /v3/maintenance/status "), "{line}");
        let mut sent = [0; 2];
        stream.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"{}");
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
}

#[tokio::test]
async fn the_service_port_has_to_accept_as_well() {
    const WELL: &[Page_] = &[("GET /health ", "200 OK", "", "")];
    let health = pages(WELL, Then::Hang).await;
    let (service, _listener) = hung().await;
    let checked = async |service: SocketAddr, asked: bool| {
        let mut pool = pool(health, page(None, None), None);
        pool.servers[0].address = service;
        pool.check.service_port = asked;
        check(&pool).await
    };
    assert_is(&checked(service, true).await, Outcome::Answered, "L7OK", "");
    let dead = nobody().await;
    let detail = format!("service port {}: connection refused", dead.port());
    assert_is(
        &checked(dead, true).await,
        Outcome::Refused,
        "L4CON",
        &detail,
    );
    assert_is(&checked(dead, false).await, Outcome::Answered, "L7OK", "");
}

#[tokio::test]
async fn a_leader_whose_service_port_is_dead_has_still_said_that_it_leads() {
    const LEADS: &[Page_] = &[("GET /primary ", "200 OK", "", r#"{"term":7}"#)];
    let mut pool = pool(
        pages(LEADS, Then::Hang).await,
        CheckKind::get(None),
        Some(roles()),
    );
    pool.servers[0].address = nobody().await;
    let report = check(&pool).await;
    assert_eq!(report.outcome, Outcome::Refused);
    assert_eq!(report.role.unwrap().role, Role::Leader);
}
