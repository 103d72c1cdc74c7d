//! An agent that takes over the tables of one that died.

use super::*;
use crate::config::Duty;

#[test]
fn a_restart_moves_nothing_and_the_first_reports_move_nothing_either() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let (_, actions) = Agent::new(write_and_read(), installed.clone(), Instant::now());
    let flips = ops(&actions)
        .into_iter()
        .filter(|op| !matches!(op, Op::Cut { .. }));
    assert_eq!(flips.collect::<Vec<_>>(), []);
    let mut stage = Stage::adopting(write_and_read(), installed);
    for (number, says) in [
        (3, Follows(Some(5))),
        (2, Follows(Some(5))),
        (1, Leads(Some(5))),
    ] {
        assert_eq!(ops(&stage.hears(number, says)), [], "n{number}");
    }
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_restart_with_other_weights_fills_the_idle_half_and_flips() {
    let mut weighted = write_and_read();
    let read = weighted.services.values_mut();
    read.for_each(|service| service.algorithm = Algorithm::RoundRobin);
    let installed = Stage::settled(weighted.clone()).agent.installed().clone();
    assert_eq!(installed.slots_of(vip(READ)).len(), 2);
    let (_, unchanged) = Agent::new(weighted.clone(), installed.clone(), Instant::now());
    assert!(
        ops(&unchanged)
            .iter()
            .all(|op| matches!(op, Op::Cut { .. }))
    );
    let pool = weighted.pools.values_mut();
    pool.for_each(|pool| pool.servers[2].weight = 3);
    let (agent, actions) = Agent::new(weighted, installed.clone(), Instant::now());
    let stores = ops(&actions);
    let stores = stores.iter().filter(|op| matches!(op, Op::SetSlots { .. }));
    assert_eq!(stores.count(), 1, "{actions:?}");
    let (before, after) = (
        installed.services[&vip(READ)],
        agent.installed().services[&vip(READ)],
    );
    assert_ne!(before.first_slot, after.first_slot);
    assert_eq!((after.slots, after.members), (4, 2));
}

#[test]
fn a_restart_makes_up_for_the_cut_that_the_dead_agent_did_not_make() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let mut half_done = stage.agent.installed().clone();
    let plan = ops(&stage.hears(2, Leads(Some(6))));
    for op in plan.iter().filter(|op| !matches!(op, Op::Cut { .. })) {
        half_done.apply(op);
    }
    let (agent, actions) = Agent::new(write_and_read(), half_done, Instant::now());
    assert!(cuts(&actions).contains(&old));
    let writer = stage.id(WRITE, 2);
    assert_eq!(agent.installed().selectable(vip(WRITE)), [writer].into());
    assert!(!cuts(&actions).contains(&writer));
}

#[test]
fn an_adopted_leader_that_never_reports_is_dropped() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let mut stage = Stage::adopting(write_and_read(), installed);
    assert_eq!(stage.writer(), Some(1));
    stage.wait(Duration::from_secs(1));
    assert_eq!(stage.writer(), None);
}

#[test]
fn a_new_leader_found_after_a_restart_takes_over_from_the_adopted_one_for_good() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let mut stage = Stage::adopting(write_and_read(), installed);
    stage.hears(1, Nothing);
    stage.hears(3, Follows(Some(6)));
    assert_eq!(stage.writer(), Some(1));
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(2));
    stage.hears(2, Refuses);
    assert_eq!(stage.writer(), None, "what was adopted is out of date");
}

#[test]
fn an_old_leader_that_answers_a_restarted_agent_first_does_not_get_the_writes() {
    let mut before = Stage::settled(write_and_read());
    before.hears(2, Leads(Some(6)));
    let installed = before.agent.installed().clone();
    let mut stage = Stage::adopting(write_and_read(), installed);
    let actions = stage.hears(1, Leads(Some(5)));
    assert_eq!((stage.writer(), cuts(&actions)), (Some(2), vec![]));
    assert_eq!(asked(&actions), ["n2", "n3"]);
    assert_eq!(ops(&stage.hears(2, Leads(Some(6)))), []);
    stage.hears(3, Follows(Some(6)));
    assert_eq!(stage.writer(), Some(2));
    stage.hears(2, Refuses);
    assert_eq!(stage.writer(), None, "n1's term is not the newest");
}

#[test]
fn an_adopted_leader_goes_as_soon_as_a_newer_term_contradicts_what_it_says() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let mut stage = Stage::adopting(write_and_read(), installed);
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), Some(1));
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), None, "n3 may know of a newer one still");
    stage.hears(3, Nothing);
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_table_that_was_made_for_another_route_says_nothing_about_the_leader() {
    let mut before = Stage::new(config(&[service("one", WRITE, Route::Replicas)]));
    before.hears(2, Follows(Some(5)));
    let installed = before.agent.installed().clone();
    let stage = Stage::adopting(config(&[service("one", WRITE, Route::Leader)]), installed);
    assert_eq!(stage.writer(), None);
}

#[test]
fn a_service_that_left_the_configuration_drains_and_then_gives_its_ids_back() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let only_write = config(&[service("write", WRITE, Route::Leader)]);
    let mut stage = Stage::adopting(only_write, installed.clone());
    assert!(!stage.agent.installed().services.contains_key(&vip(READ)));
    let read = installed.services[&vip(READ)].id;
    let gone: Vec<TargetId> = installed
        .targets
        .iter()
        .filter(|(_, t)| t.service == read)
        .map(|(&id, _)| id)
        .collect();
    assert_eq!(gone.len(), 3);
    stage.sees(Event::Swept {
        open: BTreeMap::from([(gone[0], 4)]),
    });
    let actions = stage.sees(Event::Swept {
        open: BTreeMap::from([(gone[0], 2)]),
    });
    let cleared = |actions: &[Action]| -> Vec<TargetId> {
        let cleared = ops(actions).into_iter().filter_map(|op| match op {
            Op::ClearTarget { id } => Some(id),
            _ => None,
        });
        cleared.collect()
    };
    assert_eq!(cleared(&actions), gone[1..]);
    assert!(cuts(&stage.wait(DRAIN)).contains(&gone[0]));
    stage.sees(Event::Swept {
        open: BTreeMap::new(),
    });
    assert_eq!(
        cleared(&stage.sees(Event::Swept {
            open: BTreeMap::new()
        })),
        gone[..1]
    );
}

/// The leader is in no slot while it is drained: only what it says tells the next
/// agent that it leads.
#[test]
fn a_leader_that_is_drained_is_not_cut_by_the_next_agent_before_its_deadline() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let mut drained = write_and_read();
    let since = stage.now;
    drained.pools.values_mut().for_each(|pool| {
        let deadline = Some(DRAIN);
        pool.servers[0].duty = Duty::Drain { since, deadline };
    });
    let config = Box::new(drained.clone());
    assert_eq!(cuts(&stage.sees(Event::Configured { config })), []);
    assert_eq!(stage.writer(), None);
    let installed = stage.agent.installed().clone();
    let (mut agent, actions) = Agent::new(drained.clone(), installed.clone(), since);
    assert!(!cuts(&actions).contains(&old));
    for (number, says) in [
        (1, Leads(Some(5))),
        (2, Follows(Some(5))),
        (3, Follows(Some(5))),
    ] {
        let actions = agent.handle(since, checked(since, number, says));
        assert!(!cuts(&actions).contains(&old), "n{number}");
    }
    // Another leads: then it does not.
    let actions = agent.handle(since, checked(since, 2, Leads(Some(6))));
    assert!(cuts(&actions).contains(&old));

    // Nobody does: that is known when the last of them was heard, though nothing else
    // changes by it.
    let (mut agent, _) = Agent::new(drained, installed, since);
    for number in [1, 3] {
        let actions = agent.handle(since, checked(since, number, Follows(Some(5))));
        assert!(!cuts(&actions).contains(&old), "n{number}");
    }
    let actions = agent.handle(since, checked(since, 2, Follows(Some(5))));
    assert!(cuts(&actions).contains(&old));
}
