//! Listens to a server that tells of changes by itself: a page without end,
//! one line of JSON for each change.
//!
//! Lines of two kinds are understood: JSON alone (`application/x-ndjson`), and
//! the `data:` of server-sent events. The page has to bring a line at least
//! every three seconds: without one the connection is dead, whatever drips out
//! of it, and another one is made.
//! How a line is believed is the engine's business; polling goes on beside.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Name;
use super::claim;
use super::connect::{Ports, Purpose, connect, explain};
use crate::config::{Answered, Pool, RoleCheck, RoleSource, Server};
use crate::engine::{Event, Role, RoleClaim, WatchReport};

/// The longest line that is read, in bytes.
const LINE_MAX: usize = 16 * 1024;
/// How long the page may bring no line.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The time from one attempt to the next: at first, and at most. A server that comes
/// back may lead soon: its checks find it as fast, and the watch has to be there by then.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// One server's watch.
pub struct Watch {
    server: SocketAddr,
    ports: Ports,
    timeout: Duration,
    path: String,
    check: RoleCheck,
}

impl Watch {
    /// `None`: the server is not said to have one.
    pub fn new(pool: &Pool, server: &Server, ports: Ports) -> Option<Self> {
        let check = pool.role.clone()?;
        Some(Self {
            server: server.check_address,
            ports,
            timeout: pool.check.timeout,
            path: check.watch.clone()?,
            check,
        })
    }

    /// Listens until nobody listens to us any more.
    pub async fn run(self, name: Name, events: mpsc::Sender<Event>) {
        let listener = Listener { name, events };
        let mut backoff = BACKOFF.0;
        loop {
            let mut heard = false;
            let why = match self.listen(&mut heard, &listener).await {
                Ok(()) => return,
                Err(why) => why,
            };
            if !listener.tell(WatchReport::Lost(why)).await {
                return;
            }
            if heard {
                backoff = BACKOFF.0;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Passes lines on; `Ok` where nobody wants them any more, else why there
    /// are none. `heard` says whether there were any.
    async fn listen(&self, heard: &mut bool, listener: &Listener) -> Result<(), String> {
        let mut driver = JoinSet::new();
        let opened = timeout(self.timeout.max(SILENCE_MAX), self.open(&mut driver)).await;
        let mut body = opened.map_err(|_| "no answer in time".to_owned())??;
        let mut lines = Lines::default();
        let mut silent = Instant::now();
        loop {
            let frame = timeout_at(silent + SILENCE_MAX, body.frame()).await;
            let frame = frame.map_err(|_| format!("silent for {SILENCE_MAX:?}"))?;
            let frame = frame.ok_or("the server ended it")?;
            let frame = frame.map_err(|error| error.to_string())?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            for line in lines.split(&data)? {
                silent = Instant::now();
                let Some(said) = self.read(&line) else {
                    continue;
                };
                *heard = true;
                if !listener.tell(WatchReport::Line(said)).await {
                    return Ok(());
                }
            }
        }
    }

    async fn open(&self, driver: &mut JoinSet<()>) -> Result<Incoming, String> {
        let stream = connect(self.server, self.ports, Purpose::Ask).await;
        let stream = stream.map_err(|error| explain(&error).1)?;
        let broken = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LINE_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Its errors reach us through the body that they end.
        driver.spawn(async { drop(connection.await) });
        let request = Request::get(&self.path)
            .header(HOST, self.server.to_string())
            .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/x-ndjson, text/event-stream, */*;q=0.5")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        if parts.status != StatusCode::OK {
            return Err(format!("{} at {}", parts.status, self.path));
        }
        Ok(body)
    }

    /// What a line says; `None` where it says nothing of a role.
    fn read(&self, line: &[u8]) -> Option<RoleClaim> {
        let json: Json = serde_json::from_slice(line).ok()?;
        let answer = Answered {
            bytes: line,
            json: &json,
        };
        let role = match &self.check.source {
            RoleSource::Paths { .. } => match json.get("role")?.as_str()? {
                "leader" => Role::Leader,
                "replica" => Role::Replica,
                _ => Role::Unknown,
            },
            RoleSource::Answer {
                leader, replica, ..
            } => match (leader.holds(answer), replica.holds(answer)) {
                (true, false) => Role::Leader,
                (false, true) => Role::Replica,
                (false, false) | (true, true) => Role::Unknown,
            },
        };
        // The headers are as old as the connection: they say nothing.
        Some(claim::read(&self.check, role, &HeaderMap::new(), answer))
    }
}

/// Who hears of one server's lines.
struct Listener {
    name: Name,
    events: mpsc::Sender<Event>,
}

impl Listener {
    /// Whether anybody still listens.
    async fn tell(&self, report: WatchReport) -> bool {
        let (pool, server) = self.name.clone();
        let event = Event::Watched {
            pool,
            server,
            report,
        };
        self.events.send(event).await.is_ok()
    }
}

/// Makes lines of what comes in pieces.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The lines that end in `data`, without what server-sent events put
    /// around them.
    fn split(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut lines = Vec::new();
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.len() > LINE_MAX {
                return Err(format!("a line is longer than {LINE_MAX} bytes"));
            }
            if self.begun.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.begun);
                let line = line.trim_ascii();
                let line = line.strip_prefix(b"data:").unwrap_or(line);
                lines.push(line.trim_ascii().to_vec());
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_pieces() {
        let text = b"{\"a\":1}\n\n: comment\r\nevent: role\r\ndata: {\"b\":2}\r\n\r\n{\"c\"";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let found = text
                .chunks(size)
                .flat_map(|piece| lines.split(piece).unwrap());
            let found: Vec<Vec<u8>> = found.filter(|line| line.starts_with(b"{")).collect();
            assert_eq!(
                found,
                [&b"{\"a\":1}"[..], b"{\"b\":2}"],
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        let endless = vec![b'x'; LINE_MAX + 1];
        assert!(lines.split(&endless).is_err());
    }
}
