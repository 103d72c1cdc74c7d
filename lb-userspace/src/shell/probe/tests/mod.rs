//! Checks against servers that do all that servers should not do, on loopback.

mod answers;
mod beside;
mod content;
mod timing;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::Probes;
use super::check::{Check, Questions};
use super::connect::Ports;
use crate::config::{
    self, CheckKind, Config, Duty, Hook, Limits, OnStop, Pool, RoleCheck, Server, Snat,
    StatusRange, Timeouts, Vips,
};
use crate::engine::{CheckReport, Event, Outcome, Pace, Role, RoleClaim};

const TIMEOUT: Duration = Duration::from_millis(300);

fn pool(address: SocketAddr, kind: CheckKind, role: Option<RoleCheck>) -> Pool {
    Pool {
        name: "kv".into(),
        check: config::Check {
            interval: TIMEOUT,
            fast_interval: TIMEOUT / 6,
            timeout: TIMEOUT,
            ..config::Check::with_defaults(kind)
        },
        role,
        slow_start: None,
        discover: None,
        servers: vec![Server {
            name: "n1".into(),
            address,
            check_address: address,
            agent_address: None,
            weight: Server::WEIGHT,
            max_connections: None,
            backup: false,
            duty: Duty::Ready,
        }],
    }
}

async fn check(pool: &Pool) -> CheckReport {
    let ports = Ports::outside(&(1024..=32_767));
    let questions = Arc::new(Questions::of(pool, ports));
    Check::new(&pool.servers[0], &questions).run().await
}

async fn check_tcp(address: SocketAddr) -> CheckReport {
    check(&pool(address, CheckKind::CONNECT, None)).await
}

async fn check_path(address: SocketAddr) -> CheckReport {
    check(&pool(address, CheckKind::get(Some("/health".into())), None)).await
}

fn roles() -> RoleCheck {
    RoleCheck::by_paths("/primary", "/replica?lag=10")
}

async fn check_role(address: SocketAddr) -> CheckReport {
    check(&pool(address, CheckKind::get(None), Some(roles()))).await
}

/// A server that treats each connection in the same way, in its own task.
async fn serve<F, S>(session: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(session(stream));
        }
    });
    address
}

/// Reads one request, and gives its first line; `None` at the end.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.ok()?;
        request.push(byte);
    }
    let text = String::from_utf8(request).unwrap();
    text.lines().next().map(str::to_owned)
}

/// A server that sends these bytes in answer to the first request of each
/// connection, and then keeps the connection open, or closes it.
async fn answering(answer: impl Into<Vec<u8>>, then: Then) -> SocketAddr {
    let answer = answer.into();
    serve(move |mut stream| {
        let answer = answer.clone();
        async move {
            request(&mut stream).await;
            // It may have hung up on us.
            let _ = stream.write_all(&answer).await;
            if let Then::Hang = then {
                std::future::pending::<()>().await;
            }
        }
    })
    .await
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    Hang,
}

/// One page: how the request begins, the status line, headers, the body.
type Page = (&'static str, &'static str, &'static str, &'static str);

/// A well-behaved server with these pages; everything else is 404.
async fn pages(pages: &'static [Page], then: Then) -> SocketAddr {
    serve(move |mut stream| async move {
        while let Some(request) = request(&mut stream).await {
            let page = pages.iter().find(|(start, ..)| request.starts_with(start));
            let (_, status, headers, body) = page.unwrap_or(&("", "404 Not Found", "", ""));
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            if let Then::Close = then {
                return;
            }
        }
    })
    .await
}

/// An address that refuses connections.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A server whose process is stopped, as far as clients can see.
async fn hung() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

#[track_caller]
fn assert_is(report: &CheckReport, outcome: Outcome, code: &str, detail: &str) {
    assert_eq!(
        (report.outcome, report.outcome.code()),
        (outcome, code),
        "{report:?}"
    );
    assert!(report.detail.contains(detail), "{report:?}");
    assert!(
        report.took < TIMEOUT + Duration::from_millis(200),
        "{report:?}"
    );
}
