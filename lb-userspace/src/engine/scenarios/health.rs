//! What keeps a server out of a service beside its checks: its lag, its agent,
//! its clients' failures; and what it may do before its first check.

use super::*;
use crate::config::{InitState, Observe};
use crate::engine::{Admin, AgentReport, BackendFailure, Operating};

fn lagging(now: Instant, number: u8, says: Says, lag: u64) -> Event {
    behind(checked(now, number, says), Some(lag))
}

fn advised(number: u8, report: AgentReport) -> Event {
    Event::Advised {
        pool: "kv".into(),
        server: format!("n{number}").as_str().into(),
        report: Ok(report),
    }
}

fn failed(id: TargetId, failure: BackendFailure) -> Event {
    Event::BackendFailed { id, failure }
}

/// A write and a read service, where the pool has been edited.
fn edited(edit: impl Fn(&mut crate::config::Pool)) -> Config {
    let mut config = write_and_read();
    config.pools.values_mut().for_each(edit);
    config
}

fn states(stage: &Stage) -> [ServerState; 3] {
    let status = stage.agent.status(stage.now);
    let states: Vec<ServerState> = status.pools[0]
        .servers
        .iter()
        .map(|one| one.state)
        .collect();
    states.try_into().unwrap()
}

fn why(stage: &Stage, number: usize) -> String {
    let status = stage.agent.status(stage.now);
    status.pools[0].servers[number - 1].why.join("\n")
}

#[test]
fn a_replica_that_lags_too_far_is_not_read_from_until_it_has_caught_up() {
    let mut stage = Stage::new(edited(|pool| {
        pool.role.as_mut().unwrap().max_lag = Some(10);
    }));
    stage.sees(lagging(stage.now, 1, Leads(Some(5)), 0));
    stage.sees(lagging(stage.now, 2, Follows(Some(5)), 10));
    stage.sees(lagging(stage.now, 3, Follows(Some(5)), 11));
    assert_eq!((stage.writer(), stage.targets(READ)), (Some(1), vec![2]));
    assert!(
        why(&stage, 3).contains("11 behind, which is too far"),
        "{}",
        why(&stage, 3)
    );
    stage.hears(2, Nothing);
    assert_eq!(stage.targets(READ), [2], "silence is no lag");
    stage.sees(lagging(stage.now, 3, Follows(Some(5)), 3));
    assert_eq!(stage.targets(READ), [2, 3]);
}

#[test]
fn a_replica_that_does_not_tell_its_lag_is_not_read_from_where_it_matters() {
    let mut stage = Stage::new(edited(|pool| {
        pool.role.as_mut().unwrap().max_lag = Some(10);
    }));
    stage.hears(1, Leads(Some(5)));
    stage.hears(2, Follows(Some(5)));
    stage.sees(lagging(stage.now, 3, Follows(Some(5)), 0));
    assert_eq!((stage.writer(), stage.targets(READ)), (Some(1), vec![3]));
    stage.sees(behind(line(3, Leads(Some(4))), None));
    assert_eq!(stage.targets(READ), [3], "a line need not tell it");
    stage.now += Duration::from_millis(5);
    stage.hears(3, Follows(Some(5)));
    assert_eq!(
        stage.targets(READ),
        [0; 0],
        "what it told once counts no more"
    );
}

#[test]
fn an_agent_takes_its_server_out_and_only_it_brings_it_back() {
    let nothing = AgentReport::default();
    let mut stage = Stage::settled(write_and_read());
    let read = stage.id(READ, 2);
    let admin = |admin| AgentReport {
        admin: Some(admin),
        ..AgentReport::default()
    };
    stage.sees(advised(2, admin(Admin::Drain)));
    assert_eq!(stage.targets(READ), [3]);
    assert_eq!(states(&stage)[1], ServerState::Drain);
    stage.sees(advised(2, nothing.clone()));
    stage.hears(2, Follows(Some(5)));
    assert_eq!(stage.targets(READ), [3], "it has not said ready");
    stage.sees(advised(2, admin(Admin::Maint)));
    assert_eq!(states(&stage)[1], ServerState::Maint);
    stage.sees(advised(2, admin(Admin::Ready)));
    assert_eq!(stage.targets(READ), [2, 3]);

    let down = AgentReport {
        operating: Some(Operating::Down("fail: disk".into())),
        ..nothing.clone()
    };
    let actions = stage.sees(advised(2, down));
    assert_eq!(
        (stage.targets(READ), states(&stage)[1]),
        (vec![3], ServerState::Down)
    );
    assert_eq!(cuts(&actions), [read], "on_down = reset");
    let told = actions.iter().any(|action| match action {
        Action::Notice(notice) => {
            notice.to_string() == "server kv/n2 is DOWN: its agent says fail: disk"
        }
        _ => false,
    });
    assert!(told, "{actions:?}");
    stage.hears(2, Follows(Some(5)));
    assert_eq!(
        stage.targets(READ),
        [3],
        "checks alone do not bring it back"
    );
    let up = AgentReport {
        operating: Some(Operating::Up),
        ..nothing
    };
    stage.sees(advised(2, up));
    assert_eq!(stage.targets(READ), [2, 3]);
}

#[test]
fn an_agent_that_is_gone_changes_nothing_and_is_shown() {
    let mut stage = Stage::settled(edited(|pool| {
        pool.servers[1].agent_address = Some(server(2));
    }));
    stage.sees(Event::Advised {
        pool: "kv".into(),
        server: "n2".into(),
        report: Err("the agent: connection refused".into()),
    });
    assert_eq!(stage.targets(READ), [2, 3]);
    assert!(why(&stage, 2).contains("agent: the agent: connection refused"));
}

#[test]
fn a_leader_that_is_drained_takes_no_writes_and_still_leads() {
    let mut stage = Stage::settled(write_and_read());
    let drain = AgentReport {
        admin: Some(Admin::Drain),
        ..AgentReport::default()
    };
    let actions = stage.sees(advised(1, drain));
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), [], "its connections may end");
    let status = stage.agent.status(stage.now);
    assert_eq!(status.pools[0].leader, Some("n1".into()));
}

#[test]
fn an_agents_weight_is_a_part_of_the_servers_own() {
    let mut config = edited(|pool| {
        for server in &mut pool.servers {
            server.agent_address = Some(server.address);
        }
    });
    let read = config.services.get_mut("read").unwrap();
    read.algorithm = Algorithm::RoundRobin;
    let mut stage = Stage::settled(config);
    let share = |stage: &Stage, number| {
        let id = stage.id(READ, number);
        let slots = stage.agent.installed().slots_of(vip(READ));
        (
            slots.iter().filter(|&&slot| slot == id).count(),
            slots.len(),
        )
    };
    assert_eq!(share(&stage, 2), (1, 2));
    let percent = |percent| AgentReport {
        percent: Some(percent),
        ..AgentReport::default()
    };
    stage.sees(advised(2, percent(25)));
    assert_eq!((share(&stage, 2), share(&stage, 3)), ((1, 5), (4, 5)));
    let limit = AgentReport {
        max_connections: Some(30),
        ..AgentReport::default()
    };
    stage.sees(advised(2, limit));
    let id = stage.id(READ, 2);
    assert_eq!(
        stage.agent.installed().targets[&id].max_connections,
        Some(30)
    );
    let actions = stage.sees(advised(2, percent(0)));
    assert_eq!((stage.targets(READ), cuts(&actions)), (vec![3], vec![]));
    assert_eq!(states(&stage)[1], ServerState::Drain);
}

fn observing() -> Config {
    edited(|pool| {
        pool.check.observe = Observe::Layer4;
        pool.check.breaker.error_limit = 3;
    })
}

/// Lets so much time pass in which every server answers as before.
fn go_on(stage: &mut Stage, time: Duration) {
    let end = stage.now + time;
    while stage.now < end {
        stage.wait(TICK);
        stage.hears(1, Leads(Some(5)));
        stage.hears(2, Follows(Some(5)));
        stage.hears(3, Follows(Some(5)));
    }
}

#[test]
fn a_server_whose_clients_fail_is_left_alone_until_probes_have_passed() {
    let mut stage = Stage::settled(observing());
    let id = stage.id(READ, 2);
    stage.sees(failed(id, BackendFailure::Refused));
    stage.sees(failed(id, BackendFailure::Unanswered));
    assert_eq!(stage.targets(READ), [2, 3]);
    let actions = stage.sees(failed(id, BackendFailure::Unanswered));
    assert_eq!(
        (stage.targets(READ), states(&stage)[1]),
        (vec![3], ServerState::Down)
    );
    assert_eq!(cuts(&actions), [], "connections that work go on");
    assert!(
        why(&stage, 2).contains("circuit: open"),
        "{}",
        why(&stage, 2)
    );
    go_on(&mut stage, Duration::from_secs(59));
    assert_eq!(stage.targets(READ), [3]);
    go_on(&mut stage, Duration::from_secs(1));
    assert!(
        why(&stage, 2).contains("circuit: half-open; 1 check"),
        "{}",
        why(&stage, 2)
    );
    go_on(&mut stage, TICK);
    assert_eq!(
        (stage.targets(READ), states(&stage)[1]),
        (vec![2, 3], ServerState::Up)
    );
}

#[test]
fn the_leader_and_the_last_replica_are_used_whatever_their_clients_say() {
    let mut stage = Stage::settled(observing());
    for (port, number) in [(WRITE, 1), (READ, 2), (READ, 3)] {
        let id = stage.id(port, number);
        for _ in 0..3 {
            stage.sees(failed(id, BackendFailure::Refused));
        }
    }
    assert_eq!((stage.writer(), stage.targets(READ)), (Some(1), vec![2, 3]));
}

#[test]
fn without_observe_nothing_is_counted_and_a_second_syn_means_nothing() {
    let mut stage = Stage::settled(write_and_read());
    let id = stage.id(READ, 2);
    for _ in 0..100 {
        let actions = stage.sees(failed(id, BackendFailure::Unanswered));
        assert_eq!(actions, []);
        stage.sees(failed(id, BackendFailure::Refused));
    }
    assert_eq!(stage.targets(READ), [2, 3]);
}

/// Before the first check, and after a bad and a good one; rise 2, fall 3.
#[test]
fn what_a_server_is_before_its_first_check() {
    let table = [
        (InitState::FullyUp, [true, true, true]),
        (InitState::Up, [true, false, true]),
        (InitState::Down, [false, false, true]),
        (InitState::FullyDown, [false, false, false]),
    ];
    for (init_state, expected) in table {
        let mut config = config(&[service("any", READ, Route::Any)]);
        config.pools.values_mut().for_each(|pool| {
            pool.check.init_state = init_state;
            pool.role = None;
        });
        let uses = |says: Option<Says>| {
            let mut stage = Stage::new(config.clone());
            if let Some(says) = says {
                stage.hears(1, says);
            }
            stage.targets(READ).contains(&1)
        };
        let found = [uses(None), uses(Some(Nothing)), uses(Some(Follows(None)))];
        assert_eq!(found, expected, "{init_state}");
    }
}

#[test]
fn no_initial_state_makes_a_writer() {
    for init_state in [InitState::FullyUp, InitState::Up] {
        let config = edited(|pool| pool.check.init_state = init_state);
        let mut stage = Stage::new(config);
        assert_eq!((stage.writer(), stage.targets(READ)), (None, vec![]));
        stage.hears(1, Leads(Some(5)));
        assert_eq!(stage.writer(), None, "the others have not been heard");
    }
}

#[test]
fn a_server_is_probed_as_often_as_its_state_asks_for() {
    let paces = |actions: &[Action]| -> Vec<Pace> {
        let paces = actions.iter().filter_map(|action| match action {
            Action::Pace { server, pace, .. } if server.as_str() == "n2" => Some(*pace),
            _ => None,
        });
        paces.collect()
    };
    let mut stage = Stage::settled(write_and_read());
    assert_eq!(paces(&stage.hears(2, Nothing)), [Pace::Fast]);
    assert_eq!(paces(&stage.hears(2, Nothing)), []);
    assert_eq!(paces(&stage.hears(2, Nothing)), [Pace::Down]);
    assert_eq!(paces(&stage.hears(2, Follows(Some(5)))), [Pace::Fast]);
    assert_eq!(paces(&stage.hears(2, Follows(Some(5)))), [Pace::Normal]);
    assert_eq!(
        paces(&stage.hears(1, Refuses)),
        [Pace::Fast],
        "nobody leads"
    );
    assert_eq!(paces(&stage.hears(3, Leads(Some(6)))), [Pace::Normal]);
}
