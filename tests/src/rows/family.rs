//! Rows are written for IPv4; this says what stands for them in each family.

use std::net::{IpAddr, Ipv6Addr};

use std::collections::BTreeMap;

use lb_common::addr::{Address, Ipv4, Ipv6, Port};
use lb_common::flow::{Flow, FlowKey, Pending};
use lb_common::service::{Listener, SourceKey};
use lb_common::target::{Snat, Target, TargetId};

use super::connections::{Connections, Entry};
use super::frame::Leg;
use super::maps::Mapped;
use super::world::World;

/// A family of addresses that rows are run for.
pub trait Family: Mapped {
    /// The other family.
    type Other: Address;

    /// What people call it.
    const NAME: &'static str;

    /// The address of this family that stands for one of the rows'.
    fn like(address: IpAddr) -> Self;

    /// The port that stands for one of the rows'.
    fn port(port: u16) -> u16;
}

impl Family for Ipv4 {
    type Other = Ipv6;
    const NAME: &'static str = "IPv4";

    fn like(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
        }
    }

    fn port(port: u16) -> u16 {
        port
    }
}

impl Family for Ipv6 {
    type Other = Ipv4;
    const NAME: &'static str = "IPv6";

    fn like(address: IpAddr) -> Self {
        ipv6_like(address).into()
    }

    fn port(port: u16) -> u16 {
        if port == super::handshake::SECOND_PORT {
            super::handshake::SECOND_PORT_IPV6
        } else {
            port
        }
    }
}

/// `fd00::10.0.0.9` for `10.0.0.9`.
#[must_use]
pub fn ipv6_like(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let words = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, words[0], words[1])
        }
        IpAddr::V6(address) => address,
    }
}

impl Leg {
    /// What stands for this leg of IPv4 in another family.
    #[must_use]
    pub fn over<A: Family>(self) -> Self {
        let over = |(address, port)| (A::like(address).into(), A::port(port));
        Self {
            source: over(self.source),
            destination: over(self.destination),
            ..self
        }
    }
}

impl<A: Address> World<A> {
    /// What stands for this state in another family of addresses.
    #[must_use]
    pub fn translated<B: Family>(&self) -> World<B> {
        let Connections {
            flows,
            pending,
            sources,
            affinities,
            open,
            open_of_services,
        } = self.connections.clone();
        let source = |key: SourceKey<A>| SourceKey::new(translated(key.address), key.service);
        let pending = pending.into_iter().map(|(key, pending)| {
            let (key, flow) = translated_flow((key, pending.flow), &self.targets);
            let Pending {
                server_sequence,
                opened,
                progress,
                ..
            } = pending;
            let pending = Pending {
                flow,
                server_sequence,
                opened,
                progress,
            };
            (key, pending)
        });
        let listener = |listener: Listener<A>| {
            let port = B::port(listener.port.number());
            Listener::new(translated(listener.address), Port::new(port))
        };
        let services = self.services.iter();
        let targets = self.targets.iter();
        let snats = self.snats.iter().map(|snat| Snat {
            address: translated(snat.address),
            first: snat.first,
            count: snat.count,
        });
        let rules = self.rules.iter();
        World {
            services: services
                .map(|(key, value)| (listener(*key), *value))
                .collect(),
            slots: self.slots.clone(),
            targets: targets
                .map(|(id, target)| (*id, translated_target(target)))
                .collect(),
            snats: snats.collect(),
            generations: self.generations.clone(),
            rules: rules
                .map(|((id, a), rule)| ((*id, translated(*a)), *rule))
                .collect(),
            turns: self.turns.clone(),
            connections: Connections {
                flows: flows
                    .into_iter()
                    .map(|entry| translated_flow(entry, &self.targets))
                    .collect(),
                pending: pending.collect(),
                sources: sources
                    .into_iter()
                    .map(|(key, state)| (source(key), state))
                    .collect(),
                affinities: affinities
                    .into_iter()
                    .map(|(key, to)| (source(key), to))
                    .collect(),
                open,
                open_of_services,
            },
        }
    }
}

/// What stands for an address of one family in another.
fn translated<A: Address, B: Family>(address: A) -> B {
    B::like(address.into())
}

fn translated_key<A: Address, B: Family>(key: &FlowKey<A>) -> FlowKey<B> {
    FlowKey {
        source: translated(key.source),
        destination: translated(key.destination),
        source_port: Port::new(B::port(key.source_port.number())),
        destination_port: Port::new(B::port(key.destination_port.number())),
    }
}

fn translated_flow<A: Address, B: Family>(
    (key, flow): Entry<A>,
    targets: &BTreeMap<TargetId, Target<A>>,
) -> Entry<B> {
    let translated = translated_key(&key);
    let target = &targets[&flow.target()];
    let mut other = Flow::new(
        &translated,
        &translated_key(&flow.rewrite(&key, target)),
        flow.direction(),
        flow.owner(),
        flow.hop,
        flow.last_seen,
    );
    // The way back, or how far the connection has come.
    other.hop = flow.hop;
    (translated, other)
}

fn translated_target<A: Address, B: Family>(target: &Target<A>) -> Target<B> {
    Target {
        server: translated(target.server),
        tunnel: translated(target.tunnel),
        vip: translated(target.vip),
        vip_port: Port::new(B::port(target.vip_port.number())),
        hop: target.hop,
        max_connections: target.max_connections,
        port: target.port,
        service: target.service,
        first_snat: target.first_snat,
        snats: target.snats,
        weight: target.weight,
        mtu: target.mtu,
        mode: target.mode,
        accepts: target.accepts,
    }
}
