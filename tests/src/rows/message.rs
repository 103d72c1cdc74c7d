//! ICMP messages as hosts and routers send them, made like [`super::frame`]
//! without any of the code that they test.

use std::net::IpAddr;

use super::frame::{
    ETH, IP, IP_IN_IP, IP6, IP6_IN_IP6, Leg, Tcp, any_parts, checksums_valid, fold,
    ip_checksum_valid, link_header, network_header, pseudo_sum, put, sum,
};

/// The protocol number of ICMP.
pub const ICMP: u8 = 1;
/// The protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// Bytes of an ICMP header.
pub const ICMP_HEADER: usize = 8;
/// Where the checksum lies in an ICMP header.
const CHECKSUM: usize = 2;

/// What a message is about: its type and code over IPv4 and over IPv6.
pub type Kind = [(u8, u8); 2];
/// The address cannot be reached.
pub const UNREACHABLE: Kind = [(3, 1), (1, 3)];
/// The port cannot be reached.
pub const PORT_UNREACHABLE: Kind = [(3, 3), (1, 4)];
/// Longer than a link takes.
pub const TOO_BIG: Kind = [(3, 4), (2, 0)];
/// Out of hops.
pub const TIME_EXCEEDED: Kind = [(11, 0), (3, 0)];
/// A header that makes no sense.
pub const PARAMETER_PROBLEM: Kind = [(12, 0), (4, 0)];
/// A question whether somebody is there.
pub const ECHO: Kind = [(8, 0), (128, 0)];
/// The answer.
pub const ECHO_REPLY: Kind = [(0, 0), (129, 0)];
/// A better way.
pub const REDIRECT: Kind = [(5, 1), (137, 0)];

/// One message, to be changed field by field and built.
#[derive(Clone, Debug)]
pub struct Icmp {
    leg: Leg,
    kind: Kind,
    mtu: u16,
    ttl: u8,
    identification: u16,
    body: Vec<u8>,
    tags: Vec<[u8; 4]>,
}

/// A message of `kind` on `leg`, whose ports mean nothing, with `body` behind
/// its header.
#[must_use]
pub fn message(leg: Leg, kind: Kind, body: &[u8]) -> Icmp {
    Icmp {
        leg,
        kind,
        mtu: 0,
        ttl: 64,
        identification: 0x4321,
        body: body.to_vec(),
        tags: Vec::new(),
    }
}

/// The first `length` bytes of a segment's packet, as an error quotes them.
///
/// # Panics
/// The packet is shorter.
#[must_use]
pub fn quote(segment: &Tcp, length: usize) -> Vec<u8> {
    segment.build()[ETH..ETH + length].to_vec()
}

impl Icmp {
    /// How long packets may be, where the error is about that.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// The time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// As the data path's own errors look: no identification.
    #[must_use]
    pub fn unsolicited(mut self) -> Self {
        self.identification = 0;
        self
    }

    /// VLAN tags (802.1Q, 802.1ad), the outermost first.
    #[must_use]
    pub fn tags(mut self, tags: &[[u8; 4]]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// The other leg of its way, one hop further, about what is said there.
    #[must_use]
    pub fn hop(mut self, leg: Leg, body: &[u8]) -> Self {
        self.leg = leg;
        self.ttl -= 1;
        self.body = body.to_vec();
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (source, destination) = (self.leg.source.0, self.leg.destination.0);
        let [ipv4, ipv6] = self.kind;
        let (protocol, (kind, code)) = match source {
            IpAddr::V4(_) => (ICMP, ipv4),
            IpAddr::V6(_) => (ICMP6, ipv6),
        };
        let length = ICMP_HEADER + self.body.len();
        let about = (self.ttl, self.identification);
        let mut bytes = link_header(self.leg, &self.tags);
        bytes.extend(network_header(
            (source, destination),
            protocol,
            about,
            length,
        ));
        bytes.extend([kind, code, 0, 0, 0, 0]);
        bytes.extend(self.mtu.to_be_bytes());
        bytes.extend(&self.body);
        finish_icmp(&mut bytes);
        bytes
    }
}

/// Puts the right ICMP checksum into a frame without IP options, where there
/// is room for one.
pub fn finish_icmp(frame: &mut [u8]) {
    if let Some(place) = checksum_place(frame) {
        put(frame, place, 0);
        let sum = message_sum(frame).expect("a message");
        put(frame, place, !sum);
    }
}

/// Adds one to the ICMP checksum of a frame, in one's complement: then it is
/// wrong.
///
/// # Panics
/// The frame has none.
pub fn spoil_icmp(frame: &mut [u8]) {
    let place = checksum_place(frame).expect("a message");
    let checksum = u16::from_be_bytes([frame[place], frame[place + 1]]);
    put(frame, place, fold(u32::from(checksum) + 1));
}

fn checksum_place(frame: &[u8]) -> Option<usize> {
    let parts = any_parts(frame)?;
    (parts.transport + ICMP_HEADER <= parts.end).then_some(parts.transport + CHECKSUM)
}

/// The folded sum that an ICMP checksum is over, with that in its place.
fn message_sum(frame: &[u8]) -> Option<u16> {
    let parts = any_parts(frame)?;
    let message = sum(frame.get(parts.transport..parts.end)?);
    let pseudo = match parts.transport - parts.network {
        IP => 0,
        _ => pseudo_sum(frame, parts, ICMP6),
    };
    Some(fold(message + pseudo))
}

/// Whether all checksums of a frame are right: of a segment, of an ICMP
/// message, or of either inside of another packet.
#[must_use]
pub fn valid(frame: &[u8]) -> bool {
    let Some(parts) = any_parts(frame) else {
        return false;
    };
    ip_checksum_valid(frame)
        && match parts.protocol {
            ICMP | ICMP6 => message_sum(frame) == Some(0xffff) && quoted_checksum_valid(frame),
            IP_IN_IP | IP6_IN_IP6 => valid(&inside(frame)),
            _ => checksums_valid(frame),
        }
}

/// The frame of the packet that travels inside of this one's.
///
/// # Panics
/// The frame carries no packet.
#[must_use]
pub fn inside(frame: &[u8]) -> Vec<u8> {
    let parts = any_parts(frame).expect("a packet");
    [&frame[..parts.network], &frame[parts.transport..parts.end]].concat()
}

/// Whether the header that an error quotes has the right checksum; true for
/// what is too short, and for IPv6.
fn quoted_checksum_valid(frame: &[u8]) -> bool {
    let parts = any_parts(frame).expect("a packet");
    let quoted = parts.transport + ICMP_HEADER;
    let header = frame.get(quoted..quoted + IP);
    parts.transport - parts.network == IP6
        || header.is_none_or(|header| fold(sum(header)) == 0xffff)
}
