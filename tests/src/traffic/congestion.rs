//! A congested link: whatever a namespace sends waits behind datagrams that
//! nobody wants, on a link that is slow.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::lab::{NIC, Namespace};

/// How quick the link is.
const RATE: &str = "1mbit";
/// Bytes that pass at once: a whole frame.
const BURST: &str = "1600";
/// Bytes that may wait: more than ever do.
const LIMIT: &str = "100000";
/// Bytes of a datagram: 11 ms of the link.
const DATAGRAM: [u8; 1400] = [0; 1400];
/// The socket's room: a datagram or two wait at a time, and none is lost.
const BUFFER: usize = 4096;
/// The discard service (RFC 863).
const DISCARD: u16 = 9;
/// It does not go on for longer, in case nobody drops it.
const DURATION_MAX: Duration = Duration::from_secs(120);

/// A link that stays congested until this is dropped.
#[derive(Debug)]
pub struct Congestion {
    namespace: Namespace,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Congestion {
    /// Congests the way out of `namespace`, with datagrams to `sink`.
    pub fn start(namespace: &Namespace, sink: IpAddr) -> Result<Self> {
        let shape = ["tbf", "rate", RATE, "burst", BURST, "limit", LIMIT];
        tc(
            namespace,
            &[&["add", "dev", NIC, "root"], &shape[..]].concat(),
        )?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut congestion = Self {
            namespace: namespace.clone(),
            stop: Arc::clone(&stop),
            sender: None,
        };
        let socket = namespace.enter(|| UdpSocket::bind(("0.0.0.0", 0)))?;
        set_socket_send_buffer_size(&socket, BUFFER)?;
        congestion.sender = Some(std::thread::spawn(move || {
            let end = Instant::now() + DURATION_MAX;
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                // Blocks until the link has taken one of those before it.
                let _ = socket.send_to(&DATAGRAM, SocketAddr::new(sink, DISCARD));
            }
        }));
        Ok(congestion)
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        // The lab takes its link with it, should this fail.
        let _ = tc(&self.namespace, &["del", "dev", NIC, "root"]);
    }
}

/// `tc qdisc` in a namespace.
fn tc(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("tc");
    command
        .args(["-n", namespace.name(), "qdisc"])
        .args(arguments);
    let output = command
        .output()
        .context("cannot start `tc` (package iproute2)")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", complaint.trim());
    Ok(())
}
