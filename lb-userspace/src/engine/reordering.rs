//! A cluster that elects leaders, and news of it that comes late, out of order
//! or never.
//!
//! Other than in `simulation`, the servers tell the truth: each what it knew
//! when it said it. Answers to checks and lines travel for any time and
//! overtake each other, but for the lines of one connection; connections
//! break; answers are lost; service ports get stuck; and what has arrived waits until the agent gets to
//! it. At every step:
//!
//! - one writer at most, after each single operation of a plan;
//! - the term in which it was granted is the newest that has arrived;
//! - of all that has arrived from it, the word that it said last is a claim;
//! - no other claims the same in its last check, with no line since.
//!
//! And when all news has arrived, the true leader writes.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::fixtures::*;
use super::{Action, Agent, Event, Installed};
use crate::config::Config;

const NODES: usize = 3;

/// Nodes are numbered from 0 here.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A majority elects this node; it alone knows.
    Elect(usize),
    /// The node hears of the leader of the newest term.
    Learn(usize),
    /// The node loses touch with the others.
    Lose(usize),
    /// The node's service port does not answer, or does again.
    Stick(usize),
    /// The node is asked, if it is not being asked already.
    Ask(usize),
    /// It answers.
    Answer(usize),
    /// The answer arrives.
    Arrive(usize),
    /// The answer never arrives.
    Miss(usize),
    /// The next line of the node arrives.
    Hear(usize),
    /// The connection that its lines come by breaks, and is made anew.
    Break(usize),
    /// The agent takes in all that has arrived.
    TakeIn,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        2 => node().prop_map(Step::Elect),
        3 => node().prop_map(Step::Learn),
        1 => node().prop_map(Step::Lose),
        1 => node().prop_map(Step::Stick),
        4 => node().prop_map(Step::Ask),
        4 => node().prop_map(Step::Answer),
        4 => node().prop_map(Step::Arrive),
        1 => node().prop_map(Step::Miss),
        3 => node().prop_map(Step::Hear),
        1 => node().prop_map(Step::Break),
        6 => Just(Step::TakeIn),
    ]
}

/// Something that a node said, numbered in the order of saying.
#[derive(Clone, Copy, Debug)]
struct Word {
    number: u64,
    says: Says,
}

/// A check on its way.
#[derive(Clone, Copy, Debug)]
struct Check {
    began: Instant,
    answer: Option<Word>,
}

/// What has arrived: from whom, what it said, if anything, and the event.
type Arrival = (usize, Option<Word>, Event);

struct Node {
    says: Says,
    /// Its checks fail, whatever it says in them.
    stuck: bool,
    check: Option<Check>,
    lines: VecDeque<Word>,
    /// Of what was taken in, what it said last.
    newest: Option<Word>,
    /// When its last line was taken in.
    told: Option<Instant>,
    /// What it claimed in a check that passed, of which nothing may have been
    /// taken away since.
    claimed: Option<Says>,
}

struct World {
    config: Config,
    agent: Agent,
    tables: Installed,
    nodes: Vec<Node>,
    arrived: VecDeque<Arrival>,
    with_terms: bool,
    term: u64,
    leader: Option<usize>,
    words: u64,
    /// The newest term that has arrived, but for a leader's own in a word that
    /// gives nothing.
    heard: Option<u64>,
    now: Instant,
}

impl World {
    fn new(with_terms: bool) -> Self {
        let now = Instant::now();
        let config = write_and_read();
        let (agent, _) = Agent::new(config.clone(), Installed::default(), now);
        let node = |_| Node {
            says: Says::Neither(None),
            stuck: false,
            check: None,
            lines: VecDeque::new(),
            newest: None,
            told: None,
            claimed: None,
        };
        let mut world = Self {
            config,
            tables: agent.installed().clone(),
            agent,
            nodes: (0..NODES).map(node).collect(),
            arrived: VecDeque::new(),
            with_terms,
            term: 0,
            leader: None,
            words: 0,
            heard: None,
            now,
        };
        for number in 1..=3 {
            world.sees(resolved(number)).unwrap();
        }
        world
    }

    fn writers(&self) -> BTreeSet<SocketAddr> {
        let listen = self.config.services["write"].listen;
        let ids = self.tables.selectable(listen).into_iter();
        ids.map(|id| self.tables.targets[&id].server).collect()
    }

    fn sees(&mut self, event: Event) -> TestCaseResult {
        for action in self.agent.handle(self.now, event) {
            let Action::Apply(ops) = action else { continue };
            for op in &ops {
                self.tables.apply(op);
                let writers = self.writers();
                prop_assert!(writers.len() <= 1, "{:?} after {:?}", writers, op);
            }
        }
        Ok(())
    }

    fn check(&mut self) -> TestCaseResult {
        if let Some(&writer) = self.writers().first() {
            let node = (0..NODES)
                .find(|&node| server(node as u8 + 1) == writer)
                .unwrap();
            let newest = self.nodes[node].newest.map(|word| word.says);
            prop_assert!(
                matches!(newest, Some(Says::Leads(_))),
                "it said {:?}",
                newest
            );
            let term = self.agent.status(self.now).pools[0].term;
            prop_assert_eq!(term, self.heard);
            let others = (0..NODES).filter(|&other| other != node);
            let rivals =
                others.filter(|&other| self.nodes[other].claimed == Some(Says::Leads(term)));
            prop_assert_eq!(rivals.count(), 0, "beside n{}", node + 1);
        }
        Ok(())
    }

    fn term(&self) -> Option<u64> {
        self.with_terms.then_some(self.term)
    }

    /// The node is something else from now on, and says so where it is
    /// listened to.
    fn becomes(&mut self, node: usize, says: Says) {
        if self.nodes[node].says != says {
            self.nodes[node].says = says;
            let word = self.word(node);
            self.nodes[node].lines.push_back(word);
        }
    }

    fn word(&mut self, node: usize) -> Word {
        self.words += 1;
        let (number, says) = (self.words, self.nodes[node].says);
        Word { number, says }
    }

    /// A check ends: with this answer, or without one.
    fn ends(&mut self, node: usize, check: Check, word: Option<Word>) {
        let says = match word.map(|word| word.says) {
            Some(Says::Leads(term)) if self.nodes[node].stuck => Says::LeadsStuck(term),
            Some(says) => says,
            None => Says::Nothing,
        };
        let event = checked(check.began + TOOK, node as u8 + 1, says);
        self.arrived.push_back((node, word, event));
    }

    fn take_in(&mut self) -> TestCaseResult {
        while let Some((node, word, event)) = self.arrived.pop_front() {
            let newest = &mut self.nodes[node].newest;
            let known = newest.map(|newest| newest.number);
            if word.is_some_and(|word| known < Some(word.number)) {
                *newest = word;
            }
            self.note(node, word, &event);
            self.sees(event)?;
        }
        Ok(())
    }

    /// Notes what is about to be taken in.
    fn note(&mut self, node: usize, word: Option<Word>, event: &Event) {
        let leads = self.writers().contains(&server(node as u8 + 1));
        let now = self.now;
        let about = &mut self.nodes[node];
        let gives = if let Event::Checked { report, .. } = event {
            report.outcome.passed() && about.told.is_none_or(|told| told <= report.began)
        } else {
            about.told = Some(now);
            false
        };
        let says = word.map(|word| word.says);
        about.claimed = says.filter(|_| gives);
        let spared = leads && !gives && matches!(says, Some(Says::Leads(_)));
        if let Some(Says::Leads(term) | Says::Follows(term)) = says
            && !spared
        {
            self.heard = self.heard.max(term);
        }
    }

    fn step(&mut self, step: Step) -> TestCaseResult {
        self.now += Duration::from_millis(1);
        match step {
            Step::Elect(node) => {
                self.term += 1;
                self.leader = Some(node);
                self.becomes(node, Says::Leads(self.term()));
            }
            Step::Learn(node) => {
                if self.leader.is_some_and(|leader| leader != node) {
                    self.becomes(node, Says::Follows(self.term()));
                }
            }
            Step::Lose(node) => {
                self.leader = self.leader.filter(|&leader| leader != node);
                self.becomes(node, Says::Neither(self.term()));
            }
            Step::Stick(node) => self.nodes[node].stuck = !self.nodes[node].stuck,
            Step::Ask(node) => {
                let began = self.now;
                let check = Check {
                    began,
                    answer: None,
                };
                self.nodes[node].check.get_or_insert(check);
            }
            Step::Answer(node) => {
                let word = self.word(node);
                if let Some(check) = &mut self.nodes[node].check {
                    check.answer.get_or_insert(word);
                }
            }
            Step::Arrive(node) => {
                let check = self.nodes[node].check;
                if let Some((check, word)) = check.and_then(|check| Some((check, check.answer?))) {
                    self.nodes[node].check = None;
                    self.ends(node, check, Some(word));
                }
            }
            Step::Miss(node) => {
                if let Some(check) = self.nodes[node].check.take() {
                    self.ends(node, check, None);
                }
            }
            Step::Hear(node) => {
                if let Some(word) = self.nodes[node].lines.pop_front() {
                    let event = line(node as u8 + 1, word.says);
                    self.arrived.push_back((node, Some(word), event));
                }
            }
            Step::Break(node) => {
                self.nodes[node].lines.clear();
                let word = self.word(node);
                self.nodes[node].lines.push_back(word);
            }
            Step::TakeIn => self.take_in()?,
        }
        self.check()
    }

    /// One node leads, all others follow it, and all of it arrives.
    fn calms_down(&mut self) -> TestCaseResult {
        let leader = self.leader.unwrap_or(0);
        self.step(Step::Elect(leader))?;
        for node in 0..NODES {
            self.nodes[node].stuck = false;
            self.step(Step::Learn(node))?;
            while !self.nodes[node].lines.is_empty() {
                self.step(Step::Hear(node))?;
            }
        }
        self.step(Step::TakeIn)?;
        for _ in 0..3 {
            for node in 0..NODES {
                self.step(Step::Miss(node))?;
                self.step(Step::Ask(node))?;
                self.step(Step::Answer(node))?;
                self.step(Step::Arrive(node))?;
                self.step(Step::TakeIn)?;
            }
        }
        let expected = server(leader as u8 + 1);
        prop_assert_eq!(self.writers(), BTreeSet::from([expected]));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn news_in_any_order_of_a_cluster_with_terms(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(true);
        for step in steps {
            world.step(step)?;
        }
        world.calms_down()?;
    }

    #[test]
    fn news_in_any_order_of_a_cluster_without_terms(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(false);
        for step in steps {
            world.step(step)?;
        }
        world.calms_down()?;
    }
}
