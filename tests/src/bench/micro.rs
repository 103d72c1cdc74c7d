//! Nanoseconds a packet, in the program alone: no driver, no wire.
//!
//! Every number is net of the harness, which is run with the same packets and
//! nothing behind it just before, and taken away. What a call costs besides
//! its packets (the kernel patches its dispatcher, for about 20 ms) is not in
//! the kernel's own clock.

use anyhow::Result;

use super::Effort;
use super::datapath::{DataPath, Order, Packets, Program};
use super::report::Row;
use super::stack;
use crate::patience::interrupted;
use crate::rows::kernel;

const BENCH: &str = "micro";
const PATH: &str = "xdp";
/// What the rows without a table are compared with.
const SWAP: &str = "MAC swap + TX";

/// So many clients open connections in turn: none comes back before its
/// handshake was pushed out by newer ones.
const NEW_CLIENTS: u32 = 1 << 22;

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
    let plan = Plan::new(effort);
    let most = plan.connections.iter().copied().max().unwrap_or(1);
    let mut bench = Bench {
        path: DataPath::load(most)?,
        plan,
        rows: Vec::new(),
    };
    bench.floors()?;
    let swap = bench.rows.last().cloned().expect("the floors are there");
    bench.path.fill(1)?;
    for (name, packets) in [
        ("not ours", Packets::NotOurs),
        ("forward, one connection", Packets::Forward),
        ("reply, one connection", Packets::Reply),
        ("SYN refused", Packets::SynRefused),
    ] {
        let row = bench.net(name, Program::Lb, packets, Order::Random(1))?;
        bench.rows.push(row.against(&swap, SWAP));
    }
    for connections in bench.plan.connections {
        if interrupted() {
            break;
        }
        bench.path.fill(*connections)?;
        bench.table(*connections)?;
    }
    bench.programs()?;
    Ok(bench.rows)
}

struct Bench {
    path: DataPath,
    plan: Plan,
    rows: Vec<Row>,
}

impl Bench {
    /// What cannot be gone below; the last one is MAC swap + TX.
    fn floors(&mut self) -> Result<()> {
        let repeat = self.plan.repeat;
        let mut gross = |name: &str, one: &mut dyn FnMut(&mut DataPath) -> Result<f64>| {
            let samples: Vec<f64> = (0..self.plan.calls)
                .map(|_| one(&mut self.path))
                .collect::<Result<_>>()?;
            self.rows.push(Row::new(BENCH, name, PATH, "ns", &samples));
            anyhow::Ok(())
        };
        for (name, program) in [
            ("XDP_PASS, no harness (gross)", Program::Pass),
            ("MAC swap + TX, no harness (gross)", Program::Swap),
        ] {
            gross(name, &mut |path| {
                path.time_alone(program, Packets::Forward, repeat)
            })?;
        }
        gross("harness + XDP_PASS (gross)", &mut |path| {
            path.time(Program::Pass, Packets::Forward, Order::Random(1), repeat)
        })?;
        let swap = self.net(SWAP, Program::Swap, Packets::Forward, Order::Random(1))?;
        self.rows.push(swap);
        Ok(())
    }

    /// All that depends on how many connections there are.
    fn table(&mut self, connections: u32) -> Result<()> {
        let many = match connections {
            1_000_000.. => format!("{}M", connections / 1_000_000),
            _ => format!("{}k", connections / 1_000),
        };
        let random = Order::Random(connections);
        let bare = format!("bare look-up, {many} connections");
        let lookup = self.net(&bare, Program::Lookup, Packets::Forward, random)?;
        self.rows.push(lookup.clone());
        for (name, packets) in [("forward", Packets::Forward), ("reply", Packets::Reply)] {
            let name = format!("{name}, {many} connections");
            let row = self.net(&name, Program::Lb, packets, random)?;
            self.rows.push(row.against(&lookup, &bare));
        }
        // Clients that have no connection yet: behind those that have.
        let name = format!("SYN accepted, {many} connections");
        let syn = self.net(
            &name,
            Program::Lb,
            Packets::Syn,
            Order::Sequence(NEW_CLIENTS),
        )?;
        self.rows.push(syn.against(&lookup, &bare));
        Ok(())
    }

    /// What `program` costs beyond the harness.
    fn net(&mut self, name: &str, program: Program, packets: Packets, order: Order) -> Result<Row> {
        let repeat = self.plan.repeat;
        // Once for the caches, the branch predictor and, for SYNs, the table
        // of handshakes: it is full from then on, as under load.
        self.path
            .time(program, packets, order, repeat.min(100_000))?;
        let samples: Vec<f64> = (0..self.plan.calls)
            .map(|_| {
                let harness = self.path.time(Program::Pass, packets, order, repeat)?;
                let gross = self.path.time(program, packets, order, repeat)?;
                Ok(gross - harness)
            })
            .collect::<Result<_>>()?;
        Ok(Row::new(BENCH, name, PATH, "ns", &samples))
    }

    /// What the verifier says of each program, and what stack it takes.
    fn programs(&mut self) -> Result<()> {
        for (name, instructions) in self.path.verified()? {
            let name = format!("{name}: verified instructions");
            let instructions = [f64::from(instructions)];
            self.rows
                .push(Row::new(BENCH, &name, PATH, "count", &instructions));
        }
        for stack::Chain {
            program: name,
            depth: bytes,
            ..
        } in stack::chains(&kernel::object()?)?
        {
            let name = format!("{name}: stack");
            self.rows
                .push(Row::new(BENCH, &name, PATH, "B", &[bytes as f64]));
        }
        Ok(())
    }
}
