//! As much of an HTTP/1.1 client as the lab needs: one connection, JSON or
//! text, every step bounded in time, every failure in the operating system's
//! own words, so that a test can tell a refused connection from a reset one.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{self, SocketType};
use serde_json::Value;

use crate::lab::address::Family;

/// The longest head or body that is taken.
const SIZE_MAX: u64 = 1 << 20;

/// A connection that requests go out on, one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// 200, 503, …
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value; its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(present, _)| present.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Connection {
    /// Connects from the calling thread's namespace. `timeout` bounds the
    /// connect, and later each read and each write.
    pub fn open(address: impl Into<SocketAddr>, timeout: Duration) -> io::Result<Self> {
        Self::over(
            TcpStream::connect_timeout(&address.into(), timeout)?,
            timeout,
        )
    }

    /// As [`open`](Self::open), from a port of one's choice, which may have
    /// been used a moment ago.
    pub fn open_from(
        port: u16,
        address: impl Into<SocketAddr>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let address = address.into();
        let any = Family::of(address.ip()).unspecified();
        Self::open_between(SocketAddr::new(any, port), address, timeout)
    }

    /// As [`open_from`](Self::open_from), from an address of one's choice too.
    pub fn open_between(
        from: SocketAddr,
        address: SocketAddr,
        timeout: Duration,
    ) -> io::Result<Self> {
        let family = Family::of(address.ip());
        let socket = net::socket(family.for_socket(), SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Bounds the connect, as long as the socket blocks.
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
        net::bind(&socket, &from)?;
        net::connect(&socket, &address)?;
        Self::over(TcpStream::from(socket), timeout)
    }

    fn over(stream: TcpStream, timeout: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The address and port that the server sees, unless somebody rewrites it.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// Sends a request and waits for its answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<Response> {
        self.send(method, path, body)?;
        self.receive()
    }

    /// Sends a request, and does not wait.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: lab\r\n");
        if !body.is_empty() {
            request += "content-type: application/json\r\n";
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes())
    }

    /// Sends these bytes, whatever they are: a part of a request, for one.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Waits for the answer to what was sent.
    pub fn receive(&mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| malformed(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        let length: u64 = match response.header("content-length") {
            Some(length) => length.parse().map_err(|_| malformed(length))?,
            None if response.header("transfer-encoding").is_some() => {
                return Err(malformed("a chunked body"));
            }
            None => 0,
        };
        if length > SIZE_MAX {
            return Err(malformed("a body without bounds"));
        }
        self.stream
            .by_ref()
            .take(length)
            .read_to_end(&mut response.body)?;
        if (response.body.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(response)
    }

    /// Says that no request follows. Whoever closes first waits out TIME_WAIT.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// Ends the connection with a RST, which leaves nothing in TIME_WAIT.
    pub fn abort(self) -> io::Result<()> {
        sockopt::set_socket_linger(self.stream.get_ref(), Some(Duration::ZERO))?;
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.by_ref().take(SIZE_MAX).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

/// One GET on a connection of its own.
pub fn get(address: impl Into<SocketAddr>, path: &str, timeout: Duration) -> io::Result<Response> {
    Connection::open(address, timeout)?.request("GET", path, None)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
