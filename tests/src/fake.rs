//! Servers that do as a test tells them: an echo server, and a node that
//! claims whatever role it is told to.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::Shutdown;
use serde_json::json;

use crate::cluster::{API_PORT, HEALTH_PORT};
use crate::lab::Namespace;

/// A connection on which nothing happens for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Accepts connections in a namespace and serves each on a thread of its own,
/// until dropped. Connections that are open then live on until their clients
/// close them.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address` in `namespace`.
    pub fn start(
        namespace: &Namespace,
        address: impl Into<SocketAddr>,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = address.into();
        let listener = namespace
            .enter(|| TcpListener::bind(address))
            .with_context(|| format!("cannot listen at {address} in {}", namespace.name()))?;
        let accepting = listener.try_clone()?;
        let serve = Arc::new(serve);
        let acceptor = thread::spawn(move || {
            // An error is the shutdown of the listener.
            while let Ok((stream, _)) = accepting.accept() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(IDLE_MAX));
                    let _ = stream.set_nodelay(true);
                    // What becomes of a connection is the client's to report.
                    let _ = serve(stream);
                });
            }
        });
        Ok(Self {
            listener,
            acceptor: Some(acceptor),
        })
    }

    /// Sends back what it receives.
    pub fn echo(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Self> {
        Self::start(namespace, address, echo)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes `accept`, which then fails.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Sends back what a connection brings, and ends it when its client does.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    io::copy(&mut stream, &mut writer)?;
    writer.shutdown(std::net::Shutdown::Write)
}

/// What a [`FakeNode`] says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether `/primary` answers 200.
    pub leader: bool,
    /// Whether `/replica` answers 200.
    pub replica: bool,
    /// The term, if it tells one.
    pub term: Option<u64>,
}

impl Claim {
    /// Claims to lead in `term`.
    pub fn leader(term: u64) -> Self {
        Self {
            leader: true,
            replica: false,
            term: Some(term),
        }
    }

    /// Claims to follow in `term`.
    pub fn replica(term: u64) -> Self {
        Self {
            leader: false,
            replica: true,
            term: Some(term),
        }
    }

    /// Claims to lead, in no term that it would tell.
    pub fn leader_without_term() -> Self {
        Self {
            term: None,
            ..Self::leader(0)
        }
    }

    /// Claims nothing.
    pub fn none() -> Self {
        Self {
            leader: false,
            replica: false,
            term: None,
        }
    }
}

impl Claim {
    fn role(&self) -> &'static str {
        match (self.leader, self.replica) {
            (true, _) => "leader",
            (false, true) => "replica",
            (false, false) => "unknown",
        }
    }

    /// As `raft-node` signs its answers.
    fn headers(&self, id: u64) -> String {
        let term = self.term.map(|term| format!("x-raft-term: {term}\r\n"));
        format!(
            "x-raft-node: {id}\r\nx-raft-role: {}\r\n{}",
            self.role(),
            term.unwrap_or_default()
        )
    }
}

/// A server with a node's health port, `/watch` included, and `GET /whoami` on its API port.
#[derive(Debug)]
pub struct FakeNode {
    claim: Arc<Mutex<Claim>>,
    _health: Server,
    _api: Server,
}

impl FakeNode {
    /// Starts node `id` at `address`, on the ports that `raft-node` uses.
    pub fn start(
        namespace: &Namespace,
        id: u64,
        address: impl Into<IpAddr>,
        claim: Claim,
    ) -> Result<Self> {
        let claim = Arc::new(Mutex::new(claim));
        let told = Arc::clone(&claim);
        Self::with_api(namespace, id, address, claim, move |stream| {
            answer_requests(stream, |path| {
                let claim = *told.lock().unwrap_or_else(PoisonError::into_inner);
                match path {
                    "/whoami" => Answer {
                        headers: claim.headers(id),
                        ..Answer::ok(json!({ "node": id }).to_string())
                    },
                    _ => Answer::status("404 Not Found"),
                }
            })
        })
    }

    /// As [`start`](Self::start), but `serve` has the API port.
    pub fn serving(
        namespace: &Namespace,
        id: u64,
        address: impl Into<IpAddr>,
        claim: Claim,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::with_api(namespace, id, address, Arc::new(Mutex::new(claim)), serve)
    }

    fn with_api(
        namespace: &Namespace,
        id: u64,
        address: impl Into<IpAddr>,
        claim: Arc<Mutex<Claim>>,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = address.into();
        let told = Arc::clone(&claim);
        let health = SocketAddr::new(address, HEALTH_PORT);
        let health = Server::start(namespace, health, move |stream| {
            let claim = || *told.lock().unwrap_or_else(PoisonError::into_inner);
            let watch = stream.try_clone()?;
            answer_requests(stream, |path| match path {
                // Ends when nobody reads it any more, and the connection too.
                "/watch" => {
                    let _ = tell_changes(&watch, id, claim);
                    Answer::status("503 Service Unavailable")
                }
                path => health_answer(id, claim(), path),
            })
        })?;
        let api = Server::start(namespace, SocketAddr::new(address, API_PORT), serve)?;
        Ok(Self {
            claim,
            _health: health,
            _api: api,
        })
    }

    /// Claims this from now on.
    pub fn claim(&self, claim: Claim) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }
}

struct Answer {
    status: &'static str,
    headers: String,
    body: String,
}

impl Answer {
    fn ok(body: String) -> Self {
        Self {
            body,
            ..Self::status("200 OK")
        }
    }

    fn status(status: &'static str) -> Self {
        Self {
            status,
            headers: String::new(),
            body: String::new(),
        }
    }
}

fn health_answer(id: u64, claim: Claim, path: &str) -> Answer {
    let Claim {
        leader,
        replica,
        term,
    } = claim;
    let yes = match path.split('?').next() {
        Some("/primary") => leader,
        Some("/replica") => replica,
        Some("/health" | "/ready" | "/live") => true,
        _ => return Answer::status("404 Not Found"),
    };
    Answer {
        status: if yes {
            "200 OK"
        } else {
            "503 Service Unavailable"
        },
        headers: claim.headers(id),
        body: json!({ "id": id, "role": claim.role(), "term": term }).to_string(),
    }
}

/// A page without end: a line for each change, and one a second.
fn tell_changes(mut stream: &TcpStream, id: u64, claim: impl Fn() -> Claim) -> io::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    const HEARTBEAT: Duration = Duration::from_secs(1);
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        let told = claim();
        let (role, term) = (told.role(), told.term);
        let line = format!("{}\n", json!({ "id": id, "role": role, "term": term }));
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
        let begun = Instant::now();
        while claim() == told && begun.elapsed() < HEARTBEAT {
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Answers every request on a connection until the client closes it.
fn answer_requests(stream: TcpStream, answer: impl Fn(&str) -> Answer) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        let mut words = request.split(' ');
        let (method, path) = (words.next(), words.next().unwrap_or_default());
        let Answer {
            status,
            headers,
            body,
        } = answer(path);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        let sent = if method == Some("HEAD") { "" } else { &body };
        writer.write_all(format!("{head}{sent}").as_bytes())?;
    }
}
