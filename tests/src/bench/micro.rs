//! Nanoseconds a packet, in the program alone: no driver, no wire.
//!
//! Every number is net of the harness, which is run with the same packets and
//! nothing behind it just before, and taken away. What a call costs besides
//! its packets (the kernel patches its dispatcher, for about 20 ms) is not in
//! the kernel's own clock.

use anyhow::Result;

use super::Effort;
use super::datapath::{self, DataPath, PENDING_MAX};
use super::measured::{Measured, Order, Packets, Place, Program};
use super::report::Row;
use super::stack;
use lb_common::addr::{Ipv4, Ipv6};

use crate::patience::interrupted;
use crate::rows::kernel;

const BENCH: &str = "micro";

/// So many clients open connections in turn: none comes back before its
/// handshake was pushed out by newer ones.
const NEW_CLIENTS: u32 = 1 << 22;
/// So many handshakes leave a quarter of PENDING free: two entries each.
const WITH_ROOM: u32 = PENDING_MAX / 2 / 4 * 3;
/// They are few, and therefore called for more often.
const CALLS_WITH_ROOM: usize = 3;

/// How much is measured.
struct Plan {
    /// Calls for each number.
    calls: usize,
    /// Packets in each call.
    repeat: u32,
    /// Connections in the tables.
    connections: &'static [u32],
}

impl Plan {
    fn new(effort: Effort) -> Self {
        match effort {
            Effort::Full => Self {
                calls: 15,
                repeat: 500_000,
                connections: &[1_000, 100_000, 1_000_000],
            },
            Effort::Quick => Self {
                calls: 5,
                repeat: 200_000,
                connections: &[1_000, 100_000, 1_000_000],
            },
            Effort::Smoke => Self {
                calls: 1,
                repeat: 20_000,
                connections: &[1_000],
            },
        }
    }
}

/// Measures everything.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = family::<Ipv4>(effort)?;
    rows.extend(family::<Ipv6>(effort)?);
    rows.extend(programs()?);
    Ok(rows)
}

/// Measures all that there is of one family.
fn family<A: Measured>(effort: Effort) -> Result<Vec<Row>> {
    let plan = Plan::new(effort);
    let most = plan.connections.iter().copied().max().unwrap_or(1);
    let mut bench = Bench {
        path: DataPath::<A>::load(most)?,
        plan,
        rows: Vec::new(),
    };
    bench.path.fill(1)?;
    for place in Place::ALL {
        bench.without_table(place)?;
    }
    for connections in bench.plan.connections {
        if interrupted() {
            break;
        }
        bench.path.fill(*connections)?;
        let used = bench.lookups(*connections)?;
        for place in Place::ALL {
            bench.table(place, *connections, &used)?;
        }
    }
    Ok(bench.rows)
}

struct Bench<A: Measured> {
    path: DataPath<A>,
    plan: Plan,
    rows: Vec<Row>,
}

impl<A: Measured> Bench<A> {
    /// What cannot be gone below, and what no table of flows decides.
    fn without_table(&mut self, place: Place) -> Result<()> {
        let repeat = self.plan.repeat;
        let once = Order::Random(1);
        let mut gross = |name: &str, one: &mut dyn FnMut(&mut DataPath<A>) -> Result<f64>| {
            let samples: Vec<f64> = (0..self.plan.calls)
                .map(|_| one(&mut self.path))
                .collect::<Result<_>>()?;
            let name = format!("{}: {name}", A::NAME);
            self.rows
                .push(Row::new(BENCH, &name, place.name(), "ns", &samples));
            anyhow::Ok(())
        };
        for (name, program) in [
            ("pass, no harness (gross)", Program::Pass),
            ("MAC swap + TX, no harness (gross)", Program::Swap),
        ] {
            gross(name, &mut |path| {
                path.time_alone(place, program, Packets::Forward, repeat)
            })?;
        }
        gross("harness + pass (gross)", &mut |path| {
            path.time(place, Program::Pass, Packets::Forward, once, repeat)
        })?;
        let swap = self.net(
            "MAC swap + TX",
            place,
            Program::Swap,
            Packets::Forward,
            once,
        )?;
        self.rows.push(swap.clone());
        for (name, packets) in [
            ("not ours, another address", Packets::Foreign),
            ("not ours, no service of the VIP", Packets::NoService),
            ("forward, one connection", Packets::Forward),
            ("reply, one connection", Packets::Reply),
            ("SYN refused", Packets::SynRefused),
        ] {
            let row = self.net(name, place, Program::Lb, packets, once)?;
            self.rows.push(row.against(&swap, &swap.name));
        }
        Ok(())
    }

    /// What a look-up costs, and nothing else. Gives the row of the one whose
    /// result is used.
    fn lookups(&mut self, connections: u32) -> Result<Row> {
        let random = Order::Random(connections);
        let [bare, used] = [
            ("bare look-up", Program::Lookup),
            ("bare look-up, used", Program::LookupUsed),
        ]
        .map(|(name, program)| {
            let name = format!("{name}, {}", many(connections));
            self.net(&name, Place::Xdp, program, Packets::Forward, random)
        });
        let (bare, used) = (bare?, used?);
        self.rows.push(bare.clone().against(&used, &used.name));
        self.rows.push(used.clone());
        Ok(used)
    }

    /// All that depends on how many connections there are.
    fn table(&mut self, place: Place, connections: u32, used: &Row) -> Result<()> {
        let random = Order::Random(connections);
        for (name, packets) in [("forward", Packets::Forward), ("reply", Packets::Reply)] {
            let name = format!("{name}, {}", many(connections));
            let row = self.net(&name, place, Program::Lb, packets, random)?;
            self.rows.push(row.against(used, &used.name));
        }
        let room = self.syn_with_room(place, connections)?;
        self.rows.push(room.clone().against(used, &used.name));
        let name = format!("SYN accepted in a flood, {}", many(connections));
        let new = Order::Sequence(NEW_CLIENTS);
        let flood = self.net(&name, place, Program::Lb, Packets::Syn, new)?;
        self.rows.push(flood.against(&room, &room.name));
        Ok(())
    }

    /// What a SYN costs while PENDING has room, as it has where handshakes are
    /// finished: it is emptied before each call.
    fn syn_with_room(&mut self, place: Place, connections: u32) -> Result<Row> {
        // Clients that have no connection yet: behind those that have.
        let (packets, new) = (Packets::Syn, Order::Sequence(NEW_CLIENTS));
        let samples: Vec<f64> = (0..self.plan.calls * CALLS_WITH_ROOM)
            .map(|_| {
                self.path.forget_handshakes()?;
                let mut once = |program| self.path.time(place, program, packets, new, WITH_ROOM);
                let harness = once(Program::Pass)?;
                Ok(once(Program::Lb)? - harness)
            })
            .collect::<Result<_>>()?;
        let name = format!("{}: SYN accepted, {}", A::NAME, many(connections));
        Ok(Row::new(BENCH, &name, place.name(), "ns", &samples))
    }

    /// What `program` costs beyond the harness.
    fn net(
        &mut self,
        name: &str,
        place: Place,
        program: Program,
        packets: Packets,
        order: Order,
    ) -> Result<Row> {
        let repeat = self.plan.repeat;
        // Once for the caches, the branch predictor and, for SYNs, the table
        // of handshakes: it is full from then on, as under load.
        self.path
            .time(place, program, packets, order, repeat.min(100_000))?;
        let samples: Vec<f64> = (0..self.plan.calls)
            .map(|_| {
                let harness = self
                    .path
                    .time(place, Program::Pass, packets, order, repeat)?;
                let gross = self.path.time(place, program, packets, order, repeat)?;
                Ok(gross - harness)
            })
            .collect::<Result<_>>()?;
        let name = format!("{}: {name}", A::NAME);
        Ok(Row::new(BENCH, &name, place.name(), "ns", &samples))
    }
}

fn many(connections: u32) -> String {
    match connections {
        1_000_000.. => format!("{}M connections", connections / 1_000_000),
        _ => format!("{}k connections", connections / 1_000),
    }
}

/// What the verifier says of each program, and what stack it takes.
fn programs() -> Result<Vec<Row>> {
    let path = |name: &str| match name {
        "lb_tc" | "lb_egress" => "tc",
        _ => "xdp",
    };
    let mut rows = Vec::new();
    for (program, instructions) in datapath::verified()? {
        let name = format!("{program}: verified instructions");
        let instructions = [f64::from(instructions)];
        rows.push(Row::new(
            BENCH,
            &name,
            path(&program),
            "count",
            &instructions,
        ));
    }
    for chain in stack::chains(&kernel::object()?)? {
        let name = format!("{}: stack", chain.program);
        let bytes = [chain.depth as f64];
        rows.push(Row::new(BENCH, &name, path(&chain.program), "B", &bytes));
    }
    Ok(rows)
}
