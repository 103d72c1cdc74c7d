//! A packet's whole way, from bytes to bytes: parse, steer, carry out. The
//! hooks differ in how they reach packets and maps, and in nothing else.

use crate::addr::Ipv4;
use crate::emit;
use crate::flow::Tick;
use crate::nat::{self, PartialChecksum, Remainder, Rewrite};
use crate::steer::steer;
use crate::tables::Tables;
use crate::verdict::{Fate, Reason, Verdict};
use crate::wire::checksum::Sum;
use crate::wire::frame::Headers;

/// A packet in its buffer.
pub trait Packet {
    /// The frame's length in bytes, from the Ethernet header on.
    fn length(&self) -> usize;
    /// The first bytes; none where the frame is shorter.
    fn headers(&mut self) -> Option<&mut Headers>;
    /// The sum over `length` bytes from the TCP header on; none where the
    /// frame is shorter or they are too many.
    fn transport_sum(&self, length: u16) -> Option<Sum>;
    /// Cuts the frame off behind its headers.
    fn truncate(&mut self) -> Option<()>;
}

/// Decides on a packet and carries the decision out in its buffer. `clock` is
/// asked only where the packet is a TCP segment.
#[inline(always)]
pub fn process<P: Packet, T: Tables<Ipv4>>(
    packet: &mut P,
    tables: &T,
    partial: PartialChecksum,
    clock: impl FnOnce() -> Tick,
) -> Verdict<Ipv4> {
    let frame = packet.length();
    let Some(headers) = packet.headers() else {
        return Verdict::of_nobody(Reason::Truncated);
    };
    let segment = match headers.parse(frame) {
        Ok(segment) => segment,
        Err(reason) => return Verdict::of_nobody(reason),
    };
    let mut verdict = steer(tables, &segment, clock());
    let done = match verdict.fate() {
        Fate::Pass | Fate::Drop => Some(()),
        Fate::Transmit => transmit(packet, &verdict.rewrite, partial),
        Fate::Reset => reset(packet, partial),
    };
    if done.is_none() {
        verdict.reason = Reason::Unfinished;
    }
    verdict
}

#[inline(always)]
fn transmit<P: Packet>(
    packet: &mut P,
    rewrite: &Rewrite<Ipv4>,
    partial: PartialChecksum,
) -> Option<()> {
    let headers = packet.headers()?;
    match nat::apply(headers, rewrite, partial) {
        Remainder::None => {}
        Remainder::Sum => {
            let length = headers.tcp_length();
            let checksum = packet.transport_sum(length)?.checksum();
            packet.headers()?.tcp.checksum = checksum;
        }
    }
    Some(())
}

#[inline(always)]
fn reset<P: Packet>(packet: &mut P, partial: PartialChecksum) -> Option<()> {
    emit::reset(packet.headers()?, partial);
    packet.truncate()
}
