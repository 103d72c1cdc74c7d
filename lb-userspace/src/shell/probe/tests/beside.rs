//! What goes on beside the checks: agents that are asked, and servers that
//! tell of changes by themselves.

use super::*;
use crate::engine::{Admin, AgentReport, Operating, WatchReport};
use crate::shell::probe::agent::AgentCheck;
use crate::shell::probe::watch::Watch;

async fn ask(agent: SocketAddr, send: &[u8]) -> Result<AgentReport, String> {
    let mut pool = pool(agent, CheckKind::CONNECT, None);
    pool.servers[0].agent_address = Some(agent);
    pool.check.agent.send = send.to_vec();
    let ports = Ports::outside(&(1024..=32_767));
    let started = Instant::now();
    let agent = AgentCheck::new(&pool, &pool.servers[0], ports).unwrap();
    let report = agent.ask().await;
    assert!(started.elapsed() < TIMEOUT + Duration::from_millis(200));
    report
}

#[tokio::test]
async fn an_agent_says_its_line_and_what_follows_is_not_read() {
    for line in ["50% drain\n", "50%\tdrain\r\nup maint 3%\n", "drain,50%"] {
        let agent = serve(move |mut stream| async move {
            stream.write_all(line.as_bytes()).await.unwrap();
        });
        let expected = AgentReport {
            percent: Some(50),
            admin: Some(Admin::Drain),
            ..AgentReport::default()
        };
        assert_eq!(ask(agent.await, b"").await, Ok(expected), "{line:?}");
    }
}

#[tokio::test]
async fn an_agent_is_sent_what_it_wants_to_hear() {
    let agent = serve(|mut stream| async move {
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        let answer: &[u8] = if &said == b"n1?\n" {
            b"up\n"
        } else {
            b"down\n"
        };
        stream.write_all(answer).await.unwrap();
    });
    let report = ask(agent.await, b"n1?\n").await.unwrap();
    assert_eq!(report.operating, Some(Operating::Up));
}

#[tokio::test]
async fn agents_that_say_no_line_say_why_in_time() {
    let (silent, _listener) = hung().await;
    let endless =
        serve(|mut stream| async move { while stream.write_all(&[b'x'; 512]).await.is_ok() {} });
    let dripping = serve(|mut stream| async move {
        while stream.write_all(b"u").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let table = [
        (nobody().await, "the agent: connection refused"),
        (silent, "no line from the agent within 300ms"),
        (endless.await, "longer than 1024 bytes"),
        (dripping.await, "no line from the agent within 300ms"),
    ];
    for (agent, why) in table {
        let error = ask(agent, b"").await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

/// Starts a watch on `server`; what is heard comes out.
fn listen(server: SocketAddr) -> mpsc::Receiver<Event> {
    let mut role = roles();
    role.watch = Some("/watch".into());
    let pool = pool(server, CheckKind::get(None), Some(role));
    let ports = Ports::outside(&(1024..=32_767));
    let (events, heard) = mpsc::channel(16);
    let watch = Watch::new(&pool, &pool.servers[0], ports).unwrap();
    tokio::spawn(watch.run(("kv".into(), "n1".into()), events));
    heard
}

async fn next(heard: &mut mpsc::Receiver<Event>) -> WatchReport {
    let event = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
    match event.expect("nothing was heard").unwrap() {
        Event::Watched { report, .. } => report,
        other => panic!("{other:?}"),
    }
}

fn line(role: Role, term: u64) -> WatchReport {
    WatchReport::Line(RoleClaim {
        role,
        term: Some(term),
        ..RoleClaim::default()
    })
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk of a body.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[tokio::test]
async fn lines_are_passed_on_as_they_come_in_both_dialects() {
    let server = serve(|mut stream| async move {
        request(&mut stream).await;
        let parts = [
            HEAD.to_owned(),
            chunk("{\"role\":\"leader\",\"term\":5}\n{\"role\":\"repl"),
            chunk("ica\",\"term\":6}\n"),
            chunk(": comment\n\nevent: role\ndata: {\"role\":\"unknown\",\"term\":6}\n\n"),
            chunk("no JSON\n{\"term\":9}\n"),
        ];
        for part in parts {
            stream.write_all(part.as_bytes()).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let mut heard = listen(server.await);
    assert_eq!(next(&mut heard).await, line(Role::Leader, 5));
    assert_eq!(next(&mut heard).await, line(Role::Replica, 6));
    assert_eq!(next(&mut heard).await, line(Role::Unknown, 6));
    let nothing = tokio::time::timeout(Duration::from_millis(100), heard.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn a_watch_that_ends_or_falls_silent_is_noticed_and_made_anew() {
    let server = serve(|mut stream| async move {
        request(&mut stream).await;
        let text = format!("{HEAD}{}", chunk("{\"role\":\"replica\",\"term\":5}\n"));
        stream.write_all(text.as_bytes()).await.unwrap();
        // Then nothing: as a host that lost its power.
        std::future::pending::<()>().await;
    });
    let mut heard = listen(server.await);
    for _ in 0..2 {
        assert_eq!(next(&mut heard).await, line(Role::Replica, 5));
        let lost = next(&mut heard).await;
        assert_eq!(lost, WatchReport::Lost("silent for 3s".into()));
    }

    let closing = answering(format!("{HEAD}0\r\n\r\n"), Then::Close).await;
    let lost = next(&mut listen(closing)).await;
    assert_eq!(lost, WatchReport::Lost("the server ended it".into()));
    let without = pages(&[], Then::Hang).await;
    let lost = next(&mut listen(without)).await;
    assert_eq!(lost, WatchReport::Lost("404 Not Found at /watch".into()));
    let lost = next(&mut listen(nobody().await)).await;
    assert_eq!(lost, WatchReport::Lost("connection refused".into()));
}

#[tokio::test]
async fn a_watch_that_drips_and_never_ends_a_line_is_silent() {
    let server = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        while stream.write_all(chunk(" ").as_bytes()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let lost = next(&mut listen(server.await)).await;
    assert_eq!(lost, WatchReport::Lost("silent for 3s".into()));
}

#[tokio::test]
async fn a_watch_that_is_not_to_be_had_is_tried_for_ever_less_often() {
    let mut heard = listen(nobody().await);
    let started = Instant::now();
    for _ in 0..4 {
        next(&mut heard).await;
    }
    let elapsed = started.elapsed();
    // 100, 200 and 400 ms between them.
    assert!(elapsed >= Duration::from_millis(700), "{elapsed:?}");
}

#[tokio::test]
async fn a_line_without_end_ends_the_watch() {
    let server = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(HEAD.as_bytes()).await.unwrap();
        let endless = chunk(&"x".repeat(4096));
        while stream.write_all(endless.as_bytes()).await.is_ok() {}
    });
    let lost = next(&mut listen(server.await)).await;
    assert_eq!(
        lost,
        WatchReport::Lost("a line is longer than 16384 bytes".into())
    );
}
