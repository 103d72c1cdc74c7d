//! What the tables hold of connections, as far as a row compares it.

use std::collections::BTreeMap;

use lb_common::addr::Ipv4;
use lb_common::flow::{Flow, FlowKey, Pending, Tick};

/// The key of FLOWS and PENDING.
pub type Key = FlowKey<Ipv4>;

/// A flow and its key.
pub type Entry = (Key, Flow<Ipv4>);

/// What FLOWS and PENDING hold. Time stamps do not count: they are zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// FLOWS.
    pub flows: BTreeMap<Key, Flow<Ipv4>>,
    /// PENDING.
    pub pending: BTreeMap<Key, Pending<Ipv4>>,
}

impl Connections {
    /// What the tables hold, their time stamps left out.
    pub fn new(
        flows: impl IntoIterator<Item = (Key, Flow<Ipv4>)>,
        pending: impl IntoIterator<Item = (Key, Pending<Ipv4>)>,
    ) -> Self {
        let timeless = |mut flow: Flow<Ipv4>| {
            flow.last_seen = Tick(0);
            flow
        };
        Self {
            flows: flows.into_iter().map(|(k, f)| (k, timeless(f))).collect(),
            pending: pending
                .into_iter()
                .map(|(k, p)| {
                    let flow = timeless(p.flow);
                    (k, Pending { flow, ..p })
                })
                .collect(),
        }
    }
}
