//! How many of very many connections wait for something to be sent again, and
//! what the kernels at both ends say of it.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Effort;
use super::report::Row;
use crate::balancer::{Balancer, Configuration, Hook};
use crate::fake::{Claim, FakeNode};
use crate::lab::address::Family;
use crate::lab::{Lab, Namespace, Spec, joined};
use crate::patience::interrupted;
use crate::traffic::connections::{Answers, who_answers};

const BENCH: &str = "stalls";
const PATIENCE: Duration = Duration::from_secs(30);
/// Clients, each with ports of its own: a port that was used waits a minute.
const CLIENTS: usize = 8;
/// Servers, so that source ports suffice.
const NODES: usize = 3;
/// What tells why a segment was lost or sent again, in the words of
/// `/proc/net/netstat` and `/proc/net/snmp`; and how many connections began, so
/// that there is something to hold it against.
const COUNTERS: [&str; 9] = [
    "ActiveOpens",
    "RetransSegs",
    "TCPSynRetrans",
    "TCPTimeouts",
    "ListenOverflows",
    "ListenDrops",
    "PAWSEstab",
    "PAWSTimewait",
    "InCsumErrors",
];

/// Measures every hook.
pub fn run(effort: Effort) -> Result<Vec<Row>> {
    let count = match effort {
        Effort::Full => 200_000,
        Effort::Quick => 5_000,
        Effort::Smoke => 800,
    };
    let mut rows = Vec::new();
    for hook in Hook::ALL {
        if !interrupted() {
            rows.extend(through(hook, count)?);
        }
    }
    Ok(rows)
}

/// So many connections through `hook`, each with one request.
fn through(hook: Hook, count: usize) -> Result<Vec<Row>> {
    let spec = Spec::for_test(NODES).clients(CLIENTS);
    let spec = match hook {
        Hook::Native => spec,
        Hook::Generic | Hook::Tc => spec.without_peer_program(),
    };
    let lab = Lab::new(&spec)?;
    let start = |(id, node)| {
        let at = lab.node_address(Family::V4, id);
        FakeNode::start(node, id as u64, at, Claim::replica(1))
    };
    let _nodes = (1..)
        .zip(lab.nodes())
        .map(start)
        .collect::<Result<Vec<_>>>()?;
    let mut configuration = Configuration::for_nodes(&lab);
    configuration.hook = hook;
    configuration.read_route = "any";
    configuration.top = "timeouts = { fin = \"2s\" }".to_owned();
    configuration.check =
        r#"interval = "500ms", timeout = "500ms", rise = 1, fall = 100"#.to_owned();
    let mut balancer = Balancer::start(&lab, &configuration)?;
    balancer.wait_for_status("waiting for the servers", PATIENCE, |status| {
        status.targets(crate::balancer::READ_SERVICE).len() == NODES
    })?;
    let before = (Counters::of(lab.clients())?, Counters::of(lab.nodes())?);
    let answers = connect(&lab, count);
    let after = (Counters::of(lab.clients())?, Counters::of(lab.nodes())?);
    let answered: usize = answers.by_node.values().sum();
    ensure!(
        answered > 0,
        "no connection came about: {:?}",
        answers.failures
    );
    let row =
        |name: &str, unit: &str, value: f64| Row::new(BENCH, name, hook.name(), unit, &[value]);
    let mut rows = vec![
        row("connections answered", "connections", answered as f64),
        row("failed", "connections", (answers.total() - answered) as f64),
        row(
            "took more than 900 ms",
            "connections",
            answers.stalled as f64,
        ),
    ];
    for (whose, before, after) in [
        ("clients", &before.0, &after.0),
        ("servers", &before.1, &after.1),
    ] {
        for (name, count) in after.beyond(before) {
            rows.push(row(&format!("{name}, {whose}"), "times", count as f64));
        }
    }
    let stats = balancer.stats()?;
    for reason in [
        "syn_retransmitted",
        "syn_unanswered",
        "handshake_lost",
        "unknown_flow",
        "ports_exhausted",
    ] {
        rows.push(row(reason, "packets", stats.packets(reason) as f64));
    }
    Ok(rows)
}

/// All clients at once, two connections of each at a time.
fn connect(lab: &Lab, count: usize) -> Answers {
    thread::scope(|scope| {
        let ask = |client| move || who_answers(client, Family::V4.read(), count / CLIENTS, 2);
        let threads: Vec<_> = lab
            .clients()
            .iter()
            .map(|client| scope.spawn(ask(client)))
            .collect();
        let mut all = Answers::default();
        for thread in threads {
            all.merge(joined(thread.join()));
        }
        all
    })
}

/// What kernels counted.
struct Counters(Vec<(&'static str, u64)>);

impl Counters {
    /// Of these namespaces together.
    fn of(namespaces: &[Namespace]) -> Result<Self> {
        let mut sums = COUNTERS.map(|name| (name, 0)).to_vec();
        for namespace in namespaces {
            let text = namespace.enter(|| -> std::io::Result<String> {
                let all = ["netstat", "snmp"].map(|file| {
                    // That of the thread: the process is in another namespace.
                    fs::read_to_string(format!("/proc/thread-self/net/{file}"))
                });
                let [netstat, snmp] = all;
                Ok(netstat? + &snmp?)
            });
            let text = text.context("cannot read the kernel's counters")?;
            for (name, sum) in &mut sums {
                *sum += read(&text, name).unwrap_or(0);
            }
        }
        Ok(Self(sums))
    }

    /// What was counted since `before`, without zeros.
    fn beyond(&self, before: &Self) -> Vec<(&'static str, u64)> {
        let both = self.0.iter().zip(&before.0);
        both.map(|((name, now), (_, then))| (*name, now - then))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// The counter called `name`, of TCP where several protocols have it: a line
/// of names, and one of numbers in their order.
fn read(text: &str, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).find_map(|pair| {
        let [names, numbers] = pair else { return None };
        let mut names = names.split_whitespace();
        let protocol = names.next()?;
        if !["Tcp:", "TcpExt:"].contains(&protocol) || !numbers.starts_with(protocol) {
            return None;
        }
        let at = names.position(|one| one == name)?;
        numbers.split_whitespace().nth(at + 1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_read_by_its_name() {
        let text = "TcpExt: A ListenDrops C\nTcpExt: 1 2 3\nIp: InCsumErrors\nIp: 4\n\
                    Tcp: RetransSegs InCsumErrors\nTcp: 5 6\n";
        assert_eq!(read(text, "ListenDrops"), Some(2));
        assert_eq!(read(text, "InCsumErrors"), Some(6));
        assert_eq!(read(text, "RetransSegs"), Some(5));
        assert_eq!(read(text, "B"), None);
    }
}
