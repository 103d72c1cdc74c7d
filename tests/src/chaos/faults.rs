//! Carries a [schedule](super::schedule) out on a deployment, and undoes it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::history::{Clock, Incident};
use super::schedule::{Fault, Step, Victim};
use crate::cluster;
use crate::deployment::Deployment;
use crate::http::Connection;
use crate::lab::ip;
use crate::patience::{interrupted, pause};

/// A node that stutters stands still for so long …
const STILL: Duration = Duration::from_millis(60);
/// … each time that so much time has passed.
const STUTTER: Duration = Duration::from_millis(100);
/// The configuration's check interval, and another one.
const USUAL: &str = "interval = \"100ms\"";
const SLOWER: &str = "interval = \"120ms\"";
/// How the read service, which is the file's last, chooses in that one.
const RANDOM: &str = "algorithm = \"random\"\n";
/// How long a leader may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What can be struck by one fault at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Node(usize),
    Balancer,
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(out, "n{id}"),
            Self::Balancer => out.write_str("the balancer"),
        }
    }
}

/// What is still to happen.
#[derive(Debug, Clone, Copy)]
enum Event {
    Strike(Step),
    /// A node that stutters stands still, or goes on.
    Pulse(usize, Signal),
    Undo(Undo),
}

/// How a fault ends.
#[derive(Debug, Clone, Copy)]
enum Undo {
    Start(usize),
    Thaw(usize),
    Rejoin(usize),
    Mend(usize, usize),
    Plug(Part),
    StartAgent,
    ThawAgent,
}

impl Undo {
    /// What is whole again after it.
    fn parts(self) -> Vec<Part> {
        match self {
            Self::Start(id) | Self::Thaw(id) | Self::Rejoin(id) => vec![Part::Node(id)],
            Self::Mend(one, other) => vec![Part::Node(one), Part::Node(other)],
            Self::Plug(part) => vec![part],
            Self::StartAgent | Self::ThawAgent => vec![Part::Balancer],
        }
    }
}

/// A deployment that things happen to.
pub struct Strikes<'a> {
    deployment: &'a mut Deployment,
    clock: Clock,
    struck: BTreeSet<Part>,
    /// In any order.
    events: Vec<(Duration, Event)>,
    /// What happened.
    pub incidents: Vec<Incident>,
    tell: &'a mut dyn FnMut(&str),
}

impl<'a> Strikes<'a> {
    /// All of `steps`, nothing of which has happened yet. `tell` is told of
    /// each as it happens.
    pub fn new(
        deployment: &'a mut Deployment,
        steps: &[Step],
        clock: Clock,
        tell: &'a mut dyn FnMut(&str),
    ) -> Self {
        let events = steps.iter().map(|&step| (step.at, Event::Strike(step)));
        Self {
            deployment,
            clock,
            struck: BTreeSet::new(),
            events: events.collect(),
            incidents: Vec::new(),
            tell,
        }
    }

    /// Carries all of them out, from now on; returns when all are undone.
    ///
    /// # Errors
    /// If a node or the agent ends without being told to.
    pub fn carry_out(&mut self) -> Result<()> {
        let start = Instant::now();
        while let Some((at, event)) = self.take_next() {
            pause((start + at).saturating_duration_since(Instant::now()));
            if interrupted() {
                bail!("interrupted");
            }
            match event {
                Event::Strike(step) => self.strike(step, at)?,
                Event::Pulse(id, signal) => self.deployment.cluster.signal(id, signal)?,
                Event::Undo(undo) => self.undo(undo)?,
            }
            self.all_live()?;
        }
        Ok(())
    }

    fn take_next(&mut self) -> Option<(Duration, Event)> {
        let events = self.events.iter().enumerate();
        let (next, _) = events.min_by_key(|(_, (at, _))| *at)?;
        Some(self.events.remove(next))
    }

    /// Those that are to live do.
    fn all_live(&mut self) -> Result<()> {
        let Deployment {
            balancer, cluster, ..
        } = &mut *self.deployment;
        if let Some(&id) = cluster.take_dead().first() {
            let log = cluster.last_lines(id, 20);
            bail!("n{id} ended by itself; its log ends:\n{log}");
        }
        if let Some(status) = balancer.exit_status() {
            bail!("lb ended by itself ({status}):\n{}", balancer.output());
        }
        Ok(())
    }

    fn note(&mut self, what: impl Into<String>) {
        let at = self.clock.now();
        let what = what.into();
        (self.tell)(&format!("{:8.3} s  {what}", at as f64 / 1e9));
        self.incidents.push(Incident { at, what });
    }

    fn strike(&mut self, step: Step, at: Duration) -> Result<()> {
        let end = at + step.lasts;
        let undo = match step.fault {
            Fault::Kill(victim) => self.of_node("SIGKILL", victim, |it, id| {
                it.cluster.kill(id)?;
                Ok(Undo::Start(id))
            })?,
            Fault::Leave(victim) => self.of_node("SIGTERM", victim, |it, id| {
                it.cluster.terminate(id)?;
                Ok(Undo::Start(id))
            })?,
            Fault::Freeze(victim) => self.of_node("SIGSTOP", victim, |it, id| {
                it.cluster.freeze(id)?;
                Ok(Undo::Thaw(id))
            })?,
            Fault::Stutter(victim) => self.stutter(victim, at, end)?,
            Fault::Isolate(victim) => self.of_node("isolated", victim, |it, id| {
                it.lab.isolate(id)?;
                Ok(Undo::Rejoin(id))
            })?,
            Fault::Sever(victim) => self.sever(victim)?,
            Fault::Unplug(victim) => self.of_node("link down", victim, |it, id| {
                set_link(it, Part::Node(id), "down")?;
                Ok(Undo::Plug(Part::Node(id)))
            })?,
            Fault::KillAgent => self.of_balancer("SIGKILL of lb", |it| {
                it.balancer.kill()?;
                Ok(Undo::StartAgent)
            })?,
            Fault::FreezeAgent => self.of_balancer("SIGSTOP of lb", |it| {
                it.balancer.signal(Signal::STOP)?;
                Ok(Undo::ThawAgent)
            })?,
            Fault::UnplugBalancer => self.of_balancer("link of the balancer down", |it| {
                set_link(it, Part::Balancer, "down")?;
                Ok(Undo::Plug(Part::Balancer))
            })?,
            Fault::Reload => return self.reload(),
            Fault::HandOver => return self.hand_over(),
            Fault::KillAll => return self.kill_all(end),
        };
        self.events
            .extend(undo.map(|undo| (end, Event::Undo(undo))));
        Ok(())
    }

    /// Does something to a node that nothing is done to at the moment.
    fn of_node(
        &mut self,
        what: &str,
        victim: Victim,
        strike: impl FnOnce(&mut Deployment, usize) -> Result<Undo>,
    ) -> Result<Option<Undo>> {
        let Some(id) = self.find(victim) else {
            self.note(format!("{what}: no node is left for it"));
            return Ok(None);
        };
        self.note(format!("n{id}: {what} ({victim:?})"));
        let undo = strike(self.deployment, id)?;
        self.struck.extend(undo.parts());
        Ok(Some(undo))
    }

    fn of_balancer(
        &mut self,
        what: &str,
        strike: impl FnOnce(&mut Deployment) -> Result<Undo>,
    ) -> Result<Option<Undo>> {
        if self.struck.contains(&Part::Balancer) {
            self.note(format!("{what}: left out, something is done to it already"));
            return Ok(None);
        }
        self.note(what);
        let undo = strike(self.deployment)?;
        self.struck.extend(undo.parts());
        Ok(Some(undo))
    }

    /// The node that is meant, or else the next that nothing is done to.
    fn find(&self, victim: Victim) -> Option<usize> {
        let nodes = self.deployment.cluster.ids();
        let first = match victim {
            Victim::Node(id) => id,
            Victim::Leader => self.deployment.cluster.leader().unwrap_or(1),
        };
        let count = *nodes.end();
        let mut turn = (0..count).map(|step| (first - 1 + step) % count + 1);
        turn.find(|&id| !self.struck.contains(&Part::Node(id)))
    }

    fn stutter(&mut self, victim: Victim, at: Duration, end: Duration) -> Result<Option<Undo>> {
        let undo = self.of_node("stutters", victim, |_, id| Ok(Undo::Thaw(id)))?;
        if let Some(Undo::Thaw(id)) = undo {
            let mut at = at;
            while at + STILL < end {
                self.events.push((at, Event::Pulse(id, Signal::STOP)));
                self.events
                    .push((at + STILL, Event::Pulse(id, Signal::CONT)));
                at += STUTTER;
            }
        }
        Ok(undo)
    }

    fn sever(&mut self, victim: Victim) -> Result<Option<Undo>> {
        let one = self.find(victim);
        let Some(one) = one else {
            self.note("severed: no node is left for it");
            return Ok(None);
        };
        let nodes = self.deployment.cluster.ids();
        let mut others = nodes.filter(|&id| id != one && !self.struck.contains(&Part::Node(id)));
        let Some(other) = others.next() else {
            self.note(format!("n{one}: severed: no other node is left for it"));
            return Ok(None);
        };
        self.note(format!("n{one} and n{other}: severed ({victim:?})"));
        self.deployment.lab.sever(one, other)?;
        let undo = Undo::Mend(one, other);
        self.struck.extend(undo.parts());
        Ok(Some(undo))
    }

    /// Between two configurations, whose checks and whose choice of a replica
    /// differ.
    fn reload(&mut self) -> Result<()> {
        if self.struck.contains(&Part::Balancer) {
            self.note("reload: left out, something is done to the balancer already");
            return Ok(());
        }
        let balancer = &mut self.deployment.balancer;
        let file = balancer.configuration().to_owned();
        let toml = fs::read_to_string(&file)?;
        let other = match toml.strip_suffix(RANDOM) {
            Some(rest) => rest.replace(SLOWER, USUAL),
            None => toml.replace(USUAL, SLOWER) + RANDOM,
        };
        fs::write(&file, other)?;
        // An agent that starts has no ear for it yet, and reads the file anyway.
        let reloaded = match balancer.status() {
            Ok(_) => balancer.reload().context("the reload was refused")?,
            Err(error) => format!("not now: {error:#}"),
        };
        self.note(format!("reload: {}", reloaded.trim_end()));
        Ok(())
    }

    /// What comes of it, the leader says: it may have died meanwhile.
    fn hand_over(&mut self) -> Result<()> {
        let Some(leader) = self.deployment.cluster.leader() else {
            self.note("hand over: nobody leads");
            return Ok(());
        };
        let answer = self.deployment.lab.client().enter(|| {
            Connection::open(cluster::api(leader), HAND_OVER)?.request("POST", "/transfer", None)
        });
        let came_of_it = match answer {
            Ok(answer) => format!("{} {}", answer.status, answer.json()),
            Err(error) => error.to_string(),
        };
        self.note(format!("n{leader}: hand over: {came_of_it}"));
        Ok(())
    }

    fn kill_all(&mut self, end: Duration) -> Result<()> {
        let nodes = self.deployment.cluster.ids();
        let left: Vec<usize> = nodes
            .filter(|&id| !self.struck.contains(&Part::Node(id)))
            .collect();
        self.note(format!("SIGKILL of all that is left: {left:?}"));
        for id in left {
            self.deployment.cluster.kill(id)?;
            self.struck.insert(Part::Node(id));
            self.events.push((end, Event::Undo(Undo::Start(id))));
        }
        Ok(())
    }

    fn undo(&mut self, undo: Undo) -> Result<()> {
        let parts = undo.parts();
        let shown: Vec<String> = parts.iter().map(ToString::to_string).collect();
        self.note(format!("{}: over ({undo:?})", shown.join(" and ")));
        let Deployment {
            balancer,
            cluster,
            lab,
        } = &mut *self.deployment;
        match undo {
            Undo::Start(id) => cluster.start_node(id),
            Undo::Thaw(id) => cluster.thaw(id),
            Undo::Rejoin(id) => lab.rejoin(id),
            Undo::Mend(one, other) => lab.mend(one, other),
            Undo::Plug(part) => set_link(self.deployment, part, "up"),
            Undo::StartAgent => balancer.start_again(),
            Undo::ThawAgent => balancer.signal(Signal::CONT),
        }
        .with_context(|| format!("cannot undo {undo:?}"))?;
        self.struck.retain(|part| !parts.contains(part));
        Ok(())
    }
}

/// The switch's port of one of them.
fn set_link(it: &Deployment, part: Part, state: &str) -> Result<()> {
    let port = match part {
        Part::Node(id) => format!("n{id}"),
        Part::Balancer => "balancer".to_owned(),
    };
    ip::batch(
        it.lab.switch().name(),
        &[format!("link set {port} {state}")],
    )
}
