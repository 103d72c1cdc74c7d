//! Servers that tell of changes by themselves: a line takes away at once and
//! gives nothing, a check has to confirm it.

use super::*;
use crate::engine::WatchReport;

/// A check of server `number` that took a moment, and ended so long ago.
fn delayed(now: Instant, number: u8, says: Says, delay: Duration) -> Event {
    checked(now - delay, number, says)
}

const MOMENT: Duration = Duration::from_millis(5);

#[test]
fn a_leader_that_steps_down_loses_the_writes_with_its_line() {
    let mut stage = Stage::settled(write_and_read());
    let old = stage.id(WRITE, 1);
    let actions = stage.sees(line(1, Neither(Some(5))));
    assert_eq!((stage.writer(), cuts(&actions)), (None, vec![old]));
    assert_eq!(asked(&actions), ["n1", "n2", "n3"]);
}

#[test]
fn a_line_of_a_new_leader_deposes_the_old_one_and_has_the_new_one_checked() {
    let mut stage = Stage::settled(write_and_read());
    let actions = stage.sees(line(2, Leads(Some(6))));
    assert_eq!(stage.writer(), None, "a line gives nothing");
    assert!(asked(&actions).contains(&"n2".to_owned()), "{actions:?}");
    stage.now += MOMENT;
    stage.hears(2, Leads(Some(6)));
    assert_eq!(stage.writer(), Some(2));
}

#[test]
fn a_leader_that_is_confirmed_in_a_newer_term_serves_on() {
    let mut stage = Stage::settled(write_and_read());
    let actions = stage.sees(line(1, Leads(Some(6))));
    assert_eq!((stage.writer(), cuts(&actions)), (Some(1), vec![]));
    assert_eq!(asked(&actions), ["n1"]);
    stage.now += MOMENT;
    let actions = stage.hears(1, Leads(Some(6)));
    assert_eq!((stage.writer(), cuts(&actions)), (Some(1), vec![]));
}

#[test]
fn a_line_without_news_is_none() {
    let mut stage = Stage::settled(write_and_read());
    for number in 1..=3 {
        let says = if number == 1 {
            Leads(Some(5))
        } else {
            Follows(Some(5))
        };
        assert_eq!(stage.sees(line(number, says)), []);
    }
}

#[test]
fn a_followers_line_of_a_newer_term_deposes_the_leader() {
    let mut stage = Stage::settled(write_and_read());
    stage.sees(line(3, Follows(Some(6))));
    assert_eq!(stage.writer(), None);
}

/// The check was answered before the line was sent, and comes in after it.
#[test]
fn a_check_that_began_before_a_line_does_not_take_it_back() {
    let mut stage = Stage::new(write_and_read());
    stage.hears(1, Leads(None));
    stage.hears(2, Follows(None));
    stage.hears(3, Follows(None));
    assert_eq!(stage.writer(), Some(1));
    stage.now += MOMENT;
    stage.sees(line(1, Neither(None)));
    let told = stage.now;
    assert_eq!(stage.writer(), None);
    // However quick it was: it has lain about since.
    for _ in 0..3 {
        stage.now += MOMENT;
        let delay = stage.now - told;
        stage.sees(delayed(stage.now, 1, Leads(None), delay));
        assert_eq!(stage.writer(), None, "it is older than the line");
    }
    stage.now += MOMENT;
    stage.hears(1, Leads(None));
    assert_eq!(stage.writer(), Some(1), "it is newer");
}

#[test]
fn a_late_line_about_a_leadership_that_ended_makes_no_writer() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(2, Leads(Some(6)));
    let actions = stage.sees(line(1, Leads(Some(5))));
    assert_eq!((stage.writer(), cuts(&actions)), (Some(2), vec![]));
}

/// The watch of n1 broke.
fn lost() -> Event {
    Event::Watched {
        pool: "kv".into(),
        server: "n1".into(),
        report: WatchReport::Lost("silent for 3s".into()),
    }
}

/// A connection ends when the process at its other end does.
#[test]
fn whoever_told_and_falls_silent_is_checked_at_once_and_once() {
    let mut stage = Stage::settled(write_and_read());
    stage.sees(line(1, Leads(Some(5))));
    assert_eq!(asked(&stage.sees(lost())), ["n1"]);
    assert_eq!(stage.writer(), Some(1), "that alone says nothing");
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.sees(lost()), [], "it could not be had again");
}

/// Who was fenced off and still claims to lead wins an election, and says so
/// before the next check.
#[test]
fn a_fenced_leaders_line_of_its_newer_term_deposes_the_one_that_leads() {
    let mut stage = Stage::settled(write_and_read());
    stage.hears(2, Leads(Some(6)));
    stage.hears(1, Leads(Some(5)));
    assert_eq!(stage.writer(), Some(2));
    let actions = stage.sees(line(1, Leads(Some(7))));
    assert_eq!(stage.writer(), None, "a line gives nothing");
    assert!(asked(&actions).contains(&"n1".to_owned()), "{actions:?}");
    stage.now += MOMENT;
    stage.hears(1, Leads(Some(7)));
    assert_eq!(stage.writer(), Some(1));
}

#[test]
fn a_watch_that_cannot_be_had_costs_nobody_anything() {
    let mut stage = Stage::settled(write_and_read());
    assert_eq!(stage.sees(lost()), []);
    assert_eq!(stage.writer(), Some(1));
    let status = stage.agent.status(stage.now);
    let why = status.pools[0].servers[0].why.join("\n");
    assert!(
        why.contains("watch: lost, tried again: silent for 3s"),
        "{why}"
    );
}
