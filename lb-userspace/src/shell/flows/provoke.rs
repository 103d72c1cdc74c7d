//! Provocation: an ACK that cannot be placed, sent to both ends of a stale
//! connection. Each end must answer it, and the kernel program answers that
//! answer with a RST which is exact. So even a client that waits silently
//! for a dead leader's reply learns of it at once.

use std::collections::BTreeMap;
use std::io;

use lb_common::addr::Ipv4;
use lb_common::emit::provoking_ack;
use lb_common::flow::{Direction, Flow};
use lb_common::layout::bytes_of;
use lb_common::target::TargetId;

use super::table::{FlowTable, Key};
use crate::shell::batch::Walk;
use crate::shell::wire::FrameSocket;

/// How many flows are read at a time.
const SLICE: usize = 4096;

/// How far the sequence numbers of consecutive attempts lie apart. Should one
/// fall into a receive window by chance, the next one does not.
const SEQUENCE_STRIDE: u32 = 0x5555_5555;

/// Provokes both ends of all stale, unfinished connections of the targets in `due`, which
/// names for each the number of the attempt. Gives the number of connections.
pub(super) fn provoke(
    table: &FlowTable,
    socket: &FrameSocket,
    due: &BTreeMap<TargetId, usize>,
) -> io::Result<u64> {
    let mut provoked = 0;
    let generations = table.generations()?;
    let mut walk = Walk::<_, Key, Flow<Ipv4>>::new(table.flows_walk.fd(), SLICE);
    while let Some(entries) = walk.next_slice()? {
        for (key, flow) in entries {
            let Some(attempt) = due.get(&flow.target) else {
                continue;
            };
            if flow.direction() == Direction::Forward
                && !flow.progress.closed()
                && generations.outdate(flow)
            {
                let sequence = SEQUENCE_STRIDE.wrapping_mul(*attempt as u32 + 1);
                provoke_both(table, socket, key, flow, sequence)?;
                provoked += 1;
            }
        }
    }
    Ok(provoked)
}

fn provoke_both(
    table: &FlowTable,
    socket: &FrameSocket,
    key: &Key,
    flow: &Flow<Ipv4>,
    sequence: u32,
) -> io::Result<()> {
    let target = table.target(flow.target).map_err(io::Error::other)?;
    let to_server = provoking_ack(&flow.rewrite, target.hop, sequence);
    tolerate(socket.send(bytes_of(&to_server)))?;
    if let Some(reply) = table.flow(&flow.pair_key()).map_err(io::Error::other)? {
        let to_client = provoking_ack(&key.reversed(), reply.hop, sequence);
        tolerate(socket.send(bytes_of(&to_client)))?;
    }
    Ok(())
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
