//! The least that checks by connecting can cost: the same connections a second, opened
//! and reset by a loop that does nothing else.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::net::{connect, getpeername, socket_with};

/// As many begin together as in `lb`.
const BEATS: usize = 50;

/// The share of one core that the calling thread takes to connect to each of `servers`
/// once a second, for `window`.
pub(super) fn share(servers: &[SocketAddr], window: Duration) -> Result<f64> {
    let batches = servers.chunks(servers.len().div_ceil(BEATS));
    let beat = Duration::from_secs(1) / batches.len() as u32;
    let mut open = Vec::new();
    let (mut asked, mut connected) = (0, 0);
    let (begun, before) = (Instant::now(), cpu_seconds()?);
    let mut due = begun;
    for batch in batches.cycle() {
        // Each is reset here.
        let answered = open.drain(..).filter(|socket| getpeername(socket).is_ok());
        connected += answered.count();
        if due - begun >= window {
            break;
        }
        for server in batch {
            open.push(knock(server)?);
        }
        asked += batch.len();
        due += beat;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let share = (cpu_seconds()? - before) / begun.elapsed().as_secs_f64();
    ensure!(
        connected * 10 >= asked * 9,
        "{connected} of {asked} connections came about"
    );
    Ok(share)
}

/// Sends a SYN, and never the handshake's last ACK: as `lb` does.
fn knock(server: &SocketAddr) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_quickack(&socket, false)?;
    match connect(&socket, server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {server}")),
    }
}

/// The CPU time of the calling thread, to the nanosecond, which `stat` does not tell.
fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    let nanoseconds: u64 = nanoseconds.context("no CPU time of a thread")?;
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}
