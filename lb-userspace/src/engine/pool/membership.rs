//! Servers that come and go, and checks that change, while the agent runs.
//!
//! Whoever stays as he was keeps all that is known about him: no check begins
//! anew, no state is lost. Terms outlive every change but one: where servers
//! are asked for their roles in another way, what they said before is taken as
//! an agent takes the tables of the one before it.

use std::time::Instant;

use super::{Pool, Rules, places};
use crate::config::{self, RoleCheck, Server};
use crate::engine::action::{Action, Notice};
use crate::engine::advice::Advice;
use crate::engine::member::Member;
use crate::engine::roles::{Claim, Fence};

impl Pool {
    /// Goes on as `pool` says from now on.
    pub fn reconfigure(&mut self, now: Instant, pool: &config::Pool) -> Vec<Action> {
        let before = self.leader();
        let before = before.map(|(member, term)| (member.server.name.clone(), term));
        let members = self.take_over(now, pool);
        let mut actions = Vec::new();
        if members.iter().all(Option::is_none) {
            *self = Self::new(pool, now);
        } else {
            let asks_otherwise = asks_otherwise(self.rules.role.as_ref(), pool.role.as_ref());
            self.leader = None;
            for (index, member) in members.iter().enumerate() {
                if let (Some(member), Some((leader, term))) = (member, &before)
                    && member.server.name == *leader
                {
                    self.leader = Some((index, *term));
                }
            }
            let servers = pool.servers.iter().zip(members);
            let members = servers.map(|(server, kept)| {
                kept.unwrap_or_else(|| Member::joining(server, &pool.check, now))
            });
            self.members = members.collect();
            self.places = places(&pool.servers);
            self.still_until = None;
            self.rules = Rules::of(pool);
            if asks_otherwise {
                self.start_over();
            }
        }
        if let (Some((leader, _)), None) = (before, self.leader) {
            actions.push(Action::Notice(Notice::Leader {
                pool: self.name.clone(),
                from: Some(leader),
                to: None,
                term: None,
                why: Some("the pool has it no more".to_owned()),
            }));
            (0..self.members.len()).for_each(|server| self.ask(server, &mut actions));
        }
        for index in 0..self.members.len() {
            // Of who has just come, its first check tells.
            if self.members[index].told.is_some() {
                self.tell(now, index, &mut actions);
            }
        }
        self.settle(now, None, &mut actions);
        // Probes that begin anew do so at the normal pace.
        for member in &self.members {
            let (pool, server) = (self.name.clone(), member.server.name.clone());
            let pace = member.pace;
            actions.push(Action::Pace { pool, server, pace });
        }
        actions
    }

    /// Those who stay, each in the place of its server in `pool`.
    fn take_over(&mut self, now: Instant, pool: &config::Pool) -> Vec<Option<Member>> {
        let mut old: Vec<Option<Member>> = self.members.drain(..).map(Some).collect();
        let take = |server: &Server| {
            let is_he = |one: &&mut Option<Member>| {
                one.as_ref()
                    .is_some_and(|member| is_same(&member.server, server))
            };
            let mut member = old.iter_mut().find(is_he)?.take()?;
            if member.server.agent_address != server.agent_address {
                member.advice = Advice::default();
                member.agent_trouble = None;
            }
            member.server = server.clone();
            // Checks may begin anew, and take as long as new ones.
            member.fresh = now;
            member.asked = false;
            Some(member)
        };
        pool.servers.iter().map(take).collect()
    }

    /// Forgets what was said about roles, but for what it came to.
    fn start_over(&mut self) {
        let leader = self.leader.map(|(index, _)| index);
        let has_roles = self.has_roles();
        self.fence = Fence::default();
        self.opened = false;
        self.leader = leader.map(|index| (index, None));
        for (index, member) in self.members.iter_mut().enumerate() {
            member.check = None;
            member.said = None;
            member.lag = None;
            member.node = None;
            member.pushed = None;
            member.watch = None;
            member.claim = match member.claim {
                _ if !has_roles => Claim::Unknown,
                _ if leader == Some(index) => Claim::Adopted,
                Claim::Replica { .. } => Claim::Replica { term: None },
                Claim::Adopted | Claim::Leader { .. } | Claim::Unknown => Claim::Unknown,
            };
        }
        if !has_roles {
            (self.leader, self.problem) = (None, None);
        }
    }
}

/// Whether what is known about the one holds for the other.
fn is_same(one: &Server, other: &Server) -> bool {
    let identity = |server: &Server| (server.name.clone(), server.address, server.check_address);
    identity(one) == identity(other)
}

/// Whether answers mean something else from now on. How far behind is too far,
/// and whether servers tell by themselves, changes no answer.
fn asks_otherwise(before: Option<&RoleCheck>, now: Option<&RoleCheck>) -> bool {
    let meaning = |role: Option<&RoleCheck>| {
        role.cloned().map(|role| RoleCheck {
            max_lag: None,
            watch: None,
            ..role
        })
    };
    meaning(before) != meaning(now)
}
