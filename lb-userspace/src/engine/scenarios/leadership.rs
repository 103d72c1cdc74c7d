//! Leaders that come, go, hang, lie and come back.

use super::*;

#[test]
fn a_change_of_the_leader_is_one_store_and_then_the_cut_and_comes_first() {
    let mut stage = Stage::settled(write_and_read());
    let (old, new) = (stage.id(WRITE, 1), stage.id(WRITE, 2));
    let actions = stage.hears(2, Leads(Some(6)));
    let Some(Action::Apply(plan)) = actions.first() else {
        panic!("{actions:?}");
    };
    let write: Vec<&Op> = plan
        .iter()
        .filter(|op| {
            matches!(op, Op::Cut { .. })
                || matches!(op, Op::SetSlots { targets, .. } if targets.len() == 1)
        })
        .collect();
    let first = stage.agent.installed().services[&vip(WRITE)].first_slot;
    assert_eq!(
        write,
        [
            &Op::SetSlots {
                first,
                targets: vec![new]
            },
            &Op::Cut { id: old }
        ]
    );
    assert!(matches!(plan.last(), Some(Op::Cut { .. })), "{plan:?}");
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_newer_term_is_taken_at_the_first_probe_of_a_server_that_was_down() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(2, Refuses);
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_refused_leader_is_dropped_and_cut_at_once() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.hears(1, Refuses);
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), [old]);
    assert_eq!(asked(&actions), ["n2", "n3"]);
    let paces = actions.iter().filter_map(|action| match action {
        Action::Pace { server, pace, .. } => Some((server.as_str(), *pace)),
        _ => None,
    });
    let fast = ["n1", "n2", "n3"].map(|server| (server, Pace::Fast));
    assert!(paces.eq(fast), "{actions:?}");
}

#[test]
fn a_hung_leader_is_dropped_after_fall_failures_and_not_before() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(1, Nothing);
    stage.hears(1, Nothing);
    assert_eq!(stage.writer(), Some(1));
    stage.hears(1, Nothing);
    assert_eq!(stage.writer(), None);
}

#[test]
fn an_isolated_leader_that_says_neither_loses_the_writes_at_once_and_is_down_by_fall() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.hears(1, Neither(Some(9)));
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), [old]);
    stage.hears(1, Neither(Some(9)));
    let actions = stage.hears(1, Neither(Some(9)));
    let down = actions.iter().any(|action| {
        matches!(
            action,
            Action::Notice(Notice::Server {
                state: ServerState::Down,
                code: "L7STS",
                ..
            })
        )
    });
    assert!(down, "{actions:?}");
}

#[test]
fn a_followers_higher_term_drops_the_leader_without_waiting_for_fall() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.hears(3, Follows(Some(6)));
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), [old]);
    assert_eq!(asked(&actions), ["n1", "n2"]);
}

/// It was elected, and does not serve clients yet.
#[test]
fn a_newer_term_deposes_though_the_check_of_who_tells_it_fails() {
    for unready in [LeadsUnready, LeadsStuck] {
        let mut stage = Stage::settled(write_and_read());
        let old = stage.id(WRITE, 1);
        let actions = stage.hears(2, unready(Some(6)));
        assert_eq!(stage.writer(), None);
        assert!(cuts(&actions).contains(&old), "{actions:?}");
        assert_eq!(asked(&actions), ["n1", "n3"]);
        let problem = stage.problem().unwrap();
        assert_eq!(problem, "n2 claims to lead, but its check fails");
        stage.hears(1, Leads(Some(5)));
        assert_eq!(stage.writer(), None);
        stage.hears(2, Leads(Some(6)));
        assert_eq!(stage.writer(), Some(2), "as soon as it passes");
    }
}

#[test]
fn a_failed_check_of_the_leader_in_its_own_newer_term_is_one_failure() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(1, LeadsStuck(Some(6)));
    stage.hears(1, LeadsStuck(Some(6)));
    assert_eq!(stage.writer(), Some(1));
    stage.hears(1, LeadsStuck(Some(6)));
    assert_eq!(stage.writer(), None, "by fall");
}

#[test]
fn a_lone_candidate_with_a_high_term_drops_nobody() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(3, Neither(Some(99)));
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn an_answer_that_names_a_new_leader_has_that_server_checked_once() {
    let mut stage = Stage::new(write_and_read());
    stage.sees(checked_with_hint(stage.now, 1, Leads(Some(5)), "1"));
    stage.sees(checked_with_hint(stage.now, 2, Follows(Some(5)), "1"));
    stage.sees(checked_with_hint(stage.now, 3, Follows(Some(5)), "1"));
    assert_eq!(
        asked(&stage.sees(checked_with_hint(stage.now, 3, Follows(Some(5)), "2"))),
        ["n2"]
    );
    stage.sees(checked_with_hint(stage.now, 2, Follows(Some(5)), "1"));
    let again = stage.sees(checked_with_hint(stage.now, 3, Follows(Some(5)), "2"));
    assert_eq!(asked(&again), [""; 0], "it said so before");
    assert_eq!(
        asked(&stage.sees(checked_with_hint(stage.now, 3, Follows(Some(5)), "1"))),
        [""; 0],
        "it leads already"
    );
}

#[test]
fn a_leader_whom_nobody_knows_by_that_id_is_looked_for_among_those_without_one() {
    let mut stage = Stage::new(write_and_read());
    stage.sees(checked_with_hint(stage.now, 1, Follows(Some(5)), "1"));
    let actions = stage.sees(checked_with_hint(stage.now, 2, Follows(Some(5)), "3"));
    assert_eq!(asked(&actions), ["n3"]);
}

#[test]
fn an_older_claim_is_never_accepted_again_and_an_operator_is_told() {
    let mut stage = Stage::settled(write_and_read());
    let actions = stage.hears(2, Leads(Some(6)));
    assert_eq!(
        problems(&actions),
        [],
        "the old leader has not even been asked"
    );
    let actions = stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), Some(2));
    assert!(
        stage
            .problem()
            .unwrap()
            .contains("n1 claims to lead in term 5, but term 6 was seen")
    );
    assert_eq!(problems(&actions).len(), 1);
    stage.hears(2, Refuses);
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), None);
    stage.hears(1, Leads(Some(7)));
    assert_eq!(stage.writer(), Some(1));
    assert_eq!(stage.problem(), None);
}

#[test]
fn two_claims_in_one_term_make_no_writer_and_an_error_that_names_both() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.hears(2, Leads(Some(5)));
    assert_eq!(stage.writer(), None);
    assert_eq!(cuts(&actions), [old]);
    let problem = stage.problem().unwrap();
    assert!(
        problem.contains("n1 and n2 claim to lead in term 5: no writer"),
        "{problem}"
    );
    assert_eq!(asked(&actions)[0], "n1");
    stage.hears(1, Follows(Some(5)));
    assert_eq!(stage.writer(), Some(2));
    assert_eq!(stage.problem(), None);
}

#[test]
fn without_terms_a_switchover_passes_through_no_writer() {
    let mut stage = Stage::new(write_and_read());
    stage.hears(1, Leads(None));
    stage.hears(2, Follows(None));
    stage.hears(3, Follows(None));
    assert_eq!(stage.writer(), Some(1));
    stage.hears(2, Leads(None));
    assert_eq!(stage.writer(), None);
    stage.hears(1, Follows(None));
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn the_same_leader_in_the_same_term_comes_back_after_rise() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(1, Refuses);
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), None);
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_leader_that_comes_back_has_the_same_id_and_is_cut_again_when_it_goes_again() {
    let mut stage = Stage::settled(write_and_read());
    let id = stage.id(WRITE, 1);
    for term in [6, 7] {
        assert_eq!(cuts(&stage.hears(1, Refuses)), [id]);
        stage.hears(1, Leads(Some(term)));
        assert_eq!((stage.writer(), stage.id(WRITE, 1)), (Some(1), id));
    }
}

#[test]
fn on_change_keep_leaves_the_old_leaders_connections_alone_until_it_is_down() {
    let mut write = service("write", WRITE, Route::Leader);
    write.on_change = OnChange::Keep;
    let mut stage = Stage::settled(config(&[write]));
    let old = stage.id(WRITE, 1);
    assert_eq!(cuts(&stage.hears(2, Leads(Some(6)))), []);
    assert_eq!(cuts(&stage.hears(1, Refuses)), [old]);
}

#[test]
fn on_change_drain_cuts_at_the_deadline() {
    let mut write = service("write", WRITE, Route::Leader);
    write.on_change = OnChange::Drain;
    let mut stage = Stage::settled(config(&[write]));
    let old = stage.id(WRITE, 1);
    assert_eq!(cuts(&stage.hears(2, Leads(Some(6)))), []);
    let end = stage.now + DRAIN;
    let mut cut_at = None;
    while stage.now < end + TICK {
        for number in 1..=3 {
            let says = if number == 2 {
                Leads(Some(6))
            } else {
                Follows(Some(6))
            };
            stage.hears(number, says);
        }
        if cuts(&stage.wait(TICK)) == [old] {
            cut_at.get_or_insert(stage.now);
        }
    }
    assert_eq!(cut_at, Some(end));
}

#[test]
fn probes_that_stop_reporting_take_the_leader_with_them() {
    let mut stage = Stage::settled(write_and_read());
    stage.wait(INTERVAL * 2 + Duration::from_millis(500));
    assert_eq!(stage.writer(), Some(1));
    let actions = stage.wait(TICK);
    assert_eq!((stage.writer(), stage.targets(READ)), (None, vec![]));
    assert!(!cuts(&actions).is_empty());
}

#[test]
fn a_stall_of_the_agent_itself_is_not_held_against_the_servers() {
    let mut stage = Stage::settled(write_and_read());
    stage.now += Duration::from_secs(60);
    stage.sees(Event::Tick);
    assert_eq!(stage.writer(), Some(1));
    stage.wait(Duration::from_secs(1));
    assert_eq!(stage.writer(), None, "but silence after it is");
}

#[test]
fn two_write_services_of_one_pool_never_have_two_writers_between_them() {
    let services = [
        service("a", WRITE, Route::Leader),
        service("b", READ, Route::Leader),
    ];
    let mut stage = Stage::settled(config(&services));
    let mut tables = stage.agent.installed().clone();
    for op in ops(&stage.hears(2, Leads(Some(6)))) {
        tables.apply(&op);
        let ids = tables
            .services
            .keys()
            .flat_map(|&listen| tables.selectable(listen));
        let writers: BTreeSet<_> = ids.map(|id| tables.targets[&id].server).collect();
        assert!(writers.len() <= 1, "{writers:?} after {op:?}");
    }
    assert_eq!(
        (stage.targets(WRITE), stage.targets(READ)),
        (vec![2], vec![2])
    );
}

/// What is told of a leader that is lost, by what the servers say one after the
/// other.
#[test]
fn why_nobody_leads_is_said() {
    let refused = [(1, Refuses), (1, Refuses), (1, Refuses)];
    let table: [(&[(u8, Says)], &str); 4] = [
        (&[(1, Follows(Some(6)))], "it says replica in term 6"),
        (&[(1, Neither(None))], "it says unknown"),
        (&[(2, Follows(Some(6)))], "term 6 was seen"),
        (&refused, "it is DOWN"),
    ];
    for (words, expected) in table {
        let mut stage = Stage::settled(write_and_read());
        let actions: Vec<Action> = words
            .iter()
            .flat_map(|&(number, says)| stage.hears(number, says))
            .collect();
        let told = actions.iter().find_map(|action| match action {
            Action::Notice(notice @ Notice::Leader { .. }) => Some(notice.to_string()),
            _ => None,
        });
        let expected = format!("pool kv: n1 leads no more, nobody does: {expected}");
        assert_eq!(told, Some(expected), "{words:?}");
    }
}
