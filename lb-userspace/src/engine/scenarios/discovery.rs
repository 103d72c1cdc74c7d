//! Pools that follow their cluster's own list of members.

use std::net::SocketAddr;

use super::*;
use crate::config::Member;

fn following() -> Config {
    let mut config = write_and_read();
    for pool in config.pools.values_mut() {
        pool.discover = Some(discover());
        pool.slow_start = Some(Duration::from_secs(60));
    }
    config
}

fn members(numbers: &[u8]) -> Vec<Member> {
    let member = |&number: &u8| Member {
        name: format!("n{number}").into(),
        address: server(number),
        check_address: SocketAddr::new(server(number).ip(), 10_001),
    };
    numbers.iter().map(member).collect()
}

fn listed(teller: u8, report: Result<Vec<Member>, String>) -> Event {
    Event::Listed {
        pool: "kv".into(),
        server: format!("n{teller}").as_str().into(),
        report,
    }
}

fn asked(actions: &[Action]) -> Vec<String> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Inquire { server, .. } => Some(server.to_string()),
        _ => None,
    });
    asked.collect()
}

fn followed(actions: &[Action]) -> Vec<Vec<Member>> {
    let followed = actions.iter().filter_map(|action| match action {
        Action::Follow { members, .. } => Some(members.clone()),
        _ => None,
    });
    followed.collect()
}

fn unlisted(actions: &[Action]) -> Vec<Option<String>> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Notice(Notice::Unlisted { trouble, .. }) => Some(trouble.clone()),
        _ => None,
    });
    told.collect()
}

#[test]
fn the_leader_is_asked_once_an_interval_and_a_new_one_at_once() {
    let mut stage = Stage::new(following());
    assert_eq!(asked(&stage.wait(TICK * 3)), [""; 0], "nobody leads");
    let mut stage = Stage::settled(following());
    assert_eq!(asked(&stage.wait(TICK)), ["n1"]);
    assert_eq!(asked(&stage.wait(TICK * 3)), [""; 0]);
    stage.hears(2, Leads(Some(6)));
    assert_eq!(asked(&stage.wait(TICK)), ["n2"]);
    let mut plain = Stage::settled(write_and_read());
    assert_eq!(asked(&plain.wait(TICK * 3)), [""; 0]);
}

#[test]
fn members_that_differ_are_followed_if_the_leader_lists_them() {
    let mut stage = Stage::settled(following());
    let same = stage.sees(listed(1, Ok(members(&[3, 2, 1]))));
    assert_eq!(followed(&same), Vec::<Vec<Member>>::new());
    let other = stage.sees(listed(1, Ok(members(&[1, 2, 4]))));
    assert_eq!(followed(&other), [members(&[1, 2, 4])]);
    let mut checked_elsewhere = members(&[1, 2, 3]);
    checked_elsewhere[2].check_address.set_port(10_002);
    let elsewhere = stage.sees(listed(1, Ok(checked_elsewhere.clone())));
    assert_eq!(followed(&elsewhere), [checked_elsewhere]);
    let mut renamed = members(&[1, 2, 3]);
    renamed[2].name = "other".into();
    let renamed = stage.sees(listed(1, Ok(renamed)));
    assert_eq!(followed(&renamed), Vec::<Vec<Member>>::new());
    let replica = stage.sees(listed(2, Ok(members(&[2, 3]))));
    assert_eq!(followed(&replica), Vec::<Vec<Member>>::new());
}

#[test]
fn a_list_that_cannot_be_had_or_followed_is_told_once_and_changes_nothing() {
    let mut stage = Stage::settled(following());
    let trouble = "status 404".to_owned();
    let first = stage.sees(listed(1, Err(trouble.clone())));
    assert_eq!(unlisted(&first), [Some(trouble.clone())]);
    let again = stage.sees(listed(1, Err(trouble)));
    assert_eq!(unlisted(&again), []);

    let mut on_a_vip = members(&[1, 2]);
    on_a_vip[1].address = vip(9);
    let vip = stage.sees(listed(1, Ok(on_a_vip)));
    assert_eq!(followed(&vip), Vec::<Vec<Member>>::new());
    assert!(format!("{:?}", unlisted(&vip)).contains("is the VIP of service"));

    let mut other_family = members(&[1, 2]);
    other_family[1].address = "[fd00::1]:8081".parse().unwrap();
    let family = stage.sees(listed(1, Ok(other_family)));
    assert!(format!("{:?}", unlisted(&family)).contains("cannot reach it"));

    let good = stage.sees(listed(1, Ok(members(&[1, 2, 3]))));
    assert_eq!(unlisted(&good), [None]);
    assert_eq!(stage.targets(READ), [2, 3]);
}

#[test]
fn a_member_that_joins_starts_slowly_and_the_others_stay_as_they_are() {
    let mut stage = Stage::settled(following());
    let mut config = following();
    let pool = config.pools.get_mut("kv").unwrap();
    pool.servers = pool.followed(&members(&[1, 2, 3, 4]));
    let config = Box::new(config);
    let actions = stage.sees(Event::Configured { config });
    assert_eq!((cuts(&actions), stage.writer()), (vec![], Some(1)));
    stage.sees(resolved(4));
    stage.hears(4, Follows(Some(5)));
    let targets = stage.agent.installed().targets.values();
    let weights: Vec<u32> = [2, 3, 4]
        .map(|number| {
            let mut of_read = targets.clone().filter(|target| target.accepts);
            of_read
                .find(|one| one.server == server(number))
                .unwrap()
                .weight
        })
        .into();
    assert_eq!(weights, [100, 100, 10]);
}
