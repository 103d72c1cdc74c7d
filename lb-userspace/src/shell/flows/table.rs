//! The maps that hold connections, and the clock that they are stamped by.

use std::io;

use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::addr::Ipv4;
use lb_common::flow::{Flow, FlowKey, Pending, Tick};
use lb_common::target::{Generation, Target, TargetId};

use crate::shell::batch::Walk;
use crate::shell::load::{Datapath, OpenError};

pub(super) type Key = FlowKey<Ipv4>;

/// FLOWS and PENDING, and what tells whether a flow is stale.
pub struct FlowTable {
    pub(super) flows: HashMap<MapData, Key, Flow<Ipv4>>,
    pub(super) flows_walk: MapData,
    pub(super) pending: HashMap<MapData, Key, Pending<Ipv4>>,
    pub(super) pending_walk: MapData,
    generations: MapData,
    targets: Array<MapData, Target<Ipv4>>,
}

impl FlowTable {
    /// The tables of `datapath`, by handles of their own.
    ///
    /// # Errors
    /// A map is not there, or not of the kind that it should be.
    pub fn open(datapath: &Datapath) -> Result<Self, OpenError> {
        Ok(Self {
            flows: datapath.reopen("FLOWS")?,
            flows_walk: datapath.reopen_map("FLOWS")?,
            pending: datapath.reopen("PENDING")?,
            pending_walk: datapath.reopen_map("PENDING")?,
            generations: datapath.reopen_map("GENERATIONS")?,
            targets: datapath.reopen("TARGETS")?,
        })
    }

    /// The targets' generations as they stand now, for one walk over flows.
    pub(super) fn generations(&self) -> io::Result<Generations> {
        let mut all = vec![Generation::default(); TargetId::CAPACITY as usize];
        let mut walk = Walk::<_, u32, Generation>::new(self.generations.fd(), all.len());
        while let Some(entries) = walk.next_slice()? {
            for (&id, &generation) in entries {
                if let Some(entry) = all.get_mut(id as usize) {
                    *entry = generation;
                }
            }
        }
        Ok(Generations(all))
    }

    pub(super) fn target(&self, id: TargetId) -> Result<Target<Ipv4>, MapError> {
        self.targets.get(&id.0, 0)
    }

    /// The flow under `key`, if there is one.
    pub(super) fn flow(&self, key: &Key) -> Result<Option<Flow<Ipv4>>, MapError> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The generations of all targets at one moment.
pub(super) struct Generations(Vec<Generation>);

impl Generations {
    /// Whether the flow's target was cut off since the flow was opened. A flow
    /// that was opened after the moment of a later cut looks stale too; it is
    /// too young for anything to come of that.
    pub(super) fn outdate(&self, flow: &Flow<Ipv4>) -> bool {
        self.0.get(flow.target.0 as usize) != Some(&flow.generation)
    }
}

/// The tick now, by the clock that the kernel program asks.
pub(super) fn now() -> Tick {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    let now = nix::time::clock_gettime(clock).map(std::time::Duration::from);
    // The clock is there on every Linux.
    Tick::at(now.map_or(0, |now| now.as_nanos() as u64))
}
