//! ICMP echo: whether a host answers, and how long a packet it takes whole.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{SocketType, ipproto, socket};

use crate::lab::Namespace;
use crate::lab::address::Family;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an echo request's head: type, code, checksum, identifier, number.
const HEAD: usize = 8;

/// Sends one echo request with so many bytes of payload from `namespace` to
/// `to`, and waits for the answer.
///
/// # Errors
/// If there is none within five seconds, or another one.
pub fn ping(namespace: &Namespace, to: IpAddr, payload: usize) -> Result<()> {
    // A ping socket: the kernel fills in the identifier and the checksum.
    namespace.set_sysctl("ipv4/ping_group_range", "0 2147483647")?;
    let (protocol, request, reply) = match to {
        IpAddr::V4(_) => (ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (ipproto::ICMPV6, 128, 129),
    };
    let family = Family::of(to).for_socket();
    let socket = namespace.enter(|| socket(family, SocketType::DGRAM, Some(protocol)))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(SocketAddr::new(to, 0))?;
    let mut message = vec![0; HEAD + payload];
    message[0] = request;
    message[HEAD..].fill(b'p');
    socket.send(&message)?;
    let mut answer = vec![0; message.len() + 1];
    let length = socket
        .recv(&mut answer)
        .with_context(|| format!("no answer from {to}"))?;
    ensure!(
        answer[0] == reply && answer[HEAD..length] == message[HEAD..],
        "{to} answered something else: {:?}",
        &answer[..length]
    );
    Ok(())
}
