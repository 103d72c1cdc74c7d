//! Packets a second on one core: the kernel's own generator (BPF_PROG_TEST_RUN
//! with live frames) puts frames into a native veth's receive path, the program
//! sends them back out, and the far end of the veth swallows and counts them.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lb_common::addr::{Ipv4, Ipv6};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::Effort;
use super::datapath::DataPath;
use super::measured::{Measured, Order, Packets, Program};
use super::report::Row;
use crate::lab::{Lab, NIC, Namespace, Spec};
use crate::patience::interrupted;

/// Measures everything.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = family::<Ipv4>(effort)?;
    rows.extend(family::<Ipv6>(effort)?);
    Ok(rows)
}

fn family<A: Measured>(effort: Effort) -> Result<Vec<Row>> {
    let (runs, frames, many) = match effort {
        Effort::Full => (9, 4_000_000, 1_000_000),
        Effort::Quick => (3, 1_000_000, 100_000),
        Effort::Smoke => (1, 100_000, 1_000),
    };
    let lab = Lab::new(&Spec::for_test(1).without_peer_program())?;
    let ingress = index(lab.balancer())?;
    let mut path = DataPath::<A>::load_for(many, ingress)?;
    lab.balancer().enter(|| path.attach_near(NIC))?;
    lab.switch().enter(|| path.attach_far("balancer"))?;
    path.fill(many)?;

    let forward = format!("forward, {many} connections");
    let cases = [
        ("MAC swap + TX", Program::Swap, Packets::Forward, 1),
        ("forward, one connection", Program::Lb, Packets::Forward, 1),
        ("reply, one connection", Program::Lb, Packets::Reply, 1),
        (&forward, Program::Lb, Packets::Forward, many),
        ("SYN refused", Program::Lb, Packets::SynRefused, many),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for (name, program, packets, flows) in cases {
        let mut samples = Vec::new();
        for _ in 0..runs {
            if interrupted() {
                return Ok(rows);
            }
            let begun = Instant::now();
            let arrived = lab
                .balancer()
                .enter(|| path.send(program, packets, Order::Random(flows), frames, ingress))?;
            let took = begun.elapsed().as_secs_f64();
            ensure!(
                arrived >= u64::from(frames) * 9 / 10,
                "{name}: only {arrived} of {frames} frames came out"
            );
            samples.push(arrived as f64 / took / 1e6);
        }
        let name = format!("{}: {name}", A::NAME);
        let row = Row::new("pps", &name, "veth native", "Mpps", &samples);
        let row = match rows.first() {
            Some(swap) => row.against(swap, &swap.name),
            None => row,
        };
        rows.push(row);
    }
    Ok(rows)
}

/// The number of the NIC of `namespace`.
fn index(namespace: &Namespace) -> Result<u32> {
    namespace
        .enter(|| {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            name_to_index(&socket, NIC)
        })
        .with_context(|| format!("no {NIC} in {}", namespace.name()))
}
