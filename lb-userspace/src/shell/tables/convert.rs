//! Between the engine's words and the kernel's: services, targets, rules.

use std::time::Duration;

use ipnet::IpNet;
use lb_common::addr::{Address, Port};
use lb_common::flow::Tick;
use lb_common::service::{self, Options, Prefix, Service, ServiceId};
use lb_common::target::{self, Target};

use super::family::socket;
use crate::config::{Access, Algorithm, Mode, Rate, Refusal, SourceLimits};
use crate::engine::{NextHop, ServiceEntry, Settings, TargetEntry};

/// Microseconds in a second.
const SECOND: u32 = 1_000_000;

pub(super) fn service(entry: &ServiceEntry) -> Service {
    let Settings {
        algorithm,
        affinity,
        max_connections,
        on_no_target,
        on_full,
        source,
        rules,
    } = entry.settings;
    let options = Options::default()
        .with(Options::DROP_NO_TARGET, on_no_target == Refusal::Drop)
        .with(Options::DROP_FULL, on_full == Refusal::Drop)
        .with(Options::PREFIXES, rules.is_some())
        .with(Options::DENY_OTHERS, rules == Some(Access::Deny));
    Service {
        first_slot: entry.first_slot,
        slots: entry.slots,
        members: entry.members,
        max_connections: max_connections.unwrap_or(0),
        source_connections: source.connections.unwrap_or(0),
        source_interval: source
            .rate
            .map_or(0, |rate| SECOND / rate.per_second.max(1)),
        source_burst: source.rate.map_or(0, |rate| rate.burst),
        affinity: affinity.map_or(0, ticks),
        id: entry.id,
        algorithm: match algorithm {
            Algorithm::Maglev => service::Algorithm::Maglev,
            Algorithm::SourceHash => service::Algorithm::SourceHash,
            Algorithm::RoundRobin => service::Algorithm::RoundRobin,
            Algorithm::Random => service::Algorithm::Random,
            Algorithm::LeastConnections => service::Algorithm::LeastConnections,
            Algorithm::LeastLatency => service::Algorithm::LeastLatency,
        } as u8,
        options,
    }
}

/// The settings of an adopted service. What does not come back exactly (a
/// duration in ticks, a rate in microseconds) is set anew by the first plan.
pub(super) fn settings(service: &Service) -> Settings {
    let refusal = |drop| {
        if service.options.contain(drop) {
            Refusal::Drop
        } else {
            Refusal::Reset
        }
    };
    let limit = |count: u32| (count != 0).then_some(count);
    Settings {
        algorithm: match service.algorithm() {
            service::Algorithm::Maglev => Algorithm::Maglev,
            service::Algorithm::SourceHash => Algorithm::SourceHash,
            service::Algorithm::RoundRobin => Algorithm::RoundRobin,
            service::Algorithm::Random => Algorithm::Random,
            service::Algorithm::LeastConnections => Algorithm::LeastConnections,
            service::Algorithm::LeastLatency => Algorithm::LeastLatency,
        },
        affinity: limit(service.affinity)
            .map(|ticks| Duration::from_nanos(u64::from(ticks) * Tick::NANOSECONDS)),
        max_connections: limit(service.max_connections),
        on_no_target: refusal(Options::DROP_NO_TARGET),
        on_full: refusal(Options::DROP_FULL),
        source: SourceLimits {
            rate: limit(service.source_interval).map(|interval| Rate {
                per_second: SECOND / interval,
                burst: service.source_burst,
            }),
            connections: limit(service.source_connections),
        },
        rules: service.options.contain(Options::PREFIXES).then(|| {
            if service.options.contain(Options::DENY_OTHERS) {
                Access::Deny
            } else {
                Access::Allow
            }
        }),
    }
}

/// At least one: 0 would be no affinity.
fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_nanos() / u128::from(Tick::NANOSECONDS);
    u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
}

pub(super) fn target<A: Address>(
    entry: &TargetEntry,
    server: A,
    vip: A,
    tunnel: A,
    first_snat: u16,
    snats: u16,
) -> Target<A> {
    Target {
        server,
        tunnel,
        vip,
        hop: entry.way.hop,
        max_connections: entry.max_connections.unwrap_or(0),
        port: Port::new(entry.server.port()),
        vip_port: Port::new(entry.listen.port()),
        service: entry.service,
        first_snat,
        snats,
        weight: u16::try_from(entry.weight).unwrap_or(u16::MAX),
        mtu: entry.way.mtu,
        mode: match entry.mode {
            Mode::Nat => target::Mode::Nat,
            Mode::Local => target::Mode::Local,
            Mode::Dsr => target::Mode::Dsr,
            Mode::Ipip => target::Mode::Ipip,
        } as u8,
        accepts: u8::from(entry.accepts),
    }
}

pub(super) fn target_entry<A: Address>(target: &Target<A>, snat: A) -> TargetEntry {
    let mode = match target.mode() {
        target::Mode::Nat => Mode::Nat,
        target::Mode::Local => Mode::Local,
        target::Mode::Dsr => Mode::Dsr,
        target::Mode::Ipip => Mode::Ipip,
    };
    let own = if mode == Mode::Nat {
        snat
    } else {
        target.tunnel
    };
    TargetEntry {
        service: target.service,
        listen: socket(target.vip, target.vip_port),
        server: socket(target.server, target.port),
        mode,
        weight: target.weight.into(),
        max_connections: (target.max_connections != 0).then_some(target.max_connections),
        accepts: target.accepts != 0,
        way: NextHop {
            hop: target.hop,
            mtu: target.mtu,
            snat: own.into(),
        },
    }
}

/// A rule's service and prefix.
pub(super) fn prefix<A: Address>(prefix: Prefix<A>, length: u32) -> Option<(ServiceId, IpNet)> {
    let bits = length.checked_sub(Prefix::<A>::bits(0))?;
    let network = IpNet::new(prefix.address().into(), u8::try_from(bits).ok()?).ok()?;
    Some((prefix.service(), network))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(settings: Settings) -> Settings {
        let entry = ServiceEntry {
            id: ServiceId(3),
            first_slot: 10,
            slots: 4,
            members: 2,
            settings,
        };
        self::settings(&service(&entry))
    }

    #[test]
    fn settings_survive_the_kernel() {
        let settings = Settings {
            algorithm: Algorithm::LeastLatency,
            affinity: None,
            max_connections: Some(7),
            on_no_target: Refusal::Drop,
            on_full: Refusal::Reset,
            source: SourceLimits {
                rate: Some(Rate {
                    per_second: 100,
                    burst: 20,
                }),
                connections: Some(9),
            },
            rules: Some(Access::Deny),
        };
        assert_eq!(there_and_back(settings), settings);
        assert_eq!(there_and_back(Settings::default()), Settings::default());
    }

    #[test]
    fn a_short_affinity_is_still_one() {
        assert_eq!(ticks(Duration::from_nanos(1)), 1);
        assert_eq!(ticks(Duration::from_secs(3600)), 3_433_227);
    }
}
