//! Servers that claim: who of them gets the writes, who does not, and what
//! `lb status` says about it.

use std::time::Duration;

use lb_tests::balancer::{Balancer, Configuration, READ_SERVICE, Status, WRITE_SERVICE};
use lb_tests::fake::{Claim, FakeNode};
use lb_tests::lab::{Lab, Spec, address};
use lb_tests::patience::{pause, wait_until};
use lb_tests::privileged;
use lb_tests::traffic::Failure;
use lb_tests::traffic::connections::{who_answers, who_is_at};
use lb_tests::traffic::witness::Witness;

use crate::failover::PATIENCE;
use crate::failover::trial::check_statuses;

/// Three servers that say what they are told, and `lb` in front of them.
struct Stage {
    balancer: Balancer,
    nodes: Vec<Option<FakeNode>>,
    lab: Lab,
}

impl Stage {
    fn start(claims: [Claim; 3]) -> Self {
        let lab = Lab::new(&Spec::for_test(3)).unwrap();
        let balancer = Balancer::start(&lab, &Configuration::for_nodes(&lab)).unwrap();
        let nodes = (1..)
            .zip(claims)
            .map(|(id, claim)| Some(start_node(&lab, id, claim)));
        Self {
            nodes: nodes.collect(),
            balancer,
            lab,
        }
    }

    fn claims(&self, id: usize, claim: Claim) {
        self.nodes[id - 1].as_ref().expect("it runs").claim(claim);
    }

    fn ends(&mut self, id: usize) {
        self.nodes[id - 1] = None;
    }

    fn begins(&mut self, id: usize, claim: Claim) {
        self.nodes[id - 1] = Some(start_node(&self.lab, id, claim));
    }

    fn wait_for(&mut self, what: &str, holds: impl FnMut(&Status) -> bool) {
        let found = self.balancer.wait_for_status(what, PATIENCE, holds);
        found.unwrap();
    }

    /// Waits until `lb status` shows this writer; then the VIP must lead there.
    fn must_be_the_writer(&mut self, id: usize) {
        self.wait_for(&format!("n{id} is the writer"), |status| {
            status.targets(WRITE_SERVICE) == [format!("n{id}")]
        });
        assert_eq!(self.at_the_write_vip(), Ok(id as u64));
    }

    /// Waits until there is no writer, and `lb status` says why.
    fn must_have_no_writer(&mut self, why: &str) {
        self.wait_for(&format!("no writer, since {why:?}"), |status| {
            status.targets(WRITE_SERVICE).is_empty() && problem(status).contains(why)
        });
        assert_eq!(self.at_the_write_vip(), Err(Failure::Refused));
    }

    fn at_the_write_vip(&self) -> Result<u64, Failure> {
        self.lab.client().enter(|| who_is_at(address::WRITE))
    }

    fn must_be_read_from(&mut self, nodes: &[u64]) {
        let names: Vec<String> = nodes.iter().map(|id| format!("n{id}")).collect();
        self.wait_for(&format!("reads from {names:?}"), |status| {
            let mut targets = status.targets(READ_SERVICE);
            targets.sort_unstable();
            targets == names
        });
        let answers = who_answers(self.lab.client(), address::READ, 100, 4);
        assert!(answers.failures.is_empty(), "{answers:?}");
        assert!(answers.by_node.keys().eq(nodes), "{answers:?}");
    }
}

fn start_node(lab: &Lab, id: usize, claim: Claim) -> FakeNode {
    FakeNode::start(lab.node(id), id as u64, address::node(id), claim).unwrap()
}

fn problem(status: &Status) -> &str {
    status.pools[0].problem.as_deref().unwrap_or_default()
}

#[test]
fn of_two_leaders_the_one_with_the_higher_term_has_the_writes() {
    privileged!();
    let mut stage = Stage::start([Claim::leader(5), Claim::leader(6), Claim::replica(6)]);
    stage.must_be_the_writer(2);
    stage.wait_for("an explanation", |status| {
        problem(status).contains("n1 claims to lead in term 5, but term 6 was seen")
    });
    stage.claims(1, Claim::leader(7));
    stage.must_be_the_writer(1);
    stage.claims(2, Claim::replica(7));
    stage.wait_for("no problem", |status| problem(status).is_empty());
    stage.must_be_the_writer(1);
}

#[test]
fn two_leaders_of_one_term_make_no_writer_until_one_gives_way() {
    privileged!();
    let mut stage = Stage::start([Claim::leader(5), Claim::leader(5), Claim::replica(5)]);
    stage.must_have_no_writer("n1 and n2 claim to lead in term 5: no writer");
    stage.claims(1, Claim::replica(5));
    stage.must_be_the_writer(2);
    // Out of the blue, while all is well.
    stage.claims(3, Claim::leader(5));
    stage.must_have_no_writer("n2 and n3 claim to lead in term 5: no writer");
    stage.claims(3, Claim::leader(6));
    stage.must_be_the_writer(3);
}

#[test]
fn a_leader_without_a_term_has_the_writes_until_one_with_a_term_comes() {
    privileged!();
    let without = Claim::leader_without_term();
    let mut stage = Stage::start([without, Claim::none(), Claim::none()]);
    stage.must_be_the_writer(1);
    stage.claims(2, without);
    stage.must_have_no_writer("n1 and n2 claim to lead without a term: no writer");
    stage.claims(3, Claim::leader(1));
    stage.must_be_the_writer(3);
    stage.claims(3, Claim::none());
    stage.must_have_no_writer("n1 claims to lead without a term, but term 1 was seen");
}

#[test]
fn a_term_that_goes_backwards_is_not_accepted() {
    privileged!();
    let mut stage = Stage::start([Claim::leader(6), Claim::replica(6), Claim::replica(6)]);
    stage.must_be_the_writer(1);
    stage.claims(1, Claim::leader(5));
    stage.must_have_no_writer("n1 claims to lead in term 5, but term 6 was seen");
    stage.claims(1, Claim::none());
    stage.claims(2, Claim::leader(5));
    stage.must_have_no_writer("n2 claims to lead in term 5, but term 6 was seen");
    // A follower's word deposes as well as a leader's.
    stage.claims(2, Claim::leader(7));
    stage.must_be_the_writer(2);
    stage.claims(3, Claim::replica(8));
    stage.must_have_no_writer("n2 claims to lead in term 7, but term 8 was seen");
    // It says how to get out of it where the cluster was set up anew.
    stage.must_have_no_writer("restart lb");
    stage.claims(3, Claim::replica(7));
    assert!(stage.balancer.terminate().unwrap().success());
    stage.balancer.start_again().unwrap();
    stage.must_be_the_writer(2);
}

#[test]
fn a_killed_agent_comes_back_and_does_not_fall_for_an_old_leader() {
    privileged!();
    // The old one comes first in the configuration, and is asked first.
    let mut stage = Stage::start([Claim::leader(5), Claim::leader(6), Claim::replica(6)]);
    stage.must_be_the_writer(2);
    let witness = Witness::start(stage.lab.client(), address::WRITE);
    let statuses = stage.balancer.watch_status(Duration::from_millis(10));
    for _ in 0..3 {
        stage.balancer.kill().unwrap();
        stage.balancer.start_again().unwrap();
        stage.wait_for("that all are checked", |status| {
            problem(status).contains("n1 claims to lead in term 5")
        });
    }
    stage.must_be_the_writer(2);
    let testimony = witness.stop();
    let shown: Vec<String> = testimony
        .contradictions()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        shown.is_empty(),
        "{} wrong answers: {:?}",
        shown.len(),
        shown.first()
    );
    check_statuses(&statuses.stop());
}

#[test]
fn a_leadership_that_flaps_is_followed_in_order() {
    privileged!();
    let mut stage = Stage::start([Claim::leader(1), Claim::replica(1), Claim::replica(1)]);
    stage.must_be_the_writer(1);
    let witness = Witness::start(stage.lab.client(), address::WRITE);
    let statuses = stage.balancer.watch_status(Duration::from_millis(10));
    let (mut leader, mut term) = (1, 1);
    for round in 0..30 {
        // Two changes, shorter and longer than the time between two checks;
        // the old leader goes on claiming for a while, or knows at once.
        for _ in 0..2 {
            let next = leader % 3 + 1;
            term += 1;
            stage.claims(next, Claim::leader(term));
            pause(Duration::from_millis(round % 7 * 15));
            stage.claims(leader, Claim::replica(term));
            leader = next;
        }
        // Who leads again before `lb` has heard that it did not in between
        // would confuse the witness.
        stage.wait_for("the last term", |status| status.pools[0].term == Some(term));
    }
    stage.must_be_the_writer(leader);
    let testimony = witness.stop();
    let shown: Vec<String> = testimony
        .contradictions()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        shown.is_empty(),
        "{} wrong answers: {:?}",
        shown.len(),
        shown.first()
    );
    println!("who answered in turn: {:?}", testimony.turns());
    assert!(testimony.turns().len() > 3, "it did not follow");
    check_statuses(&statuses.stop());
}

#[test]
fn reads_go_to_the_leader_only_where_no_replica_is_up() {
    privileged!();
    let mut stage = Stage::start([Claim::leader(5), Claim::replica(5), Claim::replica(5)]);
    stage.must_be_read_from(&[2, 3]);
    stage.ends(3);
    stage.must_be_read_from(&[2]);
    stage.claims(2, Claim::none());
    stage.must_be_read_from(&[1]);
    stage.must_be_the_writer(1);
    stage.begins(3, Claim::replica(5));
    stage.must_be_read_from(&[3]);
    for id in 1..=3 {
        if id != 2 {
            stage.ends(id);
        }
    }
    stage.wait_for("no target at all", |status| {
        [WRITE_SERVICE, READ_SERVICE]
            .iter()
            .all(|name| status.targets(name).is_empty())
    });
    let refused = || stage.lab.client().enter(|| who_is_at(address::READ)) == Err(Failure::Refused);
    assert!(wait_until(Duration::ZERO, refused));
}
