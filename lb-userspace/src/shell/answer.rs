//! Answers to the admin API's queries: what the engine believes, joined with
//! what the kernel counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aya::maps::MapError;
use lb_common::flow::Direction;
use lb_common::target::TargetId;
use lb_common::verdict::{Fate, Reason};

use crate::api::{
    FlowFilter, FlowOrder, FlowStatus, Flows, OverrideStatus, ServiceStats, Stats, Status,
    TableStats, TargetStats, VerdictStats,
};
use crate::config::{Config, Overrides, ServerName, Service, ServiceName};
use crate::engine::Agent;
use crate::shell::admin::{Answer, Refusal};
use crate::shell::counters::Counters;
use crate::shell::flows::{Connection, Filter, Keeper, Order, State, Sweep};
use crate::shell::load::Datapath;

/// All that answers are made from.
pub struct Answers<'a> {
    /// The engine.
    pub agent: &'a Agent,
    /// The configuration.
    pub config: &'a Config,
    /// What of it is not in the file.
    pub overrides: &'a Overrides,
    /// The kernel's counters.
    pub counters: &'a Counters,
    /// The kernel's half.
    pub datapath: &'a Datapath,
    /// What the last sweep over the connections found.
    pub sweep: &'a Sweep,
}

impl Answers<'_> {
    /// `GET /v1/status`.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.agent.status(Instant::now());
        let names = self.datapath.interfaces.iter().map(|i| i.name.as_str());
        status.interface = names.collect::<Vec<_>>().join(", ");
        status.hook = self.datapath.hook;
        for target in status
            .services
            .iter_mut()
            .flat_map(|service| &mut service.targets)
        {
            target.connections = self.open(TargetId(target.id));
        }
        for target in &mut status.draining {
            target.connections = self.open(TargetId(target.id));
        }
        status.draining.retain(|target| target.connections > 0);
        for ((pool, server), one) in self.overrides.iter() {
            status.overrides.push(OverrideStatus {
                pool: pool.clone(),
                server: server.clone(),
                what: Some(one.to_string()),
            });
            let pools = status.pools.iter_mut().filter(|found| found.name == *pool);
            let servers = pools.flat_map(|found| &mut found.servers);
            for found in servers.filter(|found| found.name == *server) {
                found.why.insert(0, format!("override: {one}"));
            }
        }
        status
    }

    /// `GET /v1/stats`.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn stats(&self) -> Result<Stats, Refusal> {
        let failed =
            |error: MapError| Refusal::Failed(format!("cannot read the counters: {error}"));
        Ok(Stats {
            verdicts: self.verdicts().map_err(failed)?,
            services: self.services().map_err(failed)?,
            targets: self.targets().map_err(failed)?,
            table: TableStats {
                flows: self.sweep.flows,
                flows_max: self.datapath.flows_max.into(),
                pending: self.sweep.pending,
                pending_max: self.datapath.pending_max.into(),
            },
        })
    }

    fn verdicts(&self) -> Result<Vec<VerdictStats>, MapError> {
        let verdict = |&reason: &Reason| {
            let traffic = self.counters.verdict(reason)?;
            Ok(VerdictStats {
                reason: reason.name().to_owned(),
                action: reason.fate().name().to_owned(),
                packets: traffic.packets,
                bytes: traffic.bytes,
            })
        };
        Reason::ALL.iter().map(verdict).collect()
    }

    fn services(&self) -> Result<Vec<ServiceStats>, MapError> {
        let installed = &self.agent.installed().services;
        let services = self.config.services.values().map(|service| {
            let Service { name, listen, .. } = service;
            let mut stats = ServiceStats {
                service: name.clone(),
                listen: *listen,
                connections: 0,
                refused: 0,
            };
            if let Some(entry) = installed.get(listen) {
                stats.connections = self.counters.service(entry.id, Reason::Established)?;
                for &reason in Reason::ALL.iter().filter(|reason| refuses(**reason)) {
                    stats.refused += self.counters.service(entry.id, reason)?;
                }
            }
            Ok(stats)
        });
        services.collect()
    }

    fn targets(&self) -> Result<Vec<TargetStats>, MapError> {
        let mut targets = Vec::new();
        for &id in self.agent.installed().targets.keys() {
            let Some((service, server)) = self.agent.names(id) else {
                continue;
            };
            let counters = self.counters.target(id)?;
            let incoming = self.counters.traffic(id, Direction::Forward)?;
            let outgoing = self.counters.traffic(id, Direction::Reply)?;
            targets.push(TargetStats {
                service: service.clone(),
                server: server.clone(),
                id: id.0,
                open: self.open(id),
                connections: counters.established,
                packets_in: incoming.packets,
                bytes_in: incoming.bytes,
                packets_out: outgoing.packets,
                bytes_out: outgoing.bytes,
                refused: counters.refused,
            });
        }
        targets.sort_by(|a, b| (&a.service, &a.server).cmp(&(&b.service, &b.server)));
        Ok(targets)
    }

    fn open(&self, id: TargetId) -> u64 {
        self.counters.load(id).map_or(0, |load| load.open.into())
    }

    /// `GET /v1/flows`: asks the keeper, which may take a while, and answers
    /// when it has.
    pub fn flows(&self, keeper: &Arc<Keeper>, filter: FlowFilter, answer: Answer<Flows>) {
        let wanted = match self.filter(&filter) {
            Ok(wanted) => wanted,
            Err(refusal) => return drop(answer.send(Err(refusal))),
        };
        let services = self.config.services.values().cloned().collect::<Vec<_>>();
        let servers = self
            .config
            .pools
            .values()
            .flat_map(|pool| pool.servers.clone());
        let servers = servers.collect::<Vec<_>>();
        let keeper = Arc::clone(keeper);
        tokio::spawn(async move {
            let listed = keeper.list(wanted).await;
            let flows = listed.map(|listed| {
                let named = listed.connections.iter().map(|connection| {
                    let service = services.iter().find(|s| s.listen == connection.vip);
                    let server = servers.iter().find(|s| s.address == connection.server);
                    describe(
                        connection,
                        service.map(|s| &s.name),
                        server.map(|s| &s.name),
                    )
                });
                let flows: Vec<_> = named.collect();
                Flows {
                    truncated: (flows.len() as u64) < listed.total,
                    total: listed.total,
                    flows,
                }
            });
            let failed = |error| Refusal::Failed(format!("cannot read the flow table: {error}"));
            drop(answer.send(flows.map_err(failed)));
        });
    }

    fn filter(&self, filter: &FlowFilter) -> Result<Filter, Refusal> {
        let FlowFilter {
            service, server, ..
        } = filter;
        let installed = &self.agent.installed().services;
        let service = match service {
            None => None,
            Some(name) => {
                let service = self.config.services.get(name);
                let entry = service.and_then(|service| installed.get(&service.listen));
                let unknown = || Refusal::Unknown(format!("there is no service {name}"));
                Some(entry.ok_or_else(unknown)?.id)
            }
        };
        let targets = match server {
            None => None,
            Some(name) => {
                let mut servers = self.config.pools.values().flat_map(|pool| &pool.servers);
                if !servers.any(|server| server.name == *name) {
                    return Err(Refusal::Unknown(format!("there is no server {name}")));
                }
                let ids = self.agent.installed().targets.keys().copied();
                let of_server = |id: &TargetId| {
                    let names = self.agent.names(*id);
                    names.is_some_and(|(_, server)| server == name)
                };
                Some(ids.filter(of_server).collect())
            }
        };
        Ok(Filter {
            service,
            targets,
            source: filter.source,
            order: match filter.sort {
                FlowOrder::Client => Order::Client,
                FlowOrder::Idle => Order::Idle,
            },
            limit: filter.limit(),
        })
    }
}

/// Whether a packet with this verdict is a new connection that was refused.
fn refuses(reason: Reason) -> bool {
    match reason.fate() {
        Fate::Reset => !matches!(reason, Reason::CutOff | Reason::UnknownFlow),
        Fate::Pass | Fate::Transmit | Fate::Deliver | Fate::Notify | Fate::Drop => {
            matches!(reason, Reason::SourceRate | Reason::Denied)
        }
    }
}

fn describe(
    connection: &Connection,
    service: Option<&ServiceName>,
    server: Option<&ServerName>,
) -> FlowStatus {
    let address: SocketAddr = connection.server;
    FlowStatus {
        service: service
            .cloned()
            .unwrap_or_else(|| ServiceName::from(connection.vip.to_string())),
        client: connection.client,
        vip: connection.vip,
        snat: connection.snat,
        server: address,
        server_name: server
            .cloned()
            .unwrap_or_else(|| ServerName::from(address.to_string())),
        state: match connection.state {
            State::Opening => "opening",
            State::Established => "established",
            State::Closing => "closing",
            State::Closed => "closed",
            State::Stale => "stale",
        }
        .to_owned(),
        idle_ms: connection.idle_ms,
    }
}
