//! What the agent does in the situations that it exists for: one test, one
//! sentence. Virtual time throughout.

mod discovery;
mod health;
mod leadership;
mod reloads;
mod restarts;
mod services;
mod shares;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lb_common::target::TargetId;

use super::fixtures::*;
use super::{Action, Agent, Event, Installed, Notice, Op, Pace, TICK};
use crate::api::{ServerState, ServiceState};
use crate::config::{Algorithm, Config, OnChange, Route, Service};
use Says::{Follows, Leads, LeadsStuck, LeadsUnready, Neither, Nothing, Refuses};

const WRITE: u16 = 8080;
const READ: u16 = 8081;
const DRAIN: Duration = Service::DRAIN_TIMEOUT;

/// An agent, and the time that it is told.
struct Stage {
    agent: Agent,
    now: Instant,
}

impl Stage {
    /// Everything is known but what the servers say.
    fn new(config: Config) -> Self {
        Self::adopting(config, Installed::default())
    }

    fn adopting(config: Config, installed: Installed) -> Self {
        let now = Instant::now();
        let (agent, _) = Agent::new(config, installed, now);
        let mut stage = Self { agent, now };
        for number in 1..=3 {
            stage.sees(resolved(number));
        }
        stage
    }

    /// n1 leads in term 5, n2 and n3 follow.
    fn settled(config: Config) -> Self {
        let mut stage = Self::new(config);
        stage.hears(1, Leads(Some(5)));
        stage.hears(2, Follows(Some(5)));
        stage.hears(3, Follows(Some(5)));
        assert_eq!(stage.writer(), Some(1));
        stage
    }

    fn sees(&mut self, event: Event) -> Vec<Action> {
        self.agent.handle(self.now, event)
    }

    fn hears(&mut self, number: u8, says: Says) -> Vec<Action> {
        self.sees(checked(self.now, number, says))
    }

    /// Lets time pass without a word from anybody.
    fn wait(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut actions = Vec::new();
        while self.now < end {
            self.now += TICK.min(end - self.now);
            actions.extend(self.sees(Event::Tick));
        }
        actions
    }

    fn targets(&self, port: u16) -> Vec<u8> {
        let installed = self.agent.installed();
        let servers = installed
            .selectable(vip(port))
            .into_iter()
            .map(|id| installed.targets[&id].server);
        let numbers = servers.map(|address| (1..=3).find(|&n| server(n) == address).unwrap());
        numbers.collect::<BTreeSet<u8>>().into_iter().collect()
    }

    fn writer(&self) -> Option<u8> {
        let targets = self.targets(WRITE);
        assert!(targets.len() <= 1, "{targets:?}");
        targets.first().copied()
    }

    fn id(&self, port: u16, number: u8) -> TargetId {
        let installed = self.agent.installed();
        let service = installed.services[&vip(port)].id;
        let mut targets = installed.targets.iter();
        let found = targets
            .find(|(_, target)| target.service == service && target.server == server(number));
        *found.unwrap().0
    }

    fn problem(&self) -> Option<String> {
        self.agent.status(self.now).pools[0].problem.clone()
    }
}

fn ops(actions: &[Action]) -> Vec<Op> {
    let plans = actions.iter().filter_map(|action| match action {
        Action::Apply(ops) => Some(ops.clone()),
        Action::CheckNow { .. }
        | Action::Pace { .. }
        | Action::Hold(_)
        | Action::Inquire { .. }
        | Action::Follow { .. }
        | Action::Notice(_) => None,
    });
    plans.flatten().collect()
}

fn cuts(actions: &[Action]) -> Vec<TargetId> {
    let cuts = ops(actions).into_iter().filter_map(|op| match op {
        Op::Cut { id } => Some(id),
        _ => None,
    });
    cuts.collect()
}

fn asked(actions: &[Action]) -> Vec<String> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::CheckNow { server, .. } => Some(server.to_string()),
        Action::Apply(_)
        | Action::Pace { .. }
        | Action::Hold(_)
        | Action::Inquire { .. }
        | Action::Follow { .. }
        | Action::Notice(_) => None,
    });
    asked.collect()
}

fn problems(actions: &[Action]) -> Vec<Option<String>> {
    let problems = actions.iter().filter_map(|action| match action {
        Action::Notice(Notice::Problem { problem, .. }) => Some(problem.clone()),
        _ => None,
    });
    problems.collect()
}
