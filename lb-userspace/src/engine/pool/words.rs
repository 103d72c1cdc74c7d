//! What an operator is told about a ruling.

use std::fmt::Write as _;

use super::Pool;
use crate::engine::event::Role;
use crate::engine::member::{Member, claim_in};
use crate::engine::roles::{Claim, Ruling};

impl Pool {
    /// Why a server that led is not held for the leader any more.
    pub(super) fn why_no_leader(&self, index: usize) -> String {
        let member = &self.members[index];
        match (&member.said, self.fence.seen()) {
            _ if !member.phase.is_up() => "it is DOWN".to_owned(),
            (Some(said), Some(seen))
                if said.role == Role::Leader && !self.fence.admits(said.term) =>
            {
                format!("term {seen} was seen")
            }
            (Some(said), _) if said.role != Role::Leader => {
                let term = said.term.map(|term| format!(" in term {term}"));
                format!("it says {}{}", said.role, term.unwrap_or_default())
            }
            (Some(_) | None, _) => "another server claims to lead, too".to_owned(),
        }
    }

    /// What an operator must know about a ruling, beyond who leads.
    pub(super) fn describe(&self, ruling: &Ruling) -> Option<String> {
        let name = |server: usize| self.members[server].server.name.as_str();
        let mut problem = match ruling {
            Ruling::Split { servers, term } => {
                let names: Vec<&str> = servers.iter().map(|&server| name(server)).collect();
                let names = names.join(" and ");
                let term = term.map_or("without a term".to_owned(), |term| {
                    format!("in term {term}")
                });
                format!("{names} claim to lead {term}: no writer until one of them gives way")
            }
            Ruling::Waiting { server } => {
                format!(
                    "{} claims to lead, but has not been UP for long enough",
                    name(*server)
                )
            }
            Ruling::Nobody => self.unproved().unwrap_or_default(),
            Ruling::Leader { .. } => String::new(),
        };
        for (index, member) in self.members.iter().enumerate() {
            let (Claim::Leader { term }, Some(seen)) = (member.claim, self.fence.seen()) else {
                continue;
            };
            if self.fence.admits(term) {
                continue;
            }
            let separator = if problem.is_empty() { "" } else { "; " };
            let term = term.map_or("without a term".to_owned(), |term| {
                format!("in term {term}")
            });
            // Writing to a String cannot fail.
            let _ = write!(
                problem,
                "{separator}{} claims to lead {term}, but term {seen} was seen: ignored \
                 (if the cluster was set up anew, restart lb)",
                name(index)
            );
        }
        (!problem.is_empty()).then_some(problem)
    }

    /// Who would lead if its check had passed.
    fn unproved(&self) -> Option<String> {
        let failed =
            |member: &Member| matches!(&member.check, Some((last, _)) if !last.outcome.passed());
        let said = |member: &Member| member.said.as_ref().map(claim_in);
        let unproved = |member: &&Member| {
            matches!(said(member), Some(Claim::Leader { term }) if self.fence.admits(term))
                && failed(member)
        };
        let member = self.members.iter().find(unproved)?;
        let name = member.server.name.as_str();
        Some(format!("{name} claims to lead, but its check fails"))
    }
}
