//! Who gets how much: backup servers, and servers that start slowly.

use super::*;
use crate::engine::{Admin, AgentReport};

const MINUTE: Duration = Duration::from_secs(60);

/// A write and a read service, where the pool has been edited.
fn edited(read: Route, edit: impl Fn(&mut crate::config::Pool)) -> Config {
    let mut config = config(&[
        service("write", WRITE, Route::Leader),
        service("read", READ, read),
    ]);
    config.pools.values_mut().for_each(edit);
    config
}

fn with_backup(read: Route) -> Stage {
    Stage::settled(edited(read, |pool| pool.servers[2].backup = true))
}

fn slowly() -> Stage {
    Stage::settled(edited(Route::Any, |pool| pool.slow_start = Some(MINUTE)))
}

/// Lets time pass while everybody says the same: n1 leads, the others follow.
fn go_on(stage: &mut Stage, time: Duration) -> Vec<Action> {
    let end = stage.now + time;
    let mut actions = Vec::new();
    while stage.now < end {
        actions.extend(stage.hears(1, Leads(Some(5))));
        actions.extend(stage.hears(2, Follows(Some(5))));
        actions.extend(stage.hears(3, Follows(Some(5))));
        actions.extend(stage.wait(INTERVAL));
    }
    actions
}

/// The weights of n1, n2 and n3 in the read service.
fn weights(stage: &Stage) -> [u32; 3] {
    let targets = &stage.agent.installed().targets;
    [1, 2, 3].map(|number| targets[&stage.id(READ, number)].weight)
}

#[test]
fn a_backup_gets_connections_only_while_nobody_else_can() {
    for (route, without) in [(Route::Replicas, vec![3]), (Route::ReplicasFirst, vec![1])] {
        let mut stage = with_backup(route);
        assert_eq!(stage.targets(READ), [2], "{route}");
        stage.hears(2, Refuses);
        assert_eq!(stage.targets(READ), without, "{route}");
        stage.hears(2, Follows(Some(5)));
        stage.hears(2, Follows(Some(5)));
        assert_eq!(stage.targets(READ), [2], "{route}");
    }
}

#[test]
fn connections_to_a_backup_live_on_when_others_are_back_unless_told_otherwise() {
    for (on_change, cut) in [
        (OnChange::Keep, false),
        (OnChange::Drain, false),
        (OnChange::Reset, true),
    ] {
        let mut config = edited(Route::Replicas, |pool| pool.servers[2].backup = true);
        config.services.get_mut("read").unwrap().on_change = on_change;
        let mut stage = Stage::settled(config);
        stage.hears(2, Refuses);
        let backup = stage.id(READ, 3);
        stage.hears(2, Follows(Some(5)));
        let actions = stage.hears(2, Follows(Some(5)));
        assert_eq!(cuts(&actions).contains(&backup), cut, "{on_change}");
    }
}

#[test]
fn a_backup_that_leads_gets_the_writes() {
    let mut stage = with_backup(Route::Replicas);
    stage.hears(3, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(3));
}

#[test]
fn a_server_that_comes_back_gets_its_share_step_by_step() {
    let mut stage = slowly();
    assert_eq!(weights(&stage), [100; 3], "not at the agent's own start");
    stage.hears(2, Refuses);
    go_on(&mut stage, INTERVAL * 2);
    assert_eq!(weights(&stage), [100, 10, 100]);
    let actions = go_on(&mut stage, MINUTE / 2);
    assert_eq!(weights(&stage), [100, 60, 100]);
    assert_eq!(cuts(&actions), [], "a share that grows cuts nobody off");
    go_on(&mut stage, MINUTE / 2);
    assert_eq!(weights(&stage), [100; 3]);
}

#[test]
fn a_server_that_falls_again_begins_anew() {
    let mut stage = slowly();
    stage.hears(2, Refuses);
    go_on(&mut stage, MINUTE / 2);
    stage.hears(2, Refuses);
    go_on(&mut stage, INTERVAL * 2);
    assert_eq!(weights(&stage), [100, 10, 100]);
}

#[test]
fn a_drained_server_was_warm_all_the_time() {
    let mut stage = slowly();
    for admin in [Admin::Drain, Admin::Ready] {
        stage.sees(Event::Advised {
            pool: "kv".into(),
            server: "n2".into(),
            report: Ok(AgentReport {
                admin: Some(admin),
                ..AgentReport::default()
            }),
        });
    }
    assert_eq!(weights(&stage), [100; 3]);
}

#[test]
fn a_leader_never_starts_slowly() {
    let mut stage = slowly();
    stage.hears(2, Refuses);
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(2));
    assert_eq!(weights(&stage)[1], 100);
}
