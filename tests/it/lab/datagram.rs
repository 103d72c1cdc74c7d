//! Datagrams made by hand, and in a tunnel where asked for.

use std::net::{IpAddr, SocketAddr};

use lb_tests::lab::Namespace;
use lb_tests::lab::address::Family;
use rustix::net::{SendFlags, SocketType, ipproto, sendto, socket};

const PORTS: (u16, u16) = (7001, 7002);
const UDP: u8 = 17;
/// IPv4 as a payload, and IPv6.
const TUNNEL: (u8, u8) = (4, 41);

/// An empty UDP datagram.
#[derive(Clone, Copy)]
pub struct Datagram {
    from: IpAddr,
    to: IpAddr,
}

impl Datagram {
    /// From one address to another, of the same family.
    pub fn new(from: IpAddr, to: IpAddr) -> Self {
        Self { from, to }
    }

    /// Where it is received.
    pub fn port(&self) -> u16 {
        PORTS.1
    }

    /// As a packet; its checksum off by `error`.
    pub fn packet(&self, error: u16) -> Vec<u8> {
        let mut udp = Vec::new();
        for word in [PORTS.0, PORTS.1, 8, self.checksum() ^ error] {
            udp.extend(word.to_be_bytes());
        }
        packet(self.from, self.to, UDP, &udp)
    }

    /// In a packet of its own family from `from` to `to`.
    pub fn tunnelled(&self, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let protocol = if to.is_ipv4() { TUNNEL.0 } else { TUNNEL.1 };
        // A tunnel's inner packet is not the kernel's to complete.
        let mut inner = self.packet(0);
        if to.is_ipv4() {
            let length = (inner.len() as u16).to_be_bytes();
            inner[2..4].copy_from_slice(&length);
            let sum = complement(words(&inner[..20]));
            inner[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet(from, to, protocol, &inner)
    }

    /// The right one: over the pseudo-header and the UDP header (RFC 768).
    fn checksum(&self) -> u16 {
        let addresses = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => words(&from.octets()) + words(&to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => words(&from.octets()) + words(&to.octets()),
            _ => panic!("{} and {} are of two families", self.from, self.to),
        };
        let (from, to) = PORTS;
        complement(addresses + u32::from(UDP) + 8 + u32::from(from) + u32::from(to) + 8)
    }
}

/// Sends a packet through the stack of `namespace`, which fills in the length
/// and the checksum of an IPv4 header.
pub fn send(namespace: &Namespace, packet: &[u8], to: IpAddr) {
    let family = Family::of(to).for_socket();
    namespace.enter(|| {
        let raw = socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        sendto(&raw, packet, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    });
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Version and header length, no options, a time to live.
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => panic!("{from} and {to} are of two families"),
    }
    packet.extend(payload);
    packet
}

fn words(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

fn complement(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
