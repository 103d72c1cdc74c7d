//! The least that a balancer with one arm can do: in the place of our program
//! one that sends what comes from either end to the other, and looks at
//! nothing but MAC addresses. What this costs is the topology's: one more
//! link, and what the hook takes for itself.

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{Program, TcAttachType, XdpMode};

use super::datapath::object;
use crate::balancer::Hook;
use crate::lab::{Lab, NIC, address, ip};

/// The MAC addresses of client, balancer and server.
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BALANCER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// An attached program; detached when dropped.
#[derive(Debug)]
pub struct Relay(#[expect(dead_code, reason = "held for its link")] Ebpf);

impl Relay {
    /// Puts the balancer between the lab's client and its one node, which take
    /// it for each other.
    pub fn start(lab: &Lab, hook: Hook) -> Result<Self> {
        let (client, node) = (lab.client().name(), lab.node(1).name());
        let link = |mac| format!("link set {NIC} address {}", shown(mac));
        let beyond = |address| {
            let balancer = shown(BALANCER);
            format!("neigh replace {address} lladdr {balancer} dev {NIC} nud permanent")
        };
        ip::batch(lab.balancer().name(), &[link(BALANCER)])?;
        ip::batch(client, &[link(CLIENT), beyond(address::node(1))])?;
        ip::batch(node, &[link(SERVER), beyond(address::client(1))])?;

        let mut loaded =
            Ebpf::load_file(object()?).context("load the benchmarks' kernel object")?;
        let mut ends: Array<_, [u16; 4]> = loaded.map_mut("ENDS").context("no ENDS")?.try_into()?;
        ends.set(0, words(CLIENT), 0)?;
        ends.set(1, words(SERVER), 0)?;
        let name = match hook {
            Hook::Native | Hook::Generic => "bench_relay",
            Hook::Tc => "bench_relay_tc",
        };
        let program = loaded.program_mut(name).context("no relay")?;
        lab.balancer().enter(|| attach(program, hook))?;
        Ok(Self(loaded))
    }
}

fn attach(program: &mut Program, hook: Hook) -> Result<()> {
    match (program, hook) {
        (Program::Xdp(program), Hook::Native | Hook::Generic) => {
            program.load()?;
            let mode = match hook {
                Hook::Native => XdpMode::Driver,
                Hook::Generic | Hook::Tc => XdpMode::Skb,
            };
            program.attach(NIC, mode)?;
        }
        (Program::SchedClassifier(program), Hook::Tc) => {
            program.load()?;
            program.attach(NIC, TcAttachType::Ingress)?;
        }
        (_, hook) => bail!("no relay for {}", hook.name()),
    }
    Ok(())
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// As they lie in a frame.
fn words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 4] {
    let word = |first, second| u16::from_ne_bytes([first, second]);
    [word(a, b), word(c, d), word(e, f), 0]
}
