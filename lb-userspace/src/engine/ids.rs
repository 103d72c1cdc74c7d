//! The numbers of services and targets: as they are, or such as nobody bears.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::service::ServiceId;
use lb_common::target::TargetId;

use crate::config::Mode;
use crate::engine::installed::Installed;

/// Which numbers are given out.
#[derive(Debug)]
pub struct Ids {
    services: BTreeMap<SocketAddr, ServiceId>,
    services_taken: BTreeSet<ServiceId>,
    targets: BTreeMap<(ServiceId, SocketAddr, Mode), TargetId>,
    targets_taken: BTreeSet<TargetId>,
    /// All numbers below are taken.
    next_target: u32,
}

impl Ids {
    /// Those that are in use in the tables. A service's number is also that of
    /// its targets and rules, which may outlive it: where it is in `former`, it
    /// is the service's that comes back there.
    #[must_use]
    pub fn of(installed: &Installed, former: &BTreeMap<SocketAddr, ServiceId>) -> Self {
        let present = installed.services.iter().map(|(&at, entry)| (at, entry.id));
        let mut services = former.clone();
        services.extend(present);
        let targets = installed.targets.iter();
        let bearers = installed.targets.values().map(|target| target.service);
        let services_taken = services.values().copied().chain(bearers);
        let services_taken =
            services_taken.chain(installed.rules.keys().map(|&(service, _)| service));
        Self {
            services_taken: services_taken.collect(),
            services,
            targets: targets
                .map(|(&id, target)| ((target.service, target.server, target.mode), id))
                .collect(),
            targets_taken: installed.targets.keys().copied().collect(),
            next_target: 1,
        }
    }

    /// The number of the service at `listen`; none where all are taken.
    pub fn service(&mut self, listen: SocketAddr) -> Option<ServiceId> {
        if let Some(&id) = self.services.get(&listen) {
            return Some(id);
        }
        let capacity = u16::try_from(ServiceId::CAPACITY).unwrap_or(u16::MAX);
        let mut numbers = (0..capacity).map(ServiceId);
        let id = numbers.find(|id| !self.services_taken.contains(id))?;
        self.services_taken.insert(id);
        self.services.insert(listen, id);
        Some(id)
    }

    /// The number of `server` in `service`; none where all are taken. Another
    /// one for each mode: connections are told by their target which they have.
    pub fn target(
        &mut self,
        service: ServiceId,
        server: SocketAddr,
        mode: Mode,
    ) -> Option<TargetId> {
        if let Some(&id) = self.targets.get(&(service, server, mode)) {
            return Some(id);
        }
        let mut numbers = (self.next_target..TargetId::CAPACITY).map(TargetId);
        let id = numbers.find(|id| !self.targets_taken.contains(id))?;
        self.next_target = id.0 + 1;
        self.targets_taken.insert(id);
        self.targets.insert((service, server, mode), id);
        Some(id)
    }
}
