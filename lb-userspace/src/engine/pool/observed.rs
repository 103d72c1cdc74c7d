//! What a pool does with what is observed of its servers: checks, lines that
//! they send by themselves, their agents, their clients' connections.

use std::net::SocketAddr;
use std::time::Instant;

use super::Pool;
use crate::config::{Observe, ServerName};
use crate::engine::action::Action;
use crate::engine::advice::AgentReport;
use crate::engine::event::{BackendFailure, CheckReport, RoleClaim, WatchReport};
use crate::engine::member::{Member, after_check, after_line, is_news};

impl Pool {
    /// Takes in what a check found.
    pub fn report(&mut self, now: Instant, name: &ServerName, report: CheckReport) -> Vec<Action> {
        let Some(index) = self.index_of(name) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        let evidence = report.outcome.evidence();
        let member = &mut self.members[index];
        member.fresh = now;
        member.asked = false;
        // What it told since the check began may be newer than what it says
        // here: then this takes away and gives nothing, as a line does.
        let began = now.checked_sub(report.took).unwrap_or(now);
        let late = member.pushed.is_some_and(|pushed| began < pushed);
        let (claim, heard) = match &report.role {
            Some(said) if late => after_line(member.claim, said),
            said => after_check(member.claim, evidence, said.as_ref()),
        };
        let unsettled = late
            && report
                .role
                .as_ref()
                .is_some_and(|said| is_news(claim, said));
        member.claim = claim;
        self.fence.hear(heard);
        let mut hint = self.hear_of(index, report.role.as_ref());
        if unsettled {
            hint.push(index);
        }
        let (thresholds, breaker) = (self.rules.thresholds, self.rules.breaker);
        let member = &mut self.members[index];
        if !late {
            member.said = report.role.clone();
        }
        let passed = report.outcome.passed();
        member.check = Some((report, now));
        let circuit = std::mem::take(&mut member.circuit);
        member.circuit = circuit.probed(now, passed, thresholds.rise, &breaker);
        let phase = member.phase.after(evidence, thresholds);
        self.enter(now, index, phase, &mut actions);
        self.settle(now, Some(index), &mut actions);
        self.follow_up(&hint, &mut actions);
        actions
    }

    /// Takes in what a server told by itself.
    pub fn watched(&mut self, now: Instant, name: &ServerName, report: WatchReport) -> Vec<Action> {
        let Some(index) = self.index_of(name) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        let member = &mut self.members[index];
        let said = match report {
            WatchReport::Lost(why) => {
                member.watch = Some(Err(why));
                return actions;
            }
            WatchReport::Line(said) => said,
        };
        member.watch = Some(Ok(()));
        member.pushed = Some(now);
        if !is_news(member.claim, &said) {
            return actions;
        }
        let (claim, heard) = after_line(member.claim, &said);
        member.claim = claim;
        self.fence.hear(heard);
        let mut hint = self.hear_of(index, Some(&said));
        hint.push(index);
        self.members[index].said = Some(said);
        self.settle(now, None, &mut actions);
        for server in hint {
            self.ask(server, &mut actions);
        }
        actions
    }

    /// Takes in what a server's agent answered, or why it did not: which is no
    /// fault of the server's, and changes nothing.
    pub fn advised(
        &mut self,
        now: Instant,
        name: &ServerName,
        report: Result<AgentReport, String>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(index) = self.index_of(name) {
            let member = &mut self.members[index];
            match report {
                Ok(report) => {
                    member.advice.take(&report);
                    member.agent_trouble = None;
                }
                Err(why) => member.agent_trouble = Some(why),
            }
            self.tell(now, index, &mut actions);
        }
        actions
    }

    /// Takes in that a client's connection to the server at `address` failed.
    pub fn failed(
        &mut self,
        now: Instant,
        address: SocketAddr,
        failure: BackendFailure,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut members = self.members.iter();
        let index = members.position(|member| member.server.address == address);
        let Some(index) = index else { return actions };
        match (self.rules.observe, failure) {
            // Any client can send a SYN twice: that alone is worth nothing.
            (Observe::None, BackendFailure::Unanswered) => return actions,
            (Observe::None, BackendFailure::Refused) => {}
            (Observe::Layer4, BackendFailure::Refused | BackendFailure::Unanswered) => {
                let member = &mut self.members[index];
                let circuit = std::mem::take(&mut member.circuit);
                member.circuit = circuit.failed(now, &self.rules.breaker);
                self.tell(now, index, &mut actions);
            }
        }
        self.ask(index, &mut actions);
        actions
    }

    /// Learns what a server says beside its role, and gives those whom it may
    /// take for the leader.
    fn hear_of(&mut self, index: usize, said: Option<&RoleClaim>) -> Vec<usize> {
        let Some(said) = said else { return Vec::new() };
        let member = &mut self.members[index];
        if said.node.is_some() {
            member.node.clone_from(&said.node);
        }
        member.lag = said.lag.or(member.lag);
        self.hint(index, said)
    }

    /// Asks whoever was taken for the leader and is not.
    fn follow_up(&mut self, hint: &[usize], actions: &mut Vec<Action>) {
        for &server in hint {
            if self.leader.is_none_or(|(leader, _)| leader != server) {
                self.ask(server, actions);
            }
        }
    }

    /// The servers that a report may have meant when it named a leader that
    /// its sender did not name before: the one that goes by that name, or else
    /// all whose node id is not known yet.
    fn hint(&self, reporter: usize, said: &RoleClaim) -> Vec<usize> {
        let Some(named) = said.leader.as_ref() else {
            return Vec::new();
        };
        let before = self.members[reporter].said.as_ref();
        if before.and_then(|said| said.leader.as_ref()) == Some(named) {
            return Vec::new();
        }
        let goes_by = |member: &Member| match &member.node {
            Some(node) => node == named,
            None => member.server.name.as_str() == named,
        };
        let mut others: Vec<usize> = (0..self.members.len())
            .filter(|&one| one != reporter)
            .collect();
        if self.members.iter().any(goes_by) {
            others.retain(|&one| goes_by(&self.members[one]));
        } else {
            others.retain(|&one| self.members[one].node.is_none());
        }
        others
    }
}
