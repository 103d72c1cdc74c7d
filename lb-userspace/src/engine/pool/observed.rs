//! What a pool does with what is observed of its servers: checks, lines that
//! they send by themselves, their agents, their clients' connections.

use std::net::SocketAddr;
use std::time::Instant;

use super::Pool;
use crate::config::{Observe, ServerName};
use crate::engine::action::Action;
use crate::engine::advice::AgentReport;
use crate::engine::event::{BackendFailure, CheckReport, RoleClaim, WatchReport};
use crate::engine::member::{Member, claim_in, is_news, left_of};
use crate::engine::roles::Claim;

impl Pool {
    /// Takes in a check that found what the one before it found, where nothing
    /// can come of that: what most checks do, whose cost is paid for every
    /// server at every interval. Gives back any other, which is yet to be taken in.
    pub fn confirm(
        &mut self,
        now: Instant,
        name: &ServerName,
        report: CheckReport,
    ) -> Option<CheckReport> {
        match self.index_of(name).map(|index| &mut self.members[index]) {
            Some(member) if member.is_confirmed_by(&report) => {
                member.fresh = now;
                member.asked = false;
                member.check = Some((report, now));
                None
            }
            Some(_) | None => Some(report),
        }
    }

    /// Takes in what a check found.
    pub fn report(&mut self, now: Instant, name: &ServerName, report: CheckReport) -> Vec<Action> {
        let Some(index) = self.index_of(name) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        let evidence = report.outcome.evidence();
        let passed = report.outcome.passed();
        let member = &mut self.members[index];
        member.fresh = now;
        member.asked = false;
        // What it told since the check began may be newer than what it says
        // here: then this takes away and gives nothing, as a line does.
        let late = member.pushed.is_some_and(|pushed| report.began < pushed);
        let claim = match &report.role {
            None => member.claim,
            Some(said) if passed && !late => claim_in(said),
            Some(said) => left_of(member.claim, said),
        };
        let unsettled = late
            && report
                .role
                .as_ref()
                .is_some_and(|said| is_news(claim, said));
        self.take(index, claim, report.role.as_ref());
        let mut hint = self.hear_of(index, report.role.as_ref());
        // It may tell its lag no more.
        if let Some(said) = report.role.as_ref().filter(|_| passed && !late) {
            self.members[index].lag = said.lag;
        }
        if unsettled {
            hint.push(index);
        }
        let (thresholds, breaker) = (self.rules.thresholds, self.rules.breaker);
        let member = &mut self.members[index];
        if !late {
            member.said = report.role.clone();
        }
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
            // Its connection ends with its process. Those that come after are
            // attempts to be heard again.
            WatchReport::Lost(why) => {
                if let Some(Ok(())) = member.watch.replace(Err(why)) {
                    self.ask(index, &mut actions);
                }
                return actions;
            }
            WatchReport::Line(said) => said,
        };
        member.watch = Some(Ok(()));
        member.pushed = Some(now);
        if !is_news(member.claim, &said) {
            return actions;
        }
        let claim = left_of(member.claim, &said);
        self.take(index, claim, Some(&said));
        let mut hint = self.hear_of(index, Some(&said));
        hint.push(index);
        self.members[index].said = Some(said);
        self.settle(now, None, &mut actions);
        for server in hint {
            self.ask(server, &mut actions);
        }
        actions
    }

    /// Holds a server to a claim, by what it said, and lets the fence hear that.
    /// Only whom we hold for the leader is spared to depose itself: the newer
    /// term that it tells of counts when it claims it.
    fn take(&mut self, index: usize, claim: Claim, said: Option<&RoleClaim>) {
        self.members[index].claim = claim;
        let leads = self.leader.is_some_and(|(leader, _)| leader == index);
        let says = said.map_or(Claim::Unknown, claim_in);
        let spared = leads && matches!(says, Claim::Leader { .. }) && claim != says;
        if !spared {
            self.fence.hear(says);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::event::Event;
    use crate::engine::fixtures::{Says, behind, checked, line, pool, server};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Check(u8, Says, Duration, Option<u64>),
        Line(u8, Says, Option<u64>),
        Failure(u8),
        Wait,
    }

    fn step() -> impl Strategy<Value = Step> {
        let term = || prop::option::of(5..7_u64);
        let says = || {
            prop_oneof![
                2 => term().prop_map(Says::Leads),
                4 => term().prop_map(Says::Follows),
                1 => term().prop_map(Says::Neither),
                1 => Just(Says::Nothing),
                1 => Just(Says::Refuses),
                1 => term().prop_map(Says::LeadsStuck),
            ]
        };
        let number = || 1..4_u8;
        let lag = || prop_oneof![4 => Just(Some(0)), 1 => Just(None)];
        let delay = (0..3_u64).prop_map(Duration::from_millis);
        prop_oneof![
            10 => (number(), says(), delay, lag()).prop_map(|(n, says, delay, lag)| Step::Check(n, says, delay, lag)),
            2 => (number(), says(), lag()).prop_map(|(n, says, lag)| Step::Line(n, says, lag)),
            1 => number().prop_map(Step::Failure),
            1 => Just(Step::Wait),
        ]
    }

    proptest! {
        /// The short way comes to what the long way comes to.
        #[test]
        fn a_check_that_confirms_changes_nothing(
            steps in prop::collection::vec((step(), 1..4_usize), 1..80),
        ) {
            let mut now = Instant::now();
            let mut config = pool();
            config.check.observe = Observe::Layer4;
            config.check.breaker.error_limit = 2;
            config.check.breaker.open_time = Duration::from_millis(20);
            let mut pool = Pool::new(&config, now);
            let mut confirmed = 0;
            // The same again and again, as it is in life.
            for step in steps.iter().flat_map(|&(step, times)| std::iter::repeat_n(step, times)) {
                now += Duration::from_millis(1);
                let event = match step {
                    Step::Check(number, says, delay, lag) => {
                        behind(checked(now - delay, number, says), lag)
                    }
                    Step::Line(number, says, lag) => behind(line(number, says), lag),
                    Step::Failure(number) => {
                        pool.failed(now, server(number), BackendFailure::Refused);
                        continue;
                    }
                    Step::Wait => {
                        now += Duration::from_millis(300);
                        pool.expire(now, now);
                        continue;
                    }
                };
                match event {
                    Event::Checked { server, report, .. } => {
                        let mut long = pool.clone();
                        let actions = long.report(now, &server, report.clone());
                        match pool.confirm(now, &server, report) {
                            None => {
                                confirmed += 1;
                                prop_assert_eq!(actions, []);
                                prop_assert_eq!(format!("{pool:?}"), format!("{long:?}"));
                            }
                            Some(_) => pool = long,
                        }
                    }
                    Event::Watched { server, report, .. } => drop(pool.watched(now, &server, report)),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            // Else this compares nothing.
            prop_assert!(confirmed > 0 || steps.len() < 60);
        }
    }
}
