//! Provocation: an ACK that cannot be placed, sent to both ends of a stale
//! connection. Each end must answer it, and the kernel program answers that
//! answer with a RST which is exact. So even a client that waits silently
//! for a dead leader's reply learns of it at once.

use std::collections::BTreeMap;
use std::io;

use lb_common::emit::provoking_ack;
use lb_common::flow::{Direction, Flow, FlowKey};
use lb_common::layout::bytes_of;
use lb_common::target::{Hop, Mode, Target, TargetId};
use lb_common::wire::eth::EthernetHeader;
use lb_common::wire::frame::Headers;
use lb_common::wire::network::NetworkHeader as _;

use super::table::{FamilyFlows, FlowTable, Generations};
use crate::shell::tables::Family;
use crate::shell::wire::FrameSocket;

/// How many flows are read at a time.
const SLICE: usize = 4096;

/// How far the sequence numbers of consecutive attempts lie apart. Should one
/// fall into a receive window by chance, the next one does not.
const SEQUENCE_STRIDE: u32 = 0x5555_5555;

/// Provokes both ends of all stale, unfinished connections of the targets in
/// `due`, which names for each the number of the attempt. Gives the number of
/// connections.
pub(super) fn provoke(
    table: &FlowTable,
    socket: &FrameSocket,
    due: &BTreeMap<TargetId, usize>,
) -> io::Result<u64> {
    let mut generations = Generations::of(&table.generations);
    Ok(provoke_family(&table.v4, socket, due, &mut generations)?
        + provoke_family(&table.v6, socket, due, &mut generations)?)
}

fn provoke_family<A: Family>(
    flows: &FamilyFlows<A>,
    socket: &FrameSocket,
    due: &BTreeMap<TargetId, usize>,
    generations: &mut Generations<'_>,
) -> io::Result<u64> {
    let mut provoked = 0;
    let mut targets = flows.targets();
    let mut walk = flows.walk(SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            let Some(attempt) = due.get(&flow.target()) else {
                continue;
            };
            if flow.direction() == Direction::Forward
                && !flow.progress().closed()
                && generations.outdate(flow)?
            {
                let sequence = SEQUENCE_STRIDE.wrapping_mul(*attempt as u32 + 1);
                let target = targets.of(flow)?;
                provoke_both(flows, socket, (key, flow), &target, sequence)?;
                provoked += 1;
            }
        }
    }
    Ok(provoked)
}

/// Where the server answers the client itself, there is nothing to provoke: its
/// end is not ours to reach, and the client's answer would pass us by.
fn provoke_both<A: Family>(
    flows: &FamilyFlows<A>,
    socket: &FrameSocket,
    (key, flow): (&FlowKey<A>, &Flow<A>),
    target: &Target<A>,
    sequence: u32,
) -> io::Result<()> {
    let Some(reply) = flows.flow(&flow.pair_key(key, target))? else {
        return Ok(());
    };
    let send = |hop: Hop, segment: &Headers<A::Header>| {
        let eth = EthernetHeader::new(hop, A::Header::ETHER_TYPE);
        let frame = [bytes_of(&eth), bytes_of(segment)].concat();
        tolerate(socket.send(hop.ifindex, &frame))
    };
    if target.mode() == Mode::Nat {
        let to_server = flow.rewrite(key, target);
        send(target.hop, &provoking_ack(&to_server, sequence))?;
    }
    send(reply.hop, &provoking_ack(&key.reversed(), sequence))
}

/// A full queue loses this frame; the next attempt makes up for it.
fn tolerate(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOBUFS | libc::EAGAIN | libc::ENETDOWN)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
