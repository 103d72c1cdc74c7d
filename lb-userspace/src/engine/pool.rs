//! The servers of one pool: their health, their claims, and who leads them.
//!
//! Where `health` and `roles` meet. A pool takes in what is observed
//! (`pool::observed`) and the passing of time, and settles after each: the
//! leader it grants, the problem it sees, which servers to ask again at once.
//! It knows no services and no tables.

#[cfg(test)]
mod exploration;
mod membership;
mod observed;
mod words;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::api::ServerState;
use crate::config::{self, Breaker, Duty, Observe, PoolName, RoleCheck, Server, ServerName};
use crate::engine::action::{Action, Notice};
use crate::engine::advice::Operating;
use crate::engine::discovery::Discovery;
use crate::engine::event::{CheckReport, Outcome, Role};
use crate::engine::health::{Phase, Thresholds};
use crate::engine::member::Member;
use crate::engine::roles::{Candidate, Claim, Fence, Ruling};
use crate::engine::route::Standing;
use crate::engine::warmth::Warmth;

/// How much longer than `interval` and `timeout` together a report may take
/// before the server counts as failed: the shell's own delays.
pub const GRACE: Duration = Duration::from_millis(500);

/// The servers of one pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// As configured.
    pub name: PoolName,
    /// In the order of the configuration.
    pub members: Vec<Member>,
    /// Where each of them is.
    places: HashMap<ServerName, usize>,
    /// Until when time alone moves none of them; `None`: they have to be looked at.
    still_until: Option<Instant>,
    rules: Rules,
    /// Whether every server was checked since the pool is there; those that
    /// joined it later not counted.
    opened: bool,
    fence: Fence,
    leader: Option<(usize, Option<u64>)>,
    problem: Option<String>,
    /// What the cluster tells of its members.
    pub discovery: Discovery,
}

/// How servers are judged.
#[derive(Clone, Debug)]
struct Rules {
    thresholds: Thresholds,
    /// How they are asked for their roles, if they have any.
    role: Option<RoleCheck>,
    /// How long knowledge about a server lasts.
    lifetime: Duration,
    observe: Observe,
    breaker: Breaker,
    slow_start: Option<Duration>,
}

impl Rules {
    fn of(pool: &config::Pool) -> Self {
        let check = &pool.check;
        Self {
            thresholds: Thresholds {
                rise: check.rise,
                fall: check.fall,
            },
            role: pool.role.clone(),
            lifetime: check.longest_interval() + check.timeout + GRACE,
            observe: check.observe,
            breaker: check.breaker,
            slow_start: pool.slow_start,
        }
    }
}

impl Pool {
    /// The pool before its first report.
    #[must_use]
    pub fn new(pool: &config::Pool, now: Instant) -> Self {
        let member = |server: &Server| Member::new(server, &pool.check, now);
        Self {
            name: pool.name.clone(),
            members: pool.servers.iter().map(member).collect(),
            places: places(&pool.servers),
            still_until: None,
            rules: Rules::of(pool),
            opened: false,
            fence: Fence::default(),
            leader: None,
            problem: None,
            discovery: Discovery::default(),
        }
    }

    /// Takes a server for what the tables that we adopted took it for, until
    /// its own checks say otherwise.
    pub fn adopt(&mut self, server: SocketAddr, role: Role) {
        let mut members = self.members.iter_mut();
        let Some(member) = members.find(|member| member.server.address == server) else {
            return;
        };
        member.phase = Phase::UP;
        member.claim = match (role, member.claim) {
            (Role::Leader, _) | (_, Claim::Adopted) => Claim::Adopted,
            (Role::Replica, _) => Claim::Replica { term: None },
            (Role::Unknown, claim) => claim,
        };
    }

    /// The server that leads, and its term where it tells.
    #[must_use]
    pub fn leader(&self) -> Option<(&Member, Option<u64>)> {
        self.leader
            .map(|(server, term)| (&self.members[server], term))
    }

    /// Good checks in a row that make a DOWN server UP.
    #[must_use]
    pub const fn rise(&self) -> u32 {
        self.rules.thresholds.rise
    }

    /// Failures in a row that make an UP server DOWN.
    #[must_use]
    pub const fn fall(&self) -> u32 {
        self.rules.thresholds.fall
    }

    /// Failed connections of clients that open a server's circuit.
    #[must_use]
    pub const fn error_limit(&self) -> u32 {
        self.rules.breaker.error_limit
    }

    /// Why there is no leader, or what else is wrong.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let none = || self.has_roles() && self.leader.is_none();
        let why = || match self.is_opening() {
            true => "not every server has been checked yet",
            false => "no server claims to lead",
        };
        let problem = self.problem.clone();
        problem.or_else(|| none().then(|| why().to_owned()))
    }

    /// The servers as routes see them.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let leader = self.leader.map(|(server, _)| server);
        let members = self.members.iter().enumerate();
        members
            .map(|(index, member)| Standing {
                server: member.server.address,
                usability: member.usability(),
                role: match member.claim {
                    _ if leader == Some(index) => Role::Leader,
                    Claim::Replica { .. } => Role::Replica,
                    Claim::Adopted | Claim::Leader { .. } | Claim::Unknown => Role::Unknown,
                },
                lagging: leader != Some(index) && self.is_lagging(member),
                tripped: member.circuit.is_tripped(),
                backup: member.server.backup,
            })
            .collect()
    }

    /// How much the servers take at the moment, beside what the configuration
    /// says of each: percent of the weight by its agent, and by its warmth; and
    /// the limit of open connections that its agent wants instead.
    #[must_use]
    pub fn sizes(&self) -> Vec<(u32, u32, Option<Option<u32>>)> {
        let sizes = self.members.iter().map(|member| {
            let advice = &member.advice;
            let warmth = member.warmth.percent();
            (advice.percent, warmth, advice.max_connections)
        });
        sizes.collect()
    }

    /// How much of its share a server gets by its warmth, in percent. Never
    /// less than all for the leader: nobody else can do its work.
    #[must_use]
    pub fn warmth(&self, member: &Member) -> u32 {
        let leader = self.leader().map(|(leader, _)| &leader.server.name);
        match leader == Some(&member.server.name) {
            true => Warmth::FULL,
            false => member.warmth.percent(),
        }
    }

    /// Whether a server that follows is too far behind to be read from, or
    /// does not tell.
    #[must_use]
    pub fn is_lagging(&self, member: &Member) -> bool {
        let max = self.rules.role.as_ref().and_then(|role| role.max_lag);
        max.is_some_and(|max| member.lag.is_none_or(|lag| lag > max))
    }

    /// Lets knowledge expire: a server that no probe has reported on for too
    /// long has failed, whatever it said last. `resumed` is when the agent
    /// itself last came back from a stall, during which nobody could report.
    pub fn expire(&mut self, now: Instant, resumed: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut expired = false;
        for index in 0..self.members.len() {
            self.members[index].warmth.pass(now);
            let Some(silent) = self.overdue(&self.members[index], now, resumed) else {
                continue;
            };
            let member = &mut self.members[index];
            member.said = None;
            let report = CheckReport {
                outcome: Outcome::ConnectTimeout,
                detail: format!("no check has ended for {silent:.1?}"),
                role: None,
                began: now,
                took: silent,
            };
            member.check = Some((report, now));
            self.enter(now, index, Phase::DOWN, &mut actions);
            expired = true;
        }
        if expired {
            self.settle(now, None, &mut actions);
        }
        actions
    }

    /// Whether time alone changes anything about a server. Asked at every tick, and so
    /// looks at all servers only when the one heard of longest ago may have been silent
    /// for too long.
    #[must_use]
    pub fn is_moved(&mut self, now: Instant, resumed: Instant) -> bool {
        if self.still_until.is_some_and(|until| now < until) {
            return false;
        }
        let moved = |member: &Member| {
            member.warmth != Warmth::Warm || self.overdue(member, now, resumed).is_some()
        };
        let any = self.members.iter().any(moved);
        let oldest = self.members.iter().map(|member| member.fresh).min();
        self.still_until = oldest
            .filter(|_| !any)
            .map(|oldest| oldest + self.rules.lifetime);
        any
    }

    /// For how long nobody has reported on a server, where that is too long.
    fn overdue(&self, member: &Member, now: Instant, resumed: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(member.fresh.max(resumed));
        let known = member.phase != Phase::DOWN || member.is_unheard();
        (silent > self.rules.lifetime && known).then_some(silent)
    }

    /// Rules on the leadership after anything that may have changed it.
    /// `reporter` has just been checked, and need not be asked again.
    pub fn settle(&mut self, now: Instant, reporter: Option<usize>, actions: &mut Vec<Action>) {
        self.opened |= !self.members.iter().any(Member::is_unheard);
        if self.has_roles() {
            self.rule(now, reporter, actions);
        }
        self.set_paces(actions);
    }

    fn has_roles(&self) -> bool {
        self.rules.role.is_some()
    }

    fn rule(&mut self, now: Instant, reporter: Option<usize>, actions: &mut Vec<Action>) {
        let ruling = self.fence.rule(&self.candidates());
        let before = self.leader;
        self.leader = match ruling {
            Ruling::Leader { server, term } => Some((server, term)),
            Ruling::Waiting { .. } | Ruling::Split { .. } | Ruling::Nobody => None,
        };
        if let Some((server, _)) = self.leader {
            // A newer term is taken at the first probe.
            let phase = self.members[server].phase;
            self.enter(
                now,
                server,
                if phase.is_up() { phase } else { Phase::UP },
                actions,
            );
        }
        self.depose(before);
        self.announce(before, actions);
        self.hear_the_others(reporter, actions);
        let problem = self.describe(&ruling);
        if self.problem != problem {
            self.problem.clone_from(&problem);
            actions.push(Action::Notice(Notice::Problem {
                pool: self.name.clone(),
                problem,
            }));
            if let Ruling::Split { servers, .. } = ruling {
                for server in servers
                    .into_iter()
                    .filter(|&server| reporter != Some(server))
                {
                    self.ask(server, actions);
                }
            }
        }
        if before.is_some() && self.leader.is_none() {
            for server in (0..self.members.len()).filter(|&server| reporter != Some(server)) {
                self.ask(server, actions);
            }
        }
    }

    /// Whether a server has not been checked yet since the pool is there.
    pub(super) fn is_opening(&self) -> bool {
        !self.opened && self.members.iter().any(Member::is_unheard)
    }

    /// The servers as far as the ruling is concerned.
    ///
    /// An agent that has just started knows no term. To it, the claim of a
    /// leader that was deposed long ago looks as good as any, if that is the
    /// first one to answer. So until every server has had its say, nobody
    /// becomes the leader; whom we took over may go on. Who joins the pool later
    /// is not waited for: by then, terms are known.
    fn candidates(&self) -> Vec<Candidate> {
        let opening = self.is_opening();
        let incumbent = self.leader.map(|(server, _)| server);
        let members = self.members.iter().enumerate();
        let candidate = |(index, member): (usize, &Member)| Candidate {
            phase: member.phase,
            claim: match member.claim {
                Claim::Leader { .. } if opening && incumbent != Some(index) => Claim::Unknown,
                claim => claim,
            },
        };
        members.map(candidate).collect()
    }

    /// Asks those at once whose first word a claim waits for.
    fn hear_the_others(&mut self, reporter: Option<usize>, actions: &mut Vec<Action>) {
        let claimed = |member: &Member| matches!(member.claim, Claim::Leader { .. });
        if !self.members.iter().any(claimed) {
            return;
        }
        for index in 0..self.members.len() {
            if self.members[index].is_unheard() && reporter != Some(index) {
                self.ask(index, actions);
            }
        }
    }

    /// Drops the claim of a leader that had to give way to a newer one. It was
    /// right when it claimed; only its next answer tells whether it knows.
    fn depose(&mut self, before: Option<(usize, Option<u64>)>) {
        let Some((deposed, _)) = before else { return };
        let replaced = self.leader.is_some_and(|(server, _)| server != deposed);
        let outdated = match self.members[deposed].claim {
            Claim::Leader { term } => !self.fence.admits(term),
            Claim::Adopted => replaced,
            Claim::Replica { .. } | Claim::Unknown => false,
        };
        if outdated {
            self.members[deposed].claim = Claim::Unknown;
        }
    }

    /// Tells of a change of the leader.
    fn announce(&mut self, before: Option<(usize, Option<u64>)>, actions: &mut Vec<Action>) {
        let same = match (before, self.leader) {
            // The term of an adopted leader becomes known: no news.
            (Some((old, None)), Some((new, _))) => old == new,
            (old, new) => old == new,
        };
        if !same {
            let name = |(server, _): (usize, _)| self.members[server].server.name.clone();
            actions.push(Action::Notice(Notice::Leader {
                pool: self.name.clone(),
                from: before.map(name),
                to: self.leader.map(name),
                term: self.leader.and_then(|(_, term)| term),
                why: match (before, self.leader) {
                    (Some((old, _)), None) => Some(self.why_no_leader(old)),
                    _ => None,
                },
            }));
        }
    }

    /// Puts a server into a phase, and tells where that changes its state.
    fn enter(&mut self, now: Instant, index: usize, phase: Phase, actions: &mut Vec<Action>) {
        let member = &mut self.members[index];
        member.phase = phase;
        if phase == Phase::DOWN {
            member.claim = Claim::Unknown;
        }
        self.tell(now, index, actions);
    }

    /// Tells of a server's state where it is another one.
    fn tell(&mut self, now: Instant, index: usize, actions: &mut Vec<Action>) {
        let member = &mut self.members[index];
        let state = member.state();
        if member.told == Some(state) {
            return;
        }
        let before = member.told.replace(state);
        member.since = now;
        member.warmth = Warmth::after(before, state, now, self.rules.slow_start);
        self.still_until = None;
        let (code, detail) = match (&member.check, &member.advice.operating) {
            _ if member.server.duty != Duty::Ready && state != ServerState::Down => {
                ("", "an operator wants it so".to_owned())
            }
            (_, Operating::Down(why)) => ("", format!("its agent says {why}")),
            _ if member.circuit.is_tripped() => {
                ("", "too many of its clients' connections failed".to_owned())
            }
            (Some((report, _)), Operating::Up) => (report.outcome.code(), report.detail.clone()),
            (None, Operating::Up) => ("", String::new()),
        };
        actions.push(Action::Notice(Notice::Server {
            pool: self.name.clone(),
            server: member.server.name.clone(),
            state,
            code,
            detail,
        }));
    }

    /// Has each server probed as often as makes sense now.
    fn set_paces(&mut self, actions: &mut Vec<Action>) {
        let has_leader = !self.has_roles() || self.leader.is_some();
        for member in &mut self.members {
            let pace = member.pace_in(has_leader);
            if std::mem::replace(&mut member.pace, pace) != pace {
                let (pool, server) = (self.name.clone(), member.server.name.clone());
                actions.push(Action::Pace { pool, server, pace });
            }
        }
    }

    fn index_of(&self, name: &ServerName) -> Option<usize> {
        self.places.get(name).copied()
    }

    fn ask(&mut self, index: usize, actions: &mut Vec<Action>) {
        let member = &mut self.members[index];
        if !std::mem::replace(&mut member.asked, true) {
            let (pool, server) = (self.name.clone(), member.server.name.clone());
            actions.push(Action::CheckNow { pool, server });
        }
    }
}

/// Where each server is.
fn places(servers: &[Server]) -> HashMap<ServerName, usize> {
    let names = servers.iter().map(|server| server.name.clone());
    names.zip(0..).collect()
}
