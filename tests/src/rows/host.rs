//! The data path on the host: `lb_common` with tables and packets in
//! ordinary memory.

use lb_common::datapath;
use lb_common::fake::{FakePacket, FakeTables};
use lb_common::flow::Tick;
use lb_common::nat::PartialChecksum;
use lb_common::verdict::Fate;

use super::Outcome;
use super::connections::Connections;

/// What becomes of `packet` with `tables`, which keep what it leaves.
#[must_use]
pub fn run(tables: &FakeTables, packet: &[u8], partial: PartialChecksum) -> Outcome {
    let mut frame = FakePacket::new(packet);
    let verdict = datapath::process(&mut frame, tables, partial, || Tick(1));
    let fate = verdict.fate();
    Outcome {
        reason: verdict.reason,
        fate,
        frame: (fate != Fate::Drop).then(|| frame.bytes()),
        connections: connections(tables),
    }
}

/// What `tables` hold of connections.
#[must_use]
pub fn connections(tables: &FakeTables) -> Connections {
    let flows = tables.flows.borrow();
    let pending = tables.pending.borrow();
    Connections::new(
        flows.iter().map(|(key, flow)| (*key, flow.get())),
        pending.iter().map(|(key, pending)| (*key, *pending)),
    )
}
