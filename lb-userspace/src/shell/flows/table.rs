//! The maps that hold connections, and the clock that they are stamped by.

use std::io;
use std::os::fd::AsFd;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use aya::programs::ProgramFd;
use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::flow::{Flow, FlowKey, Pending, Tick};
use lb_common::layout::bytes_of;
use lb_common::reaping::{self, Candidate};
use lb_common::target::{Generation, Target, TargetId};

use super::meter::Meter;
use super::surplus::Surplus;
use crate::shell::batch::{Walk, call, delete};
use crate::shell::load::{Datapath, OpenError};
use crate::shell::tables::Family;

/// FLOWS and PENDING, and what tells whether a flow is stale.
pub struct FlowTable {
    pub(super) v4: FamilyFlows<Ipv4>,
    pub(super) v6: FamilyFlows<Ipv6>,
    pub(super) generations: Array<MapData, Generation>,
}

/// The maps of one family.
pub(super) struct FamilyFlows<A: Family> {
    flows: HashMap<MapData, FlowKey<A>, Flow<A>>,
    flows_walk: MapData,
    pending: MapData,
    targets: Array<MapData, Target<A>>,
    /// How many flows there is room for.
    pub(super) room: u64,
    /// What the sweeps so far counted too much of.
    pub(super) surplus: Surplus,
    reaper: ProgramFd,
}

impl FlowTable {
    /// The tables of `datapath`, by handles of their own.
    ///
    /// # Errors
    /// A map is not there, or not of the kind that it should be.
    pub fn open(datapath: &mut Datapath) -> Result<Self, OpenError> {
        Ok(Self {
            v4: FamilyFlows::open(datapath)?,
            v6: FamilyFlows::open(datapath)?,
            generations: datapath.reopen("GENERATIONS")?,
        })
    }
}

impl<A: Family> FamilyFlows<A> {
    fn open(datapath: &mut Datapath) -> Result<Self, OpenError> {
        let flows_walk = datapath.reopen_map(A::FLOWS)?;
        let info = flows_walk.info().map_err(aya::EbpfError::from)?;
        Ok(Self {
            flows: datapath.reopen(A::FLOWS)?,
            room: info.max_entries().into(),
            surplus: Surplus::default(),
            flows_walk,
            pending: datapath.reopen_map(A::PENDING)?,
            targets: datapath.reopen(A::TARGETS)?,
            reaper: datapath.reaper::<A>()?,
        })
    }

    /// A walk over FLOWS.
    pub(super) fn walk(&self, slice: usize) -> Walk<'_, impl AsFd, FlowKey<A>, Flow<A>> {
        Walk::new(self.flows_walk.fd(), slice)
    }

    /// A walk over PENDING.
    pub(super) fn walk_pending(&self, slice: usize) -> Walk<'_, impl AsFd, FlowKey<A>, Pending<A>> {
        Walk::new(self.pending.fd(), slice)
    }

    /// The targets that flows belong to, for one walk over these.
    pub(super) const fn targets(&self) -> Targets<'_, A> {
        Targets(Known::of(&self.targets))
    }

    /// The flow under `key`, if there is one.
    pub(super) fn flow(&self, key: &FlowKey<A>) -> io::Result<Option<Flow<A>>> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Has the kernel take out those of `candidates` that are idle in both
    /// directions. Gives their number.
    pub(super) fn reap(&self, candidates: &[Candidate<A>], meter: &mut Meter) -> io::Result<u64> {
        let mut reaped = 0;
        for candidates in candidates.chunks(reaping::MAX) {
            let list: Vec<u8> = candidates.iter().flat_map(bytes_of).copied().collect();
            reaped += u64::from(call(&self.reaper.as_fd(), &list)?);
            meter.slice();
        }
        Ok(reaped)
    }

    /// Takes entries out of PENDING; those that the kernel has removed already
    /// are as good.
    pub(super) fn forget_pending(&self, keys: &[FlowKey<A>]) -> io::Result<()> {
        delete(&self.pending.fd(), keys)
    }
}

/// What the kernel knows of targets, read once of each.
struct Known<'a, T: Pod> {
    table: &'a Array<MapData, T>,
    known: Vec<Option<T>>,
}

impl<'a, T: Pod> Known<'a, T> {
    const fn of(table: &'a Array<MapData, T>) -> Self {
        let known = Vec::new();
        Self { table, known }
    }

    fn get(&mut self, id: TargetId) -> io::Result<T> {
        // The agent gives the smallest numbers that are free.
        let index = id.0 as usize;
        if index >= self.known.len() {
            self.known.resize(index + 1, None);
        }
        if let Some(entry) = self.known[index] {
            return Ok(entry);
        }
        let entry = self.table.get(&id.0, 0).map_err(io::Error::other)?;
        self.known[index] = Some(entry);
        Ok(entry)
    }
}

/// The targets of flows.
pub(super) struct Targets<'a, A: Family>(Known<'a, Target<A>>);

impl<A: Family> Targets<'_, A> {
    /// The target that a flow belongs to.
    pub(super) fn of(&mut self, flow: &Flow<A>) -> io::Result<Target<A>> {
        self.0.get(flow.target())
    }
}

/// The generations of targets, for one walk over flows.
pub(super) struct Generations<'a>(Known<'a, Generation>);

impl<'a> Generations<'a> {
    /// By what the kernel has in `table`.
    pub(super) const fn of(table: &'a Array<MapData, Generation>) -> Self {
        Self(Known::of(table))
    }

    /// Whether the flow's target was cut off since the flow was opened. A flow
    /// that was opened after the target's generation was read, and after a later
    /// cut, looks stale too; it is too young for anything to come of that.
    pub(super) fn outdate<A: Address>(&mut self, flow: &Flow<A>) -> io::Result<bool> {
        Ok(self.0.get(flow.target())? != flow.generation)
    }
}

/// The tick now, by the clock that the kernel program asks.
pub(super) fn now() -> Tick {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    let now = nix::time::clock_gettime(clock).map(std::time::Duration::from);
    // The clock is there on every Linux.
    Tick::at(now.map_or(0, |now| now.as_nanos() as u64))
}
