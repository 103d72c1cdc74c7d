//! Which servers a service uses, and what becomes of its connections.

use super::*;

#[test]
fn writes_go_to_the_leader_and_reads_to_the_replicas() {
    let stage = Stage::settled(write_and_read());
    assert_eq!(stage.writer(), Some(1));
    assert_eq!(stage.targets(READ), [2, 3]);
}

#[test]
fn a_replica_is_read_from_after_its_first_check_and_the_leader_written_to_after_everybodys() {
    let mut stage = Stage::new(write_and_read());
    assert_eq!((stage.writer(), stage.targets(READ)), (None, vec![]));
    let actions = stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), None);
    assert_eq!(
        asked(&actions),
        ["n2", "n3"],
        "without waiting for their turn"
    );
    let problem = stage.problem().unwrap();
    assert_eq!(problem, "not every server has been checked yet");
    stage.hears(2, Follows(Some(5)));
    assert_eq!(stage.targets(READ), [2]);
    stage.hears(3, Nothing);
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_server_whose_first_check_never_ends_keeps_the_others_waiting_for_a_while_only() {
    let mut stage = Stage::new(write_and_read());
    for _ in 0..2 {
        stage.hears(1, Leads(Some(5)));
        stage.hears(2, Follows(Some(5)));
        assert_eq!(stage.writer(), None);
        stage.wait(INTERVAL);
    }
    stage.wait(Duration::from_millis(500));
    stage.hears(1, Leads(Some(5)));
    stage.wait(TICK);
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_server_is_used_only_when_the_way_to_it_is_known() {
    let (agent, _) = Agent::new(write_and_read(), Installed::default(), Instant::now());
    let mut stage = Stage {
        agent,
        now: Instant::now(),
    };
    stage.hears(2, Follows(Some(5)));
    stage.hears(3, Follows(Some(5)));
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), None);
    stage.sees(resolved(1));
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn losing_the_way_to_a_server_stops_new_connections_and_cuts_none() {
    let mut stage = Stage::settled(write_and_read());
    let actions = stage.sees(Event::Resolved {
        server: server(1).ip(),
        route: None,
    });
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), []);
    stage.sees(resolved(1));
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_replica_without_a_leader_for_a_moment_keeps_its_reads_until_fall() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(2, Neither(Some(6)));
    stage.hears(2, Neither(Some(6)));
    assert_eq!(stage.targets(READ), [2, 3]);
    stage.hears(2, Neither(Some(6)));
    assert_eq!(stage.targets(READ), [3]);
}

#[test]
fn a_read_server_that_is_down_leaves_the_slots_before_its_connections_are_cut() {
    let mut stage = Stage::settled(write_and_read());
    let id = stage.id(READ, 2);
    let actions = stage.hears(2, Refuses);
    assert_eq!(stage.targets(READ), [3]);
    let ops = ops(&actions);
    let flip = ops
        .iter()
        .position(|op| matches!(op, Op::SetService { .. }))
        .unwrap();
    let cut = ops.iter().position(|op| *op == Op::Cut { id }).unwrap();
    assert!(flip < cut, "{flip} {cut}");
}

#[test]
fn reads_of_a_replica_that_becomes_the_leader_live_on() {
    let mut stage = Stage::settled(write_and_read());
    let read = stage.id(READ, 2);
    let actions = stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.targets(READ), [3]);
    assert!(!cuts(&actions).contains(&read));
}

#[test]
fn replicas_first_goes_to_the_leader_in_the_same_pass_when_the_last_replica_dies() {
    let read = service("read", READ, Route::ReplicasFirst);
    let mut stage = Stage::settled(config(&[service("write", WRITE, Route::Leader), read]));
    stage.hears(2, Refuses);
    assert_eq!(stage.targets(READ), [3]);
    let actions = stage.hears(3, Refuses);
    assert_eq!(stage.targets(READ), [1]);
    let empty = ops(&actions).iter().any(
        |op| matches!(op, Op::SetSlots { targets, .. } if targets.iter().all(|&id| id == TargetId::NONE)),
    );
    assert!(!empty, "reads were refused in between");
}

#[test]
fn a_refused_client_has_the_server_checked_once() {
    let mut stage = Stage::settled(write_and_read());
    let id = stage.id(WRITE, 1);
    assert_eq!(asked(&stage.sees(refused(id))), ["n1"]);
    assert_eq!(asked(&stage.sees(refused(id))), [""; 0]);
    stage.hears(1, Leads(Some(5)));
    assert_eq!(asked(&stage.sees(refused(id))), ["n1"]);
}

#[test]
fn services_are_told_of_their_first_and_last_target_once() {
    let mut stage = Stage::new(write_and_read());
    let told = |actions: &[Action]| -> Vec<(String, ServiceState)> {
        let told = actions.iter().filter_map(|action| match action {
            Action::Notice(Notice::Service { service, state }) => {
                Some((service.to_string(), *state))
            }
            _ => None,
        });
        told.collect()
    };
    stage.hears(2, Nothing);
    stage.hears(3, Nothing);
    let up = stage.hears(1, Leads(Some(5)));
    assert_eq!(told(&up), [("write".to_owned(), ServiceState::Serving)]);
    assert_eq!(told(&stage.hears(1, Leads(Some(5)))), []);
    let down = stage.hears(1, Refuses);
    assert_eq!(told(&down), [("write".to_owned(), ServiceState::NoTarget)]);
}

#[test]
fn the_status_says_what_an_operator_asks() {
    let mut stage = Stage::settled(write_and_read());
    let open = BTreeMap::from([(stage.id(WRITE, 1), 3)]);
    stage.sees(Event::Swept { open });
    stage.wait(Duration::from_millis(50));
    let status = stage.agent.status(stage.now);
    let (read, write) = (&status.services[0], &status.services[1]);
    assert_eq!(
        (read.name.as_str(), read.targets.len(), read.state),
        ("read", 2, ServiceState::Serving)
    );
    assert_eq!(
        (write.name.as_str(), write.targets[0].connections),
        ("write", 3)
    );
    let pool = &status.pools[0];
    assert_eq!(pool.leader.as_ref().map(|name| name.as_str()), Some("n1"));
    assert_eq!((pool.term, pool.problem.as_deref()), (Some(5), None));
    let check = pool.servers[0].check.as_ref().unwrap();
    assert_eq!(
        (check.code.as_str(), check.took_ms, check.ago_ms),
        ("L7OK", 1, 50)
    );
    stage.hears(1, Refuses);
    assert_eq!(stage.problem().as_deref(), Some("no server claims to lead"));
}

fn refused(id: TargetId) -> Event {
    Event::BackendFailed {
        id,
        failure: crate::engine::BackendFailure::Refused,
    }
}
