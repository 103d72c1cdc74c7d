//! One server of a pool: everything that is known about it, and from whom.
//!
//! What its checks say, what it says of itself, what its agent advises, what
//! became of its clients. What a word about the leadership claims, and what it
//! leaves of a claim, is decided here, by functions without memory.

use std::time::Instant;

use crate::api::ServerState;
use crate::config::{self, Duty, InitState, Server};
use crate::engine::action::Pace;
use crate::engine::advice::{Admin, Advice, Operating};
use crate::engine::circuit::Circuit;
use crate::engine::event::{CheckReport, Role, RoleClaim};
use crate::engine::health::Phase;
use crate::engine::roles::Claim;
use crate::engine::route::Usability;
use crate::engine::warmth::Warmth;

/// One server of the pool.
#[derive(Clone, Debug)]
pub struct Member {
    /// As configured.
    pub server: Server,
    /// By its checks.
    pub phase: Phase,
    /// Since when its state is what it is.
    pub since: Instant,
    /// What the server last said of itself.
    pub said: Option<RoleClaim>,
    /// How far behind the leader it last said to be.
    pub lag: Option<u64>,
    /// Its last check, and when that ended.
    pub check: Option<(CheckReport, Instant)>,
    /// What its agent advises.
    pub advice: Advice,
    /// Why its agent cannot be asked, if it cannot.
    pub agent_trouble: Option<String>,
    /// What its clients' connections tell.
    pub circuit: Circuit,
    /// How much of its share it takes by now.
    pub warmth: Warmth,
    /// Whether it tells of changes by itself; the reason if it does not.
    /// `None`: it is not asked to, or has not answered yet.
    pub watch: Option<Result<(), String>>,
    /// The claim that it is held to.
    pub(super) claim: Claim,
    /// The node id that it goes by in its cluster.
    pub(super) node: Option<String>,
    /// When knowledge about it was last fresh.
    pub(super) fresh: Instant,
    /// When it last told of a change by itself.
    pub(super) pushed: Option<Instant>,
    /// An immediate check was asked for and has not been reported yet.
    pub(super) asked: bool,
    /// The pace that its probes were last given.
    pub(super) pace: Pace,
    /// The state that was last told of.
    pub(super) told: Option<ServerState>,
}

impl Member {
    /// A server that nobody has heard of.
    pub(super) fn new(server: &Server, check: &config::Check, now: Instant) -> Self {
        let phase = match check.init_state {
            InitState::FullyUp => Phase::UP,
            InitState::Up => Phase::Up {
                failures: check.fall - 1,
            },
            InitState::Down => Phase::Unchecked,
            InitState::FullyDown => Phase::DOWN,
        };
        Self {
            server: server.clone(),
            phase,
            since: now,
            said: None,
            lag: None,
            check: None,
            advice: Advice::default(),
            agent_trouble: None,
            circuit: Circuit::default(),
            warmth: Warmth::default(),
            watch: None,
            claim: Claim::Unknown,
            node: None,
            fresh: now,
            pushed: None,
            asked: false,
            pace: Pace::Normal,
            told: None,
        }
    }

    /// A server that joins a pool which is at work: it was not there before.
    pub(super) fn joining(server: &Server, check: &config::Check, now: Instant) -> Self {
        Self {
            told: Some(ServerState::Down),
            ..Self::new(server, check, now)
        }
    }

    /// Whether nothing was checked yet since the agent started.
    pub(super) const fn is_unheard(&self) -> bool {
        self.check.is_none()
    }

    /// Whether a check says what is known, of a server about which nothing is
    /// in the balance: it passed as the one before did, and all that the server
    /// said since stands.
    pub(super) fn is_confirmed_by(&self, report: &CheckReport) -> bool {
        let Some((before, _)) = &self.check else {
            return false;
        };
        let told = |said: &RoleClaim| claim_in(said) == self.claim && said.lag == self.lag;
        report.outcome.passed()
            && report.outcome == before.outcome
            && self.phase == Phase::UP
            && !self.circuit.is_tripped()
            && self.pushed.is_none_or(|pushed| pushed <= report.began)
            && report.role == self.said
            && report.role.as_ref().is_none_or(told)
    }

    /// What it may be used for.
    #[must_use]
    pub fn usability(&self) -> Usability {
        match (self.phase, &self.advice.operating, self.admin()) {
            (Phase::Down { .. }, ..) | (_, Operating::Down(_), _) => Usability::Down,
            (_, _, Admin::Maint) => Usability::Maint,
            (_, _, Admin::Drain) => Usability::Leaving,
            (Phase::Unchecked, ..) => Usability::Unchecked,
            (Phase::Up { .. }, ..) if self.advice.percent == 0 => Usability::Resting,
            (Phase::Up { .. }, ..) => Usability::Up,
        }
    }

    /// What an operator and its agent want it used for: the less of both.
    #[must_use]
    pub fn admin(&self) -> Admin {
        let duty = match self.server.duty {
            Duty::Ready => Admin::Ready,
            Duty::Drain { .. } => Admin::Drain,
            Duty::Maint => Admin::Maint,
        };
        duty.max(self.advice.admin)
    }

    /// Its state, in HAProxy's words.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match (self.admin(), self.usability()) {
            (Admin::Maint, _) => ServerState::Maint,
            (_, Usability::Down | Usability::Unchecked) => ServerState::Down,
            (_, Usability::Maint) => ServerState::Maint,
            (_, Usability::Leaving | Usability::Resting) => ServerState::Drain,
            (_, Usability::Up) if self.circuit.is_tripped() => ServerState::Down,
            (_, Usability::Up) => ServerState::Up,
        }
    }

    /// How often it should be probed, in a pool that has the leader it needs
    /// or has not.
    pub(super) const fn pace_in(&self, has_leader: bool) -> Pace {
        match self.phase {
            _ if !has_leader => Pace::Fast,
            Phase::Unchecked | Phase::Up { failures: 0 } => Pace::Normal,
            Phase::Down { passes: 0 } => Pace::Down,
            Phase::Up { .. } | Phase::Down { .. } => Pace::Fast,
        }
    }
}

/// The claim that a word about a server's role makes.
pub(super) const fn claim_in(said: &RoleClaim) -> Claim {
    match said.role {
        Role::Leader => Claim::Leader { term: said.term },
        Role::Replica => Claim::Replica { term: said.term },
        Role::Unknown => Claim::Unknown,
    }
}

/// What is left of a server's claim after a word that takes away and never
/// gives: one in a check that did not pass, or in a line.
///
/// A claim is taken from a check that passed. It is lost by contradiction at
/// once: a leader that says anything else leads no more. One that tells of
/// another term goes on in its own until a check has passed; and a replica
/// that cannot vouch for its role for a moment (nobody leads just now) stays
/// one until its failures make it DOWN.
pub(super) const fn left_of(claim: Claim, said: &RoleClaim) -> Claim {
    match (claim, claim_in(said)) {
        (claim, Claim::Leader { .. }) => claim,
        (Claim::Leader { .. } | Claim::Adopted, _) => Claim::Unknown,
        (Claim::Replica { .. } | Claim::Unknown, _) => claim,
    }
}

/// Whether a line is news to whoever held the server to `claim`.
pub(super) fn is_news(claim: Claim, said: &RoleClaim) -> bool {
    claim_in(said) != claim
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADS: Claim = Claim::Leader { term: Some(5) };
    const FOLLOWS: Claim = Claim::Replica { term: Some(5) };
    const NEWER: Claim = Claim::Leader { term: Some(6) };
    const BEHIND: Claim = Claim::Replica { term: Some(6) };

    fn says(claim: Claim) -> RoleClaim {
        let (role, term) = match claim {
            Claim::Leader { term } => (Role::Leader, term),
            Claim::Replica { term } => (Role::Replica, term),
            Claim::Unknown | Claim::Adopted => (Role::Unknown, Some(9)),
        };
        RoleClaim {
            role,
            term,
            ..RoleClaim::default()
        }
    }

    const HELD: [Claim; 4] = [Claim::Adopted, LEADS, FOLLOWS, Claim::Unknown];

    /// Every claim that a server may be held to, times every word.
    #[test]
    fn a_word_that_gives_nothing() {
        let unknown = Claim::Unknown;
        let table = [
            (Claim::Adopted, NEWER, Claim::Adopted),
            (Claim::Adopted, BEHIND, unknown),
            (Claim::Adopted, unknown, unknown),
            (LEADS, NEWER, LEADS),
            (LEADS, BEHIND, unknown),
            (LEADS, unknown, unknown),
            (FOLLOWS, NEWER, FOLLOWS),
            (FOLLOWS, BEHIND, FOLLOWS),
            (FOLLOWS, unknown, FOLLOWS),
            (unknown, NEWER, unknown),
            (unknown, BEHIND, unknown),
            (unknown, unknown, unknown),
        ];
        assert_eq!(table.len(), HELD.len() * 3, "a row is missing");
        for (held, word, left) in table {
            assert_eq!(left_of(held, &says(word)), left, "{held:?}, {word:?}");
        }
    }
}
