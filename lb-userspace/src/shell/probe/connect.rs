//! Opens the connections that checks run on.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use tokio::net::{TcpSocket, TcpStream};

use crate::engine::Outcome;

/// `IP_LOCAL_PORT_RANGE` of linux/in.h, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// The source ports that a check may use: lowest and highest.
///
/// Ports of the SNAT range belong to the clients' connections: to the data
/// path, a server's answer to a check from such a port could look like one of
/// theirs. The kernel intersects these ports with the host's ephemeral ones,
/// and ignores them where that leaves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    lowest: u16,
    highest: u16,
}

impl Ports {
    /// The larger of the two ranges beside `snat`, above the privileged ports.
    pub fn outside(snat: &RangeInclusive<u16>) -> Self {
        const UNPRIVILEGED: u16 = 1024;
        let (first, last) = (*snat.start(), *snat.end());
        let (below, above) = (first.saturating_sub(UNPRIVILEGED), u16::MAX - last);
        let (lowest, highest) = match above >= below {
            // Zero is no bound: there is no port beside these.
            true if above == 0 => (0, 0),
            true => (last + 1, u16::MAX),
            false => (UNPRIVILEGED, first - 1),
        };
        Self { lowest, highest }
    }

    /// Best effort: an older kernel takes a port of the host's own range,
    /// which the default SNAT range leaves alone.
    fn restrict(self, socket: &TcpSocket) {
        let range = u32::from(self.highest) << 16 | u32::from(self.lowest);
        set(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range);
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see that the server accepts it, and nothing more.
    Knock,
    /// To ask the server something.
    Ask,
    /// To hear what the server says first.
    Listen,
}

/// Connects to `server`. Closing the stream resets the connection: checks
/// come by the thousand, and would pile up in TIME_WAIT at one of the ends.
///
/// Who has something to send lets the handshake's last ACK wait for it, which
/// spares a packet. Who only knocks never sends it: the reset takes its place,
/// and the server's program is not bothered with a connection that is dead
/// when it accepts it. So HAProxy does it, too.
///
/// # Errors
/// Whatever the kernel says; [`explain`] tells what it means.
pub async fn connect(server: SocketAddr, ports: Ports, purpose: Purpose) -> io::Result<TcpStream> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    ports.restrict(&socket);
    match purpose {
        Purpose::Knock => delay_ack(&socket),
        Purpose::Ask => {
            delay_ack(&socket);
            socket.set_nodelay(true)?;
        }
        Purpose::Listen => {}
    }
    socket.connect(server).await
}

/// Best effort: a packet is all that it spares.
fn delay_ack(socket: &TcpSocket) {
    set(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
}

/// Sets an option, where the kernel knows it.
fn set(socket: &TcpSocket, level: libc::c_int, option: libc::c_int, value: u32) {
    // SAFETY: the kernel reads four bytes from `value`, which lives until the
    // call returns; `socket` keeps the descriptor open meanwhile.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
}

/// What a failure to connect says, and about whom: some are no fault of the
/// server, and an operator has to look on this host.
pub fn explain(error: &io::Error) -> (Outcome, String) {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => (Outcome::Refused, "connection refused".to_owned()),
        Some(libc::ETIMEDOUT) => (Outcome::ConnectTimeout, "no answer to a SYN".to_owned()),
        Some(libc::ECONNRESET | libc::EHOSTUNREACH | libc::EHOSTDOWN) => {
            (Outcome::Unconnected, error.to_string())
        }
        _ => (
            Outcome::Unconnected,
            format!("a fault on this host, not the server's: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_keep_off_the_ports_of_the_clients_connections() {
        let table = [
            (1024..=32_767, (32_768, 65_535)),
            (40_000..=65_535, (1024, 39_999)),
            (10_000..=20_000, (20_001, 65_535)),
            (30_000..=60_000, (1024, 29_999)),
            (1024..=65_535, (0, 0)),
        ];
        for (snat, (lowest, highest)) in table {
            assert_eq!(Ports::outside(&snat), Ports { lowest, highest }, "{snat:?}");
        }
    }

    #[test]
    fn faults_of_this_host_are_told_apart_from_those_of_the_server() {
        for fault in [
            libc::ENETUNREACH,
            libc::EMFILE,
            libc::ENFILE,
            libc::EADDRNOTAVAIL,
        ] {
            let (outcome, detail) = explain(&io::Error::from_raw_os_error(fault));
            assert_eq!(outcome, Outcome::Unconnected);
            assert!(detail.starts_with("a fault on this host"), "{detail}");
        }
        let (outcome, detail) = explain(&io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert_eq!(outcome, Outcome::Unconnected);
        assert!(detail.contains("No route to host"), "{detail}");
    }

    #[tokio::test]
    async fn a_check_uses_a_port_of_its_range() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = Ports {
            lowest: 40_000,
            highest: 40_099,
        };
        let server = listener.local_addr().unwrap();
        let stream = connect(server, ports, Purpose::Ask).await.unwrap();
        let port = stream.local_addr().unwrap().port();
        assert!((40_000..=40_099).contains(&port), "{port}");
    }
}
