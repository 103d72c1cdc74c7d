//! What a check says about each kind of server.

use super::*;

#[tokio::test]
async fn a_port_that_accepts_is_l4ok() {
    let (address, _listener) = hung().await;
    assert_is(&check_tcp(address).await, Outcome::Connected, "L4OK", "");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_l4con_without_waiting() {
    for report in [
        check_tcp(nobody().await).await,
        check_role(nobody().await).await,
    ] {
        assert_is(&report, Outcome::Refused, "L4CON", "connection refused");
        assert!(report.took < TIMEOUT, "{report:?}");
    }
}

/// A full accept queue: the kernel drops further SYNs, as a dead host would.
#[tokio::test]
async fn a_host_that_does_not_answer_is_l4tout() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..4 {
        let connect = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address));
        fillers.push(connect.await);
    }
    assert_is(
        &check_tcp(address).await,
        Outcome::ConnectTimeout,
        "L4TOUT",
        "no connection within 300ms",
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_l7tout() {
    let (address, _listener) = hung().await;
    for report in [check_path(address).await, check_role(address).await] {
        assert_is(
            &report,
            Outcome::AnswerTimeout,
            "L7TOUT",
            "no whole answer within 300ms",
        );
        assert_eq!(report.role, None);
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_l7tout() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            .await
            .unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_is(
        &check_path(address).await,
        Outcome::AnswerTimeout,
        "L7TOUT",
        "",
    );
}

#[tokio::test]
async fn a_status_line_that_drips_is_l7tout() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        for byte in b"HTTP/1.1 200 OK\r\n\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_is(
        &check_path(address).await,
        Outcome::AnswerTimeout,
        "L7TOUT",
        "",
    );
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_l7rsp() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        "HTTP/1.1 abc OK\r\n\r\n",
    ] {
        let address = answering(garbage, Then::Hang).await;
        assert_is(
            &check_path(address).await,
            Outcome::Garbage,
            "L7RSP",
            "the answer is not HTTP",
        );
    }
}

#[tokio::test]
async fn a_header_without_end_is_l7rsp() {
    let header = format!(
        "HTTP/1.1 200 OK\r\nX-Filler: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let address = answering(header, Then::Hang).await;
    let report = check_path(address).await;
    assert_is(
        &report,
        Outcome::Garbage,
        "L7RSP",
        "the answer's header is longer than 16384 bytes",
    );
}

#[tokio::test]
async fn a_connection_that_is_closed_in_the_middle_is_l7rsp() {
    let middles = [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    ];
    for middle in middles {
        let address = answering(middle, Then::Close).await;
        assert_is(&check_path(address).await, Outcome::Garbage, "L7RSP", "");
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_is_l7rsp() {
    let address = serve(|mut stream| async move {
        stream.set_zero_linger().unwrap();
        request(&mut stream).await;
    })
    .await;
    assert_is(&check_path(address).await, Outcome::Garbage, "L7RSP", "");
}

#[tokio::test]
async fn a_body_without_end_is_cut_off_and_its_status_counts() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
            .await
            .unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    assert_is(
        &check_path(address).await,
        Outcome::Answered,
        "L7OK",
        "200 OK at /health",
    );
}

#[tokio::test]
async fn the_status_decides_about_a_path() {
    let table = [
        ("200 OK", Outcome::Answered, "L7OK"),
        ("204 No Content", Outcome::Answered, "L7OK"),
        ("301 Moved Permanently", Outcome::Status, "L7STS"),
        ("404 Not Found", Outcome::Status, "L7STS"),
        ("503 Service Unavailable", Outcome::Status, "L7STS"),
    ];
    for (status, outcome, code) in table {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let address = answering(answer, Then::Hang).await;
        assert_is(
            &check_path(address).await,
            outcome,
            code,
            &format!("{status} at /health"),
        );
    }
}

const LEADER: &[Page] = &[(
    "GET /primary ",
    "200 OK",
    "",
    r#"{"id":1,"role":"leader","term":7,"leader":1,"leader_api":"10.0.0.11:8081"}"#,
)];
const REPLICA: &[Page] = &[
    (
        "GET /primary ",
        "503 Service Unavailable",
        "",
        r#"{"id":2,"role":"replica","term":7,"leader":1}"#,
    ),
    (
        "GET /replica?lag=10 ",
        "200 OK",
        "X-Raft-Term: 7\r\nX-Raft-Leader: 1\r\nX-Raft-Node: 2\r\n",
        "",
    ),
];
const NEITHER: &[Page] = &[
    (
        "GET /primary ",
        "503 Service Unavailable",
        "",
        r#"{"id":3,"term":8}"#,
    ),
    (
        "GET /replica?lag=10 ",
        "503 Service Unavailable",
        "",
        r#"{"id":3,"term":8,"leader":null}"#,
    ),
];
const PATRONI: &[Page] = &[(
    "GET /primary ",
    "200 OK",
    "",
    r#"{"state":"running","role":"primary","timeline":3}"#,
)];

fn claim(
    role: Role,
    term: Option<u64>,
    leader: Option<&str>,
    node: Option<&str>,
) -> Option<RoleClaim> {
    let (leader, node) = (leader.map(str::to_owned), node.map(str::to_owned));
    Some(RoleClaim {
        role,
        term,
        leader,
        node,
        lag: None,
    })
}

/// Servers that keep connections open and servers that close after each
/// answer, as Patroni does, must look the same.
#[tokio::test]
async fn roles_are_found_by_the_first_path_that_says_200() {
    for then in [Then::Hang, Then::Close] {
        let report = check_role(pages(LEADER, then).await).await;
        assert_is(&report, Outcome::Answered, "L7OK", "200 OK at /primary");
        assert_eq!(
            report.role,
            claim(Role::Leader, Some(7), Some("1"), Some("1"))
        );

        let report = check_role(pages(REPLICA, then).await).await;
        assert_is(
            &report,
            Outcome::Answered,
            "L7OK",
            "200 OK at /replica?lag=10",
        );
        assert_eq!(
            report.role,
            claim(Role::Replica, Some(7), Some("1"), Some("2"))
        );

        let report = check_role(pages(NEITHER, then).await).await;
        assert_is(
            &report,
            Outcome::Status,
            "L7STS",
            "503 Service Unavailable at /primary, 503",
        );
        assert_eq!(report.role, claim(Role::Unknown, Some(8), None, Some("3")));

        let report = check_role(pages(PATRONI, then).await).await;
        assert_is(&report, Outcome::Answered, "L7OK", "");
        assert_eq!(report.role, claim(Role::Leader, None, None, None));
    }
}

#[tokio::test]
async fn a_server_that_denies_to_lead_and_then_falls_silent_has_still_denied_it() {
    let address = serve(|mut stream| async move {
        request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let report = check_role(address).await;
    assert_is(&report, Outcome::AnswerTimeout, "L7TOUT", "");
    assert_eq!(report.role, claim(Role::Unknown, None, None, None));
}

#[tokio::test]
async fn a_path_beside_the_roles_has_to_be_good_as_well() {
    const SICK: &[Page] = &[
        ("GET /health ", "500 Oh", "", ""),
        ("GET /primary ", "200 OK", "", ""),
    ];
    const WELL: &[Page] = &[
        ("GET /health ", "200 OK", "", ""),
        ("GET /primary ", "200 OK", "", ""),
    ];
    for (pages_of, outcome) in [(SICK, Outcome::Status), (WELL, Outcome::Answered)] {
        let address = pages(pages_of, Then::Hang).await;
        let kind = CheckKind::get(Some("/health".into()));
        let report = check(&pool(address, kind, Some(roles()))).await;
        assert_eq!(report.outcome, outcome);
        assert_eq!(report.role, claim(Role::Leader, None, None, None));
    }
}
