//! Which faults strike, when, and for how long: from a seed.

use std::time::Duration;

use crate::rows::random::Random;

/// The first fault strikes so many milliseconds after the beginning.
const FIRST: u64 = 1500;
/// Milliseconds between the beginnings of two faults, which may overlap.
const PAUSE: [u64; 2] = [600, 2400];

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The node that leads at that moment.
    Leader,
    /// This node.
    Node(usize),
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A node is killed (SIGKILL), and started again.
    Kill(Victim),
    /// A node leaves in order (SIGTERM), and is started again.
    Leave(Victim),
    /// A node is stopped (SIGSTOP), and goes on.
    Freeze(Victim),
    /// A node is stopped again and again, longer than a heartbeat: as one whose disk is slow.
    Stutter(Victim),
    /// A node loses the others; the balancer and the clients still reach it.
    Isolate(Victim),
    /// A node loses one of the others.
    Sever(Victim),
    /// A node's link is down.
    Unplug(Victim),
    /// The agent is killed, and started again.
    KillAgent,
    /// The agent is stopped, and goes on.
    FreezeAgent,
    /// The balancer's link is down.
    UnplugBalancer,
    /// The agent reads another configuration.
    Reload,
    /// The leader hands over.
    HandOver,
    /// All nodes are killed at once, and started again.
    KillAll,
}

impl Fault {
    /// Each of them once, those that have a victim with one.
    fn deal(random: &mut Random, nodes: usize) -> Vec<Self> {
        let mut victim = || match random.once_in(2) {
            true => Victim::Leader,
            false => Victim::Node(1 + random.below(nodes)),
        };
        vec![
            Self::Kill(victim()),
            Self::Leave(victim()),
            Self::Freeze(victim()),
            Self::Stutter(victim()),
            Self::Isolate(victim()),
            Self::Sever(victim()),
            Self::Unplug(victim()),
            Self::KillAgent,
            Self::FreezeAgent,
            Self::UnplugBalancer,
            Self::Reload,
            Self::HandOver,
            Self::KillAll,
        ]
    }

    /// For how long, in milliseconds: shorter than a check or an election, and
    /// longer than both.
    fn lasts(self) -> [u64; 2] {
        match self {
            Self::Kill(_) => [50, 1500],
            Self::Leave(_) => [0, 300],
            Self::Freeze(_) => [50, 2500],
            Self::Stutter(_) => [1000, 3000],
            Self::Isolate(_) | Self::Sever(_) => [300, 2500],
            Self::Unplug(_) => [20, 2000],
            Self::KillAgent => [0, 1500],
            Self::FreezeAgent | Self::UnplugBalancer => [50, 1500],
            Self::Reload | Self::HandOver => [0, 0],
            Self::KillAll => [0, 500],
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When it strikes, since the beginning.
    pub at: Duration,
    /// For how long.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// The faults of `seed`, in the order in which they strike; all are over after
/// `duration`. Each kind strikes once before any strikes again.
pub fn schedule(seed: u64, nodes: usize, duration: Duration) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    let mut deck = Vec::new();
    let mut at = Duration::from_millis(FIRST);
    loop {
        if deck.is_empty() {
            deck = Fault::deal(&mut random, nodes);
        }
        let fault: Fault = deck.swap_remove(random.below(deck.len()));
        let lasts = between(&mut random, fault.lasts());
        if at + lasts > duration {
            return steps;
        }
        steps.push(Step { at, lasts, fault });
        at += between(&mut random, PAUSE);
    }
}

/// Milliseconds from the first to the second.
fn between(random: &mut Random, [least, most]: [u64; 2]) -> Duration {
    let more = random.below((most - least) as usize + 1) as u64;
    Duration::from_millis(least + more)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_means_the_same_faults_and_another_seed_others() {
        assert_eq!(schedule(5, 3, MINUTE), schedule(5, 3, MINUTE));
        assert_ne!(schedule(5, 3, MINUTE), schedule(6, 3, MINUTE));
        // A shorter run is the beginning of a longer one.
        let half = schedule(5, 3, MINUTE / 2);
        assert_eq!(schedule(5, 3, MINUTE)[..half.len()], half);
    }

    #[test]
    fn within_a_minute_every_fault_strikes_and_all_are_over_in_time() {
        for seed in 0..100 {
            let steps = schedule(seed, 3, MINUTE);
            assert!(steps.is_sorted_by_key(|step| step.at));
            assert!(steps.iter().all(|step| step.at + step.lasts <= MINUTE));
            let kinds: HashSet<_> = steps.iter().map(|step| discriminant(&step.fault)).collect();
            assert_eq!(kinds.len(), Fault::deal(&mut Random::new(seed), 3).len());
            for step in steps {
                let least = Duration::from_millis(step.fault.lasts()[0]);
                let most = Duration::from_millis(step.fault.lasts()[1]);
                assert!((least..=most).contains(&step.lasts), "{step:?}");
            }
        }
    }
}
