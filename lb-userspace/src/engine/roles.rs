//! Who is the leader: at most one server, or nobody.
//!
//! Servers claim; the [`Fence`] rules. Its memory is one number, the highest
//! term that any server vouched for: a claim from an older term is never
//! accepted again, however convincing it looks. Where claims contradict each
//! other and no term orders them, nobody is the leader: refusing writes for a
//! moment is always better than sending them to two servers.

use crate::engine::health::Phase;

/// What a server is held to say about the leadership, by its last checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was the write target in the tables that we adopted, and has not said
    /// anything to us yet.
    Adopted,
    /// It says that it leads.
    Leader {
        /// Its term, where it tells.
        term: Option<u64>,
    },
    /// It says that it follows a leader from whom it has heard.
    Replica {
        /// Its term, where it tells.
        term: Option<u64>,
    },
    /// Neither of these.
    Unknown,
}

/// One server, as far as the ruling is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it says.
    pub claim: Claim,
    /// Whether its checks let it be used.
    pub phase: Phase,
}

/// Who leads. Servers are indices of the candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// This one does.
    Leader {
        /// The server.
        server: usize,
        /// Its term, where it tells.
        term: Option<u64>,
    },
    /// This one would, when its checks have made it UP.
    Waiting {
        /// The server.
        server: usize,
    },
    /// These claim it, and nothing orders their claims.
    Split {
        /// Two or more servers.
        servers: Vec<usize>,
        /// The term that they share; `None` where they have none.
        term: Option<u64>,
    },
    /// No server has a claim that counts.
    Nobody,
}

/// What is remembered of a pool's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    seen: Option<u64>,
    led: Option<u64>,
}

impl Fence {
    /// The highest term that a leader or a replica has vouched for.
    #[must_use]
    pub const fn seen(self) -> Option<u64> {
        self.seen
    }

    /// Takes note of the term of a claim.
    ///
    /// A server that is neither leader nor replica is not heard: a node that
    /// is cut off from its cluster may raise its own term at will (Raft
    /// without PreVote), and would depose a leader whom a majority follows.
    pub fn hear(&mut self, claim: Claim) {
        match claim {
            Claim::Leader { term } | Claim::Replica { term } => self.seen = self.seen.max(term),
            Claim::Adopted | Claim::Unknown => {}
        }
    }

    /// Whether a leader's claim is of the newest term that is known. `None` is
    /// older than any term: once terms are in use, a claim has to bring one.
    #[must_use]
    pub fn admits(self, term: Option<u64>) -> bool {
        term >= self.seen
    }

    /// Decides who leads, and remembers the term in which it does.
    pub fn rule(&mut self, candidates: &[Candidate]) -> Ruling {
        let ruling = self.judge(candidates);
        if let Ruling::Leader { term, .. } = ruling {
            self.led = self.led.max(term);
        }
        ruling
    }

    fn judge(self, candidates: &[Candidate]) -> Ruling {
        let claimants = |counts: &dyn Fn(Claim) -> bool| -> Vec<usize> {
            let servers = candidates.iter().enumerate();
            servers
                .filter(|(_, candidate)| counts(candidate.claim))
                .map(|(server, _)| server)
                .collect()
        };
        let adopted = claimants(&|claim| claim == Claim::Adopted);
        let claiming =
            claimants(&|claim| matches!(claim, Claim::Leader { term } if self.admits(term)));
        match (&claiming[..], &adopted[..]) {
            ([], []) => Ruling::Nobody,
            ([], &[server]) => Ruling::Leader { server, term: None },
            ([], _) => Ruling::Split {
                servers: adopted,
                term: None,
            },
            // A belief that we inherited gives way to a claim with a term,
            // and stands against one without.
            (&[server], rivals) if self.seen.is_some() || rivals.is_empty() => {
                if candidates[server].phase.is_up() || self.seen > self.led {
                    Ruling::Leader {
                        server,
                        term: self.seen,
                    }
                } else {
                    Ruling::Waiting { server }
                }
            }
            (servers, rivals) => Ruling::Split {
                servers: if self.seen.is_some() {
                    servers.to_vec()
                } else {
                    [servers, rivals].concat()
                },
                term: self.seen,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn leads(term: Option<u64>) -> Candidate {
        Candidate {
            claim: Claim::Leader { term },
            phase: Phase::UP,
        }
    }

    const fn follows(term: Option<u64>) -> Candidate {
        Candidate {
            claim: Claim::Replica { term },
            phase: Phase::UP,
        }
    }

    const ADOPTED: Candidate = Candidate {
        claim: Claim::Adopted,
        phase: Phase::UP,
    };
    const SILENT: Candidate = Candidate {
        claim: Claim::Unknown,
        phase: Phase::UP,
    };

    const fn down(candidate: Candidate) -> Candidate {
        Candidate {
            claim: candidate.claim,
            phase: Phase::DOWN,
        }
    }

    fn leader(server: usize, term: Option<u64>) -> Ruling {
        Ruling::Leader { server, term }
    }

    fn split(servers: &[usize], term: Option<u64>) -> Ruling {
        Ruling::Split {
            servers: servers.to_vec(),
            term,
        }
    }

    /// Hears everybody, then rules.
    fn rule(fence: &mut Fence, candidates: &[Candidate]) -> Ruling {
        for candidate in candidates {
            fence.hear(candidate.claim);
        }
        fence.rule(candidates)
    }

    /// One row: candidates, the ruling.
    #[test]
    fn rulings() {
        let (four, five) = (Some(4), Some(5));
        let table: &[(&str, &[Candidate], Ruling)] = &[
            ("nobody at all", &[], Ruling::Nobody),
            ("nobody claims", &[SILENT, follows(five)], Ruling::Nobody),
            (
                "one claim",
                &[SILENT, leads(five), follows(five)],
                leader(1, five),
            ),
            (
                "the higher term wins",
                &[leads(four), leads(five)],
                leader(1, five),
            ),
            (
                "equal terms: no writer",
                &[leads(five), leads(five)],
                split(&[0, 1], five),
            ),
            (
                "an older claim cannot settle a split",
                &[leads(five), leads(four), leads(five)],
                split(&[0, 2], five),
            ),
            (
                "a claim without a term",
                &[leads(None), follows(None)],
                leader(0, None),
            ),
            (
                "two claims without a term: no writer",
                &[leads(None), leads(None)],
                split(&[0, 1], None),
            ),
            (
                "a claim without a term loses to one with",
                &[leads(None), leads(four)],
                leader(1, four),
            ),
            (
                "a follower's higher term deposes",
                &[leads(four), follows(five)],
                Ruling::Nobody,
            ),
            (
                "a follower's lower term does not",
                &[leads(five), follows(four)],
                leader(0, five),
            ),
            (
                "a follower's term deposes a claim without",
                &[leads(None), follows(five)],
                Ruling::Nobody,
            ),
            (
                "a newer term needs no rise",
                &[down(leads(five)), leads(four)],
                leader(0, five),
            ),
            (
                "a claim without a term needs rise",
                &[down(leads(None)), SILENT],
                Ruling::Waiting { server: 0 },
            ),
            (
                "a rival that is not UP still contradicts",
                &[down(leads(None)), leads(None)],
                split(&[0, 1], None),
            ),
            ("an adopted writer", &[ADOPTED, SILENT], leader(0, None)),
            (
                "followers say nothing against an adopted writer",
                &[ADOPTED, follows(five)],
                leader(0, None),
            ),
            (
                "an adopted writer loses to a term",
                &[ADOPTED, leads(five)],
                leader(1, five),
            ),
            (
                "an adopted writer stands against a claim without",
                &[ADOPTED, leads(None)],
                split(&[1, 0], None),
            ),
            (
                "two adopted writers",
                &[ADOPTED, ADOPTED],
                split(&[0, 1], None),
            ),
        ];
        for (sentence, candidates, expected) in table {
            assert_eq!(
                rule(&mut Fence::default(), candidates),
                *expected,
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_term_that_has_passed_never_comes_back() {
        let mut fence = Fence::default();
        assert_eq!(
            rule(&mut fence, &[leads(Some(5)), SILENT]),
            leader(0, Some(5))
        );
        assert_eq!(
            rule(&mut fence, &[SILENT, leads(Some(6))]),
            leader(1, Some(6))
        );
        assert_eq!(rule(&mut fence, &[leads(Some(5)), SILENT]), Ruling::Nobody);
        assert_eq!(rule(&mut fence, &[leads(None), SILENT]), Ruling::Nobody);
        assert_eq!(
            rule(&mut fence, &[leads(Some(6)), SILENT]),
            leader(0, Some(6))
        );
    }

    #[test]
    fn a_returning_leader_of_the_same_term_waits_for_rise() {
        let mut fence = Fence::default();
        assert_eq!(rule(&mut fence, &[leads(Some(5))]), leader(0, Some(5)));
        assert_eq!(
            rule(&mut fence, &[down(leads(Some(5)))]),
            Ruling::Waiting { server: 0 }
        );
        assert_eq!(
            rule(&mut fence, &[down(leads(Some(6)))]),
            leader(0, Some(6))
        );
    }

    #[test]
    fn the_term_of_a_server_without_a_role_is_not_heard() {
        let mut fence = Fence::default();
        fence.hear(Claim::Unknown);
        fence.hear(Claim::Adopted);
        assert_eq!(fence.seen(), None);
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let term = prop::option::of(1..4_u64);
        let claim = prop_oneof![
            Just(Claim::Adopted),
            term.clone().prop_map(|term| Claim::Leader { term }),
            term.prop_map(|term| Claim::Replica { term }),
            Just(Claim::Unknown),
        ];
        let phase = prop_oneof![Just(Phase::UP), Just(Phase::DOWN), Just(Phase::Unchecked)];
        (claim, phase).prop_map(|(claim, phase)| Candidate { claim, phase })
    }

    proptest! {
        #[test]
        fn a_leader_has_the_highest_term_ever_seen_and_no_rival(
            rounds in prop::collection::vec(prop::collection::vec(candidate(), 0..4), 1..6),
        ) {
            let mut fence = Fence::default();
            let mut highest = None;
            for candidates in rounds {
                let ruling = rule(&mut fence, &candidates);
                for candidate in &candidates {
                    if let Claim::Leader { term } | Claim::Replica { term } = candidate.claim {
                        highest = highest.max(term);
                    }
                }
                if let Ruling::Leader { server, term } = ruling {
                    let rivals = candidates.iter().enumerate().filter(|&(other, candidate)| {
                        other != server && candidate.claim == Claim::Leader { term: highest }
                    });
                    prop_assert_eq!(rivals.count(), 0);
                    match candidates[server].claim {
                        Claim::Leader { term: claimed } => {
                            prop_assert_eq!(claimed, term);
                            prop_assert_eq!(term, highest);
                        }
                        Claim::Adopted => prop_assert_eq!(term, None),
                        Claim::Replica { .. } | Claim::Unknown => prop_assert!(false, "{:?} leads", candidates[server]),
                    }
                }
            }
        }
    }
}
