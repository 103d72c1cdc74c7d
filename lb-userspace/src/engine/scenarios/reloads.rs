//! Another configuration while the agent runs.

use std::net::SocketAddr;

use super::*;
use crate::config::{Pool, Server};
use crate::engine::{Held, Others};

/// A service that is there from the beginning, and one that comes and goes.
const MORE: u16 = 8082;

impl Stage {
    fn configure(&mut self, config: Config) -> Vec<Action> {
        let config = Box::new(config);
        self.sees(Event::Configured { config })
    }

    fn swept(&mut self, open: &[(TargetId, u64)]) -> Vec<Action> {
        let open = open.iter().copied().collect();
        self.sees(Event::Swept { open })
    }
}

/// `config` with its one pool changed.
fn with_pool(mut config: Config, change: impl Fn(&mut Pool)) -> Config {
    config.pools.values_mut().for_each(change);
    config
}

fn without(number: usize) -> Config {
    with_pool(write_and_read(), |pool| {
        drop(pool.servers.remove(number - 1));
    })
}

fn checks_and_notices(actions: &[Action]) -> Vec<&Action> {
    let told = |action: &&Action| match action {
        Action::CheckNow { .. } | Action::Notice(_) => true,
        Action::Apply(_)
        | Action::Pace { .. }
        | Action::Hold(_)
        | Action::Inquire { .. }
        | Action::Follow { .. } => false,
    };
    actions.iter().filter(told).collect()
}

fn held(actions: &[Action]) -> Vec<&Held> {
    let held = actions.iter().filter_map(|action| match action {
        Action::Hold(vips) => Some(vips),
        _ => None,
    });
    held.collect()
}

#[test]
fn the_same_configuration_changes_nothing_and_asks_nobody() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(2, Nothing);
    let before = stage.agent.status(stage.now);
    let actions = stage.configure(write_and_read());
    assert_eq!(
        (ops(&actions), checks_and_notices(&actions)),
        (vec![], vec![])
    );
    assert_eq!(held(&actions), Vec::<&Held>::new());
    assert_eq!(stage.agent.status(stage.now), before);
}

#[test]
fn a_server_that_joins_gets_connections_when_its_first_check_has_passed() {
    let mut stage = Stage::new(without(3));
    stage.hears(1, Leads(Some(5)));
    stage.hears(2, Follows(Some(5)));
    let reading = stage.id(READ, 2);
    let actions = stage.configure(write_and_read());
    assert_eq!((ops(&actions), stage.targets(READ)), (vec![], vec![2]));
    // Until the way to it is known, its checks are not enough.
    stage.hears(3, Follows(Some(5)));
    assert_eq!(stage.targets(READ), [2]);
    let actions = stage.sees(resolved(3));
    assert_eq!((stage.targets(READ), cuts(&actions)), (vec![2, 3], vec![]));
    assert_eq!((stage.writer(), stage.id(READ, 2)), (Some(1), reading));
}

#[test]
fn a_server_that_joins_does_not_hold_up_a_leader_change() {
    let mut stage = Stage::new(without(3));
    stage.hears(1, Leads(Some(5)));
    stage.hears(2, Follows(Some(5)));
    stage.configure(write_and_read());
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(2));
    // An old leader joins: terms are remembered.
    stage.sees(resolved(3));
    stage.hears(3, Leads(Some(4)));
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_server_that_leaves_gets_nothing_new_and_its_connections_are_cut_at_the_deadline() {
    let mut config = write_and_read();
    let read = config.services.values_mut();
    read.for_each(|service| service.drain_timeout = DRAIN / 3);
    let mut stage = Stage::settled(config.clone());
    let gone = stage.id(READ, 3);
    let actions = stage.configure(with_pool(config, |pool| drop(pool.servers.pop())));
    assert_eq!((stage.targets(READ), cuts(&actions)), (vec![2], vec![]));
    stage.swept(&[(gone, 4)]);
    let status = stage.agent.status(stage.now);
    let [draining] = &status.draining[..] else {
        panic!("{:?}", status.draining);
    };
    assert_eq!(
        (draining.service.as_str(), draining.connections),
        ("read", 4)
    );
    assert_eq!(draining.server.as_str(), server(3).to_string());
    assert_eq!(draining.reset_in_ms, 10_000);
    stage.wait(DRAIN / 3 - TICK);
    assert_eq!(stage.agent.status(stage.now).draining.len(), 1);
    assert!(cuts(&stage.wait(TICK)).contains(&gone));
    assert_eq!(stage.agent.status(stage.now).draining, []);
}

#[test]
fn a_server_that_comes_back_in_time_keeps_its_connections_and_its_id() {
    let mut stage = Stage::settled(write_and_read());
    let id = stage.id(READ, 3);
    stage.configure(without(3));
    stage.wait(INTERVAL);
    stage.configure(write_and_read());
    stage.sees(resolved(3));
    stage.hears(3, Follows(Some(5)));
    assert_eq!((stage.targets(READ), stage.id(READ, 3)), (vec![2, 3], id));
    let mut all = Vec::new();
    for _ in 0..60 {
        for (number, says) in [
            (1, Leads(Some(5))),
            (2, Follows(Some(5))),
            (3, Follows(Some(5))),
        ] {
            all.extend(stage.hears(number, says));
        }
        all.extend(stage.wait(Duration::from_millis(600)));
    }
    assert_eq!(cuts(&all), []);
}

#[test]
fn a_leader_that_leaves_the_file_takes_no_writes_and_is_cut_when_another_leads() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.configure(without(1));
    assert_eq!((stage.writer(), cuts(&actions)), (None, vec![]));
    assert_eq!(asked(&actions), ["n2", "n3"]);
    let notices = checks_and_notices(&actions);
    let lost = Notice::Leader {
        pool: "kv".into(),
        from: Some("n1".into()),
        to: None,
        term: None,
        why: Some("the pool has it no more".to_owned()),
    };
    assert!(notices.contains(&&Action::Notice(lost)), "{notices:?}");
    let actions = stage.hears(2, Leads(Some(6)));
    assert_eq!((stage.writer(), cuts(&actions)), (Some(2), vec![old]));
}

#[test]
fn a_server_of_another_address_is_another_server() {
    let mut stage = Stage::settled(write_and_read());
    let moved = with_pool(write_and_read(), |pool| {
        pool.servers[1].address = SocketAddr::from(([10, 0, 0, 99], 8081));
    });
    let actions = stage.configure(moved);
    assert_eq!((stage.targets(READ), cuts(&actions)), (vec![3], vec![]));
    let status = &stage.agent.status(stage.now).pools[0].servers[1];
    assert_eq!((status.state, &status.check), (ServerState::Down, &None));
    let status = &stage.agent.status(stage.now).pools[0].servers[2];
    assert_eq!(status.state, ServerState::Up);
}

#[test]
fn a_changed_weight_fills_the_idle_half_and_cuts_nobody() {
    let mut stage = Stage::settled(write_and_read());
    let before = stage.agent.installed().services[&vip(READ)];
    let weighted = with_pool(write_and_read(), |pool| pool.servers[2].weight = 3);
    let actions = stage.configure(weighted);
    let after = stage.agent.installed().services[&vip(READ)];
    assert_ne!(before.first_slot, after.first_slot);
    assert_eq!((before.id, cuts(&actions)), (after.id, vec![]));
    assert_eq!(checks_and_notices(&actions), Vec::<&Action>::new());
}

#[test]
fn slower_checks_leave_everybody_up_for_as_long_as_they_may_take() {
    let fast = with_pool(write_and_read(), |pool| {
        let check = &mut pool.check;
        (check.interval, check.down_interval) = (INTERVAL * 100, INTERVAL * 100);
    });
    // From ten seconds to a tenth of one: the last answer is old by then.
    let mut stage = Stage::settled(fast);
    stage.wait(INTERVAL * 90);
    stage.configure(write_and_read());
    stage.wait(INTERVAL);
    assert_eq!((stage.writer(), stage.targets(READ)), (Some(1), vec![2, 3]));
}

#[test]
fn other_questions_about_roles_begin_anew_and_keep_who_leads_meanwhile() {
    let mut stage = Stage::settled(write_and_read());
    let other = with_pool(write_and_read(), |pool| {
        pool.role = Some(crate::config::RoleCheck::by_paths("/leader", "/follower"));
    });
    let actions = stage.configure(other);
    assert_eq!((ops(&actions), stage.writer()), (vec![], Some(1)));
    // Terms may count something else now: the old ones are forgotten.
    stage.hears(2, Leads(Some(2)));
    assert_eq!(stage.writer(), Some(1), "not everybody was heard");
    stage.hears(1, Follows(Some(2)));
    stage.hears(3, Follows(Some(2)));
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_pool_of_strangers_knows_no_terms() {
    let mut stage = Stage::settled(write_and_read());
    let strangers = with_pool(write_and_read(), |pool| {
        for (index, one) in (7..).zip(&mut pool.servers) {
            *one = Server {
                name: format!("m{index}").as_str().into(),
                address: SocketAddr::from(([10, 0, 0, index], 8081)),
                ..one.clone()
            };
        }
    });
    stage.configure(strangers);
    assert_eq!(stage.writer(), None);
    let leader = stage.agent.pools.values().next().unwrap().leader();
    assert!(leader.is_none());
    let problem = stage.problem().unwrap();
    assert_eq!(problem, "not every server has been checked yet");
}

#[test]
fn a_service_that_is_added_serves_at_once_and_its_vip_is_held() {
    let only = config(&[service("write", WRITE, Route::Leader)]);
    let mut stage = Stage::settled(only.clone());
    let mut more = service("more", MORE, Route::Replicas);
    more.listen.set_ip([10, 0, 0, 101].into());
    let both = config(&[service("write", WRITE, Route::Leader), more.clone()]);
    let actions = stage.configure(both);
    let ids = stage.agent.installed().selectable(more.listen);
    assert_eq!((ids.len(), cuts(&actions)), (2, vec![]));
    let wanted: BTreeSet<_> = [vip(WRITE).ip(), more.listen.ip()].into();
    let others = Others::Go;
    assert_eq!(
        held(&actions),
        [&Held {
            wanted: wanted.clone(),
            others
        }]
    );

    // It goes: the VIP stays until its connections are gone.
    let id = *ids.first().unwrap();
    let actions = stage.configure(only);
    let wanted: BTreeSet<_> = [vip(WRITE).ip()].into();
    let others = Others::Stay;
    assert_eq!(
        held(&actions),
        [&Held {
            wanted: wanted.clone(),
            others
        }]
    );
    assert!(stage.agent.installed().selectable(more.listen).is_empty());
    stage.swept(&[(id, 1)]);
    assert_eq!(held(&stage.swept(&[(id, 1)])), Vec::<&Held>::new());
    let [draining] = &stage.agent.status(stage.now).draining[..] else {
        panic!("one has a connection");
    };
    assert_eq!(draining.service.as_str(), more.listen.to_string());
    stage.swept(&[]);
    let actions = stage.swept(&[]);
    let others = Others::Go;
    assert_eq!(held(&actions), [&Held { wanted, others }]);
}

#[test]
fn a_service_that_comes_back_in_time_has_the_targets_that_it_had() {
    let mut stage = Stage::settled(write_and_read());
    let before = stage.id(READ, 2);
    stage.configure(config(&[service("write", WRITE, Route::Leader)]));
    stage.swept(&[(before, 1)]);
    assert!(!stage.agent.installed().services.contains_key(&vip(READ)));
    stage.configure(write_and_read());
    assert_eq!(
        (stage.id(READ, 2), stage.targets(READ)),
        (before, vec![2, 3])
    );
    assert_eq!(stage.agent.status(stage.now).draining, []);
}

#[test]
fn an_agent_that_finds_targets_without_a_service_keeps_the_vips_that_it_finds() {
    let installed = Stage::settled(write_and_read()).agent.installed().clone();
    let only = config(&[service("write", WRITE, Route::Leader)]);
    let (_, actions) = Agent::new(only, installed, Instant::now());
    let [vips] = held(&actions)[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(vips.others, Others::Stay);
}
