//! The kernel's counters, summed over the CPUs.

use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues};
use lb_common::counters::{TargetCounters, Traffic, service_verdict, target_traffic};
use lb_common::flow::Direction;
use lb_common::service::ServiceId;
use lb_common::target::{Load, TargetId};
use lb_common::verdict::Reason;

use crate::shell::load::{Datapath, OpenError};

/// The maps that the kernel counts in.
pub struct Counters {
    verdicts: PerCpuArray<MapData, Traffic>,
    services: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
    targets: PerCpuArray<MapData, TargetCounters>,
    load: Array<MapData, Load>,
}

impl Counters {
    /// The counters of `datapath`, by handles of their own.
    ///
    /// # Errors
    /// A map is not there, or not of the kind that it should be.
    pub fn open(datapath: &Datapath) -> Result<Self, OpenError> {
        Ok(Self {
            verdicts: datapath.reopen("VERDICTS")?,
            services: datapath.reopen("SERVICE_VERDICTS")?,
            traffic: datapath.reopen("TARGET_TRAFFIC")?,
            targets: datapath.reopen("TARGET_COUNTERS")?,
            load: datapath.reopen("LOAD")?,
        })
    }

    /// Packets and bytes that met a verdict for `reason`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn verdict(&self, reason: Reason) -> Result<Traffic, MapError> {
        Ok(sum(&self.verdicts.get(&u32::from(reason as u8), 0)?))
    }

    /// Packets for `service` that met a verdict for `reason`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn service(&self, service: ServiceId, reason: Reason) -> Result<u64, MapError> {
        let index = service_verdict(service, reason);
        Ok(self.services.get(&index, 0)?.iter().sum())
    }

    /// Packets and bytes that went to or came from `target`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn traffic(&self, target: TargetId, direction: Direction) -> Result<Traffic, MapError> {
        Ok(sum(&self
            .traffic
            .get(&target_traffic(target, direction), 0)?))
    }

    /// What `target` carries now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(&self, target: TargetId) -> Result<Load, MapError> {
        self.load.get(&target.0, 0)
    }

    /// What else happened to the connections of `target`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn target(&self, target: TargetId) -> Result<TargetCounters, MapError> {
        let mut sum = TargetCounters::default();
        for counters in self.targets.get(&target.0, 0)?.iter() {
            let TargetCounters {
                opened,
                established,
                refused,
                cut_off,
            } = counters;
            sum.opened += opened;
            sum.established += established;
            sum.refused += refused;
            sum.cut_off += cut_off;
        }
        Ok(sum)
    }
}

fn sum(cpus: &PerCpuValues<Traffic>) -> Traffic {
    let mut sum = Traffic::default();
    for Traffic { packets, bytes } in cpus.iter() {
        sum.packets += packets;
        sum.bytes += bytes;
    }
    sum
}
