//! One of the balancers at work: its process, and what it decided so far.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::collect::{Collection, LOOK_UP, Listener};
use super::decision::{Clock, Decision, LogReader, Word, haproxy};
use super::way::{Way, haproxy_cfg, lb_toml};
use crate::balancer::{Balancer, READ_SERVICE};
use crate::lab::{Lab, NIC, Namespace, Process};
use crate::patience::wait_for;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A balancer, on a host of its own.
#[derive(Debug)]
pub struct Lane {
    /// Which one.
    pub way: Way,
    /// All that it decided about the writes.
    pub decisions: Vec<Decision>,
    /// Who gets new connections of writers.
    pub writers: BTreeSet<usize>,
    /// Who gets those of readers; of HAProxy only.
    readers: BTreeSet<usize>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Lb {
        balancer: Balancer,
        /// How far its log was read, in bytes.
        read: u64,
        reader: LogReader,
    },
    Haproxy {
        journal: Collection<String>,
        /// How many of its lines were read.
        read: usize,
        process: Process,
    },
}

impl Lane {
    /// Starts `way` on `host`. Does not wait for it to decide anything.
    pub fn start(lab: &Lab, host: &Namespace, way: Way) -> Result<Self> {
        let kind = match way {
            Way::Push | Way::Poll => start_lb(lab, host, way)?,
            Way::Tuned | Way::Usual => start_haproxy(lab, host, way)?,
        };
        // HAProxy takes every server for UP until it has checked it.
        let at_first: BTreeSet<usize> = match way {
            Way::Push | Way::Poll => BTreeSet::new(),
            Way::Tuned | Way::Usual => (1..=lab.nodes().len()).collect(),
        };
        Ok(Self {
            way,
            decisions: Vec::new(),
            writers: at_first.clone(),
            readers: at_first,
            kind,
        })
    }

    /// Takes in what was logged since.
    ///
    /// # Errors
    /// The balancer has ended, or its log cannot be read.
    pub fn refresh(&mut self) -> Result<()> {
        let mut said = Vec::new();
        match &mut self.kind {
            Kind::Lb {
                balancer,
                read,
                reader,
            } => {
                if let Some(status) = balancer.exit_status() {
                    bail!("lb ended ({status}):\n{}", balancer.output());
                }
                let clock = Clock::now();
                for line in new_lines(balancer.log(), read)? {
                    said.extend(reader.read(clock, &line));
                }
            }
            Kind::Haproxy {
                journal,
                read,
                process,
            } => {
                if let Some(status) = process.exit_status() {
                    bail!("haproxy ended ({status}):\n{}", process.last_lines(5));
                }
                for (at, line) in journal.beyond(*read) {
                    *read += 1;
                    match haproxy(&line) {
                        Some(("write", word)) => said.push(Decision {
                            word,
                            decided: at,
                            done: at,
                        }),
                        Some((_, word)) => enter(&mut self.readers, word),
                        None => {}
                    }
                }
            }
        }
        for decision in said {
            enter(&mut self.writers, decision.word);
            self.decisions.push(decision);
        }
        Ok(())
    }

    /// Waits until writes go to `leader` and nobody else.
    pub fn wait_for_writer(&mut self, leader: usize, patience: Duration) -> Result<()> {
        self.wait("writes to it alone", patience, |lane| {
            lane.refresh()?;
            Ok(lane.writers == BTreeSet::from([leader]))
        })
        .with_context(|| format!("n{leader} leads"))
    }

    /// Waits until reads go to these nodes and nobody else.
    pub fn wait_for_readers(&mut self, nodes: &BTreeSet<usize>, patience: Duration) -> Result<()> {
        self.wait("reads from all of them", patience, |lane| {
            lane.refresh()?;
            let Kind::Lb { balancer, .. } = &lane.kind else {
                return Ok(lane.readers == *nodes);
            };
            let status = balancer.status()?;
            let names = nodes.iter().map(|id| format!("n{id}"));
            let mut targets = status.targets(READ_SERVICE);
            targets.sort_unstable();
            Ok(targets.into_iter().eq(names))
        })
        .with_context(|| format!("{nodes:?} are replicas"))
    }

    fn wait(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let outcome = wait_for(patience, || match holds(self) {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        outcome.unwrap_or_else(|| {
            let (name, writers, readers) = (self.way.name(), &self.writers, &self.readers);
            bail!("{name}: no {what} within {patience:?}; writers {writers:?}, readers {readers:?}")
        })
    }

    /// What it decided since `moment`.
    pub fn decisions_since(&self, moment: Instant) -> Vec<Decision> {
        let all = self.decisions.iter();
        all.filter(|decision| decision.done >= moment)
            .copied()
            .collect()
    }
}

fn enter(nodes: &mut BTreeSet<usize>, word: Word) {
    match word {
        Word::Takes(node) => drop(nodes.insert(node)),
        Word::Loses(node) => drop(nodes.remove(&node)),
    }
}

fn start_lb(lab: &Lab, host: &Namespace, way: Way) -> Result<Kind> {
    let mut balancer = Balancer::on_host(lab, host, way.slug(), &lb_toml(lab, way))?;
    balancer.set_log_filter("info,lb=debug");
    balancer.start_again()?;
    balancer.wait_until_serving(PATIENCE)?;
    Ok(Kind::Lb {
        balancer,
        read: 0,
        reader: LogReader::default(),
    })
}

fn start_haproxy(lab: &Lab, host: &Namespace, way: Way) -> Result<Kind> {
    let (run, name) = (lab.run_directory(), way.slug());
    let mut ip = Command::new("ip");
    ip.args(["addr", "add", &format!("{}/32", way.vip()), "dev", NIC]);
    let mut ip = host.spawn(ip, &run.join("setup.log"))?;
    let status = wait_for(PATIENCE, || ip.exit_status()).context("`ip` does not end")?;
    ensure!(status.success(), "{}", ip.last_lines(5));

    let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    let log = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr()?.port());
    let mut journal = Collection::empty();
    journal.listen(host, move |listener: &Listener<String>| {
        let mut datagram = [0; 2048];
        while listener.wanted() {
            if let Ok(length) = socket.recv(&mut datagram) {
                listener.note(String::from_utf8_lossy(&datagram[..length]).into_owned());
            }
        }
    });
    let file = run.join(format!("haproxy-{name}.cfg"));
    fs::write(&file, haproxy_cfg(lab, way, log))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let process = host.spawn(command, &run.join(format!("haproxy-{name}.log")))?;
    Ok(Kind::Haproxy {
        journal,
        read: 0,
        process,
    })
}

/// The whole lines that a file has beyond `read` bytes.
fn new_lines(path: &Path, read: &mut u64) -> Result<Vec<String>> {
    let mut text = Vec::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.seek(SeekFrom::Start(*read))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n');
    text.truncate(whole.map_or(0, |last| last + 1));
    *read += text.len() as u64;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().map(str::to_owned).collect())
}
