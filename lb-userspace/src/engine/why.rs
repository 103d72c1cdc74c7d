//! Why a server is what it is, and gets what it gets: in sentences, for
//! `lb explain`.

use std::time::Instant;

use crate::config::{Route, Service};
use crate::engine::agent::Agent;
use crate::engine::circuit::Circuit;
use crate::engine::event::Role;
use crate::engine::health::Phase;
use crate::engine::member::Member;
use crate::engine::pool::Pool;
use crate::engine::route::{Standing, Usability};

/// Everything that speaks for or against a server, each in one sentence: its
/// own state first, then service by service.
#[must_use]
pub fn explain(agent: &Agent, pool: &Pool, member: &Member, now: Instant) -> Vec<String> {
    let mut why = vec![health(pool, member)];
    if let Some((report, at)) = &member.check {
        let detail = match &report.detail[..] {
            "" => String::new(),
            detail => format!(": {detail}"),
        };
        let ago = now.saturating_duration_since(*at);
        why.push(format!(
            "last check: {}{detail}, {ago:.1?} ago",
            report.outcome.code()
        ));
    }
    why.extend(role(pool, member));
    if member.server.agent_address.is_some() {
        why.push(match &member.agent_trouble {
            Some(trouble) => format!(
                "agent: {trouble}; what it said before stands: {}",
                member.advice
            ),
            None => format!("agent: {}", member.advice),
        });
    }
    why.extend(circuit(pool, member, now));
    if let Some(left) = member.warmth.left(now) {
        let percent = pool.warmth(member);
        why.push(format!(
            "slow start: gets {percent} % of its share, all of it in {left:.0?}"
        ));
    }
    match &member.watch {
        Some(Ok(())) => why.push("watch: it tells of changes by itself".to_owned()),
        Some(Err(trouble)) => why.push(format!("watch: lost, tried again: {trouble}")),
        None => {}
    }
    let standings = pool.standings();
    if let Some(standing) = standings
        .iter()
        .find(|one| one.server == member.server.address)
    {
        let services = agent.config.services.values();
        let services = services.filter(|service| service.pool == pool.name);
        why.extend(services.map(|service| verdict(agent, service, standing)));
    }
    why
}

fn health(pool: &Pool, member: &Member) -> String {
    let (rise, fall) = (pool.rise(), pool.fall());
    match member.phase {
        Phase::Unchecked => "checks: none has ended yet".to_owned(),
        Phase::Up { failures: 0 } => "checks: UP".to_owned(),
        Phase::Up { failures } => {
            format!("checks: UP; {failures} failed in a row, {fall} make it DOWN")
        }
        Phase::Down { passes } => {
            format!("checks: DOWN; {passes} passed in a row, {rise} make it UP")
        }
    }
}

fn role(pool: &Pool, member: &Member) -> Option<String> {
    let said = member.said.as_ref()?;
    let term = said.term.map(|term| format!(" in term {term}"));
    let granted = pool.leader().map(|(leader, _)| leader.server.address);
    let refused = match said.role {
        Role::Leader if granted != Some(member.server.address) => ", which is not accepted",
        Role::Leader | Role::Replica | Role::Unknown => "",
    };
    let lag = member.lag.map(|lag| match pool.is_lagging(member) {
        true => format!(", {lag} behind, which is too far"),
        false => format!(", {lag} behind"),
    });
    let (term, lag) = (term.unwrap_or_default(), lag.unwrap_or_default());
    Some(format!("role: it says {}{term}{refused}{lag}", said.role))
}

fn circuit(pool: &Pool, member: &Member, now: Instant) -> Option<String> {
    match &member.circuit {
        Circuit::Closed { failures } if failures.is_empty() => None,
        Circuit::Closed { failures } => Some(format!(
            "circuit: closed; {} clients' connections failed lately, {} open it",
            failures.len(),
            pool.error_limit()
        )),
        Circuit::Open { until } => {
            let left = until.saturating_duration_since(now);
            Some(format!(
                "circuit: open, too many clients' connections failed; probes may close it in {left:.0?}"
            ))
        }
        Circuit::HalfOpen { passes } => Some(format!(
            "circuit: half-open; {passes} checks passed in a row, {} close it",
            pool.rise()
        )),
    }
}

/// Whether a service gives the server new connections, and why not.
fn verdict(agent: &Agent, service: &Service, standing: &Standing) -> String {
    let name = &service.name;
    let serving = agent.serving.get(&service.listen);
    let serves = serving.is_some_and(|serving| !serving.is_empty());
    let targets = serving.into_iter().flatten();
    let mut targets = targets.filter_map(|id| agent.installed.targets.get(id));
    if targets.any(|target| target.server == standing.server) {
        return format!("service {name}: gets new connections");
    }
    let reason = match (standing.usability, service.route) {
        (Usability::Unchecked, _) => "not checked yet",
        (Usability::Down, _) => "DOWN",
        (Usability::Maint, _) => "MAINT",
        (Usability::Leaving, _) => "it is to be left",
        (Usability::Resting, _) => "its agent gives it no weight",
        (Usability::Up, Route::Leader) if standing.role != Role::Leader => "not the leader",
        (Usability::Up, Route::Replicas | Route::ReplicasFirst)
            if standing.role == Role::Unknown =>
        {
            "no replica"
        }
        (Usability::Up, Route::Replicas) if standing.role == Role::Leader => "the leader",
        (Usability::Up, Route::ReplicasFirst) if standing.role == Role::Leader => {
            "the leader, and there are replicas"
        }
        (Usability::Up, _) if standing.lagging => "too far behind the leader, or does not tell",
        (Usability::Up, _) if standing.tripped => "its circuit is open",
        (Usability::Up, _) if standing.backup && serves => "a backup, and others serve",
        (Usability::Up, _) => "the way to it is not known",
    };
    format!("service {name}: gets no new connections: {reason}")
}
