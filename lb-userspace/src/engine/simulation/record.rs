//! What the servers said, and who may write after that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::engine::fixtures::{Says, server};

/// What the servers said since the agent started, in the plainest terms.
#[derive(Default)]
pub struct Record {
    highest: Option<u64>,
    last_word: BTreeMap<u8, Says>,
    /// Who was checked, and said something or nothing.
    heard: BTreeSet<u8>,
    /// Whose last check only failed, or who has had none for long: it may be
    /// DOWN, and its claim gone.
    silent: BTreeSet<u8>,
    /// Long enough for checks to count as failed that have not ended.
    waited: bool,
    adopted: BTreeSet<SocketAddr>,
}

impl Record {
    /// Of an agent that found these writers in the tables.
    pub fn after(adopted: BTreeSet<SocketAddr>) -> Self {
        Self {
            adopted,
            ..Self::default()
        }
    }

    /// A check has ended. One that failed gives no claim, and what it says of
    /// the leader's own term counts no more than that.
    pub fn note(&mut self, number: u8, says: Says, leads: bool) {
        let opening = self.heard.len() < 3;
        self.heard.insert(number);
        let failed_only = matches!(says, Says::Nothing | Says::LeadsStuck(_));
        match failed_only {
            true => self.silent.insert(number),
            false => self.silent.remove(&number),
        };
        match says {
            Says::LeadsUnready(_) | Says::LeadsStuck(_) if leads => {}
            Says::Leads(term)
            | Says::Follows(term)
            | Says::LeadsUnready(term)
            | Says::LeadsStuck(term) => self.highest = self.highest.max(term),
            Says::Neither(_) | Says::Nothing | Says::Refuses => {}
        }
        if !failed_only {
            self.last_word.insert(number, says);
        } else if opening && !self.adopted.contains(&server(number)) {
            // It may be DOWN, and its claim was not taken up: it is forgotten.
            self.last_word.remove(&number);
        }
        // Otherwise a failure takes nothing back before `fall`.
    }

    /// A line takes away; a claim in it counts when a check has confirmed it,
    /// but for its term, where it is not the leader's.
    pub fn note_line(&mut self, number: u8, says: Says, leads: bool) {
        match says {
            Says::Leads(_) | Says::LeadsUnready(_) | Says::LeadsStuck(_) if leads => {}
            Says::Leads(term) | Says::LeadsUnready(term) | Says::LeadsStuck(term) => {
                self.highest = self.highest.max(term);
            }
            Says::Follows(term) => {
                self.highest = self.highest.max(term);
                self.last_word.insert(number, says);
            }
            Says::Neither(_) | Says::Nothing | Says::Refuses => {
                self.last_word.insert(number, says);
            }
        }
    }

    /// No check ends for so long that any server may count as DOWN.
    pub fn wait(&mut self) {
        self.waited = true;
        self.silent.extend(1..=3);
    }

    /// Whether these may write, after all that was said.
    pub fn check(&self, writers: &BTreeSet<SocketAddr>) -> TestCaseResult {
        let Some(&writer) = writers.first() else {
            return Ok(());
        };
        let number = (1..=3).find(|&number| server(number) == writer).unwrap();
        let unheard = self.heard.len() < 3;
        let opening = unheard && !self.waited;
        prop_assert!(
            !opening || self.adopted.contains(&writer),
            "n{} writes",
            number
        );
        if let Some(said) = self.last_word.get(&number) {
            prop_assert_eq!(*said, Says::Leads(self.highest), "n{} writes", number);
        }
        // Until all were heard, the writer may be one that was adopted from the
        // agent before, whatever others claim.
        let rival = |other: &u8| {
            *other != number
                && !self.silent.contains(other)
                && self.last_word.get(other) == Some(&Says::Leads(self.highest))
        };
        prop_assert!(
            unheard || !(1..=3).any(|other| rival(&other)),
            "n{} writes, but {:?}",
            number,
            self.last_word
        );
        Ok(())
    }
}
