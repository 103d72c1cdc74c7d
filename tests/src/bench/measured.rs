//! What is measured: which program, at which hook, on which packets of which
//! family.

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use aya::{Ebpf, Pod};
use lb_common::addr::{Ipv4, Ipv6};
use lb_common::flow::{Flow, FlowKey};
use lb_common::verdict::Reason;

use crate::rows::connections::Entry;
use crate::rows::family::{Family, ipv6_like};
use crate::rows::frame::{ACK, HEADERS, HEADERS6, Leg, SYN, over_ipv6, segment};
use crate::rows::maps::take;
use crate::rows::world::{FROM_CLIENT, FROM_SERVER, STRANGER, VIP};

/// Bytes of payload in a segment of an established connection.
const PAYLOAD: usize = 100;

/// A family of addresses that there are tables for.
pub trait Measured: Family {
    /// What the names of its maps and programs end in.
    const SUFFIX: &'static str;
    /// Bytes of its headers.
    const HEADERS: usize;

    /// Its table for look-ups and nothing else.
    fn bare(bench: &mut Ebpf) -> Result<Box<dyn Bare<Self>>>;

    /// The frame that stands for one over IPv4.
    fn frame(ipv4: Vec<u8>) -> Vec<u8>;
}

impl Measured for Ipv4 {
    const SUFFIX: &'static str = "v4";
    const HEADERS: usize = HEADERS;

    fn bare(bench: &mut Ebpf) -> Result<Box<dyn Bare<Self>>> {
        Ok(Box::new(take::<HashMap<_, _, _>>(bench, "BARE_V4")?))
    }

    fn frame(ipv4: Vec<u8>) -> Vec<u8> {
        ipv4
    }
}

impl Measured for Ipv6 {
    const SUFFIX: &'static str = "v6";
    const HEADERS: usize = HEADERS6;

    fn bare(bench: &mut Ebpf) -> Result<Box<dyn Bare<Self>>> {
        Ok(Box::new(take::<HashMap<_, _, _>>(bench, "BARE_V6")?))
    }

    fn frame(ipv4: Vec<u8>) -> Vec<u8> {
        over_ipv6(&ipv4, ipv6_like, |port| port)
    }
}

/// A hash map with keys and values as FLOWS has them.
pub trait Bare<A>: Send {
    /// Adds one.
    fn insert(&mut self, entry: &Entry<A>) -> Result<()>;
}

impl<A: Send> Bare<A> for HashMap<MapData, FlowKey<A>, Flow<A>>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    fn insert(&mut self, (key, flow): &Entry<A>) -> Result<()> {
        Ok(self.insert(key, flow, 0)?)
    }
}

/// Where in the kernel programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On frames.
    Xdp,
    /// On socket buffers.
    Tc,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// What the rows call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    pub(super) fn harness(self, suffix: &str) -> String {
        match self {
            Self::Xdp => format!("bench_round_{suffix}"),
            Self::Tc => format!("bench_round_tc_{suffix}"),
        }
    }
}

/// What is run behind the harness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Nothing but letting the packet pass.
    Pass,
    /// MAC addresses swapped, and out again.
    Swap,
    /// One look-up of the packet's flow in a hash map; at XDP only.
    Lookup,
    /// The same, and what it finds is stored into the packet.
    LookupUsed,
    /// Ours.
    Lb,
}

impl Program {
    pub(super) fn name(self, place: Place, suffix: &str) -> String {
        match (self, place) {
            (Self::Pass, Place::Xdp) => "bench_pass".to_owned(),
            (Self::Pass, Place::Tc) => "bench_pass_tc".to_owned(),
            (Self::Swap, Place::Xdp) => "bench_swap".to_owned(),
            (Self::Swap, Place::Tc) => "bench_swap_tc".to_owned(),
            (Self::Lookup, _) => format!("bench_lookup_{suffix}"),
            (Self::LookupUsed, _) => format!("bench_lookup_used_{suffix}"),
            (Self::Lb, Place::Xdp) => "lb".to_owned(),
            (Self::Lb, Place::Tc) => "lb_tc".to_owned(),
        }
    }
}

/// Which packets are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// From clients, of established connections.
    Forward,
    /// From servers, of established connections.
    Reply,
    /// SYNs, each of another client, to a service with a target.
    Syn,
    /// SYNs to a service that has none.
    SynRefused,
    /// To the VIP, but to no service of it.
    NoService,
    /// To an address that is none of ours.
    Foreign,
}

/// Whose packets are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One at random each time, of so many. Where there is more than one, a
    /// round waits for the result of the one before.
    Random(u32),
    /// One after the other, of so many.
    Sequence(u32),
}

impl Packets {
    pub(super) fn frame<A: Measured>(self) -> Vec<u8> {
        let to = |destination| Leg {
            destination,
            ..FROM_CLIENT
        };
        let (leg, flags) = match self {
            Self::Forward => (FROM_CLIENT, ACK),
            Self::Reply => (FROM_SERVER, ACK),
            Self::Syn | Self::SynRefused => (FROM_CLIENT, SYN),
            Self::NoService => (to((VIP.0, 22)), ACK),
            Self::Foreign => (to((STRANGER, 22)), ACK),
        };
        let payload = if flags == SYN { 0 } else { PAYLOAD };
        let segment = segment(leg, flags).numbers(1001, 5001);
        A::frame(segment.payload(&vec![7; payload]).build())
    }

    /// What the program has to say of nearly all of them.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Forward => Reason::Forward,
            Self::Reply => Reason::Reply,
            Self::Syn => Reason::Opened,
            Self::SynRefused => Reason::NoTarget,
            Self::NoService | Self::Foreign => Reason::NotOurs,
        }
    }
}
