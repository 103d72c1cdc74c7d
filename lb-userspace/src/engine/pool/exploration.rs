//! Every state that a pool of two servers can get into, and every event in
//! each of them: who leads, held against what was said.
//!
//! Terms are 5 and 6, or none at all; the pool has just been made, or its leader
//! was adopted from an agent before. All happens in one moment, but for the
//! silence of a server, after which it is over: a check began before the last
//! line of its server, or after it. What is told of a server but changes
//! nothing for the ruling (details, lags, what was asked for) is no part of a
//! state.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Pool;
use crate::engine::event::{Event, Role};
use crate::engine::fixtures::{Says, checked, line, pool, server};
use crate::engine::member::Member;
use crate::engine::roles::Claim;

use Says::{Follows, Leads, LeadsStuck, LeadsUnready, Neither, Nothing, Refuses};

/// How a word gets to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In a check that began after all that the server told by itself.
    Check,
    /// In one that began before a line.
    LateCheck,
    /// In a line. One without a word is the end of the connection.
    Line,
}

const WORDS: [Says; 11] = [
    Leads(None),
    Follows(None),
    Leads(Some(5)),
    Leads(Some(6)),
    Follows(Some(5)),
    Follows(Some(6)),
    Neither(Some(6)),
    Nothing,
    Refuses,
    LeadsUnready(Some(6)),
    LeadsStuck(Some(6)),
];
const SERVERS: [u8; 2] = [1, 2];

/// What a ruling may depend on.
fn key(pool: &Pool) -> String {
    let members = pool.members.iter();
    let members: Vec<_> = members
        .map(|member| {
            let (told, heard) = (member.pushed.is_some(), !member.is_unheard());
            (member.phase, member.claim, told, heard)
        })
        .collect();
    format!("{:?} {:?} {members:?}", pool.leader, pool.fence)
}

fn leader(pool: &Pool) -> Option<u8> {
    pool.leader.map(|(server, _)| SERVERS[server])
}

/// The pool after an event.
fn after(pool: &Pool, now: Instant, number: u8, says: Says, way: Way) -> Pool {
    let mut pool = pool.clone();
    let event = match way {
        Way::Check => checked(now + Duration::from_secs(1), number, says),
        Way::LateCheck => checked(now, number, says),
        Way::Line => line(number, says),
    };
    match event {
        Event::Checked { server, report, .. } => drop(pool.report(now, &server, report)),
        Event::Watched { server, report, .. } => drop(pool.watched(now, &server, report)),
        other => unreachable!("{other:?}"),
    }
    pool
}

/// The pool after no check of a server has ended for too long.
fn after_silence(pool: &Pool, now: Instant, number: u8) -> Pool {
    let mut pool = pool.clone();
    let later = now + Duration::from_secs(60);
    for (member, server) in pool.members.iter_mut().zip(SERVERS) {
        member.fresh = if server == number { now } else { later };
    }
    pool.expire(later, now);
    pool
}

/// What has to be true of any state.
fn is_sound(pool: &Pool) -> bool {
    pool.leader.is_none_or(|(server, term)| {
        let member = &pool.members[server];
        let claims = |claim| pool.members.iter().filter(|one| one.claim == claim).count();
        let newest = Claim::Leader {
            term: pool.fence.seen(),
        };
        member.phase.is_up()
            && match member.claim {
                // Until all were heard, whatever others claim.
                Claim::Adopted => {
                    term.is_none()
                        && claims(Claim::Adopted) == 1
                        && (pool.is_opening() || claims(newest) == 0)
                }
                claim => claim == newest && term == pool.fence.seen() && claims(newest) == 1,
            }
    })
}

/// What has to be true of any step.
fn is_right(
    before: &Pool,
    number: u8,
    says: Says,
    way: Way,
    after: &Pool,
) -> Result<(), &'static str> {
    let (old, new) = (leader(before), leader(after));
    let seen = before.fence.seen();
    let demand = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    demand(
        is_sound(after),
        "who leads claims to, alone, in the newest term, and is UP",
    )?;
    demand(after.fence.seen() >= seen, "terms only go up")?;
    let claims = |pool: &Pool| pool.members[usize::from(number) - 1].claim;
    let claimed = claims(after) != claims(before) && matches!(claims(after), Claim::Leader { .. });
    let asked = way == Way::Check && matches!(says, Leads(_));
    demand(asked || !claimed, "only a check gives a claim to lead")?;
    let contradicts = match says {
        Follows(_) | Neither(_) => true,
        Refuses | LeadsUnready(_) => way != Way::Line,
        Leads(_) | LeadsStuck(_) | Nothing => false,
    };
    if old == Some(number) && contradicts {
        demand(new != old, "a contradiction demotes at once")?;
    }
    if let Leads(term) | LeadsUnready(term) | LeadsStuck(term) | Follows(term) = says {
        // Who was adopted stays until a claim beats it, or its own word.
        let rules = |member: &Member| member.claim != Claim::Adopted;
        let other = old.is_some_and(|old| old != number)
            && before.leader().is_some_and(|(leader, _)| rules(leader));
        demand(
            !other || term <= seen || new != old,
            "a newer term deposes at once, and whoever tells it",
        )?;
    }
    if old == Some(number) && matches!(says, LeadsStuck(_)) && !before.is_opening() {
        demand(
            new == old || !after.members[usize::from(number) - 1].phase.is_up(),
            "a leader's own newer term costs it nothing",
        )?;
    }
    if let (Way::Check, Leads(term), false) = (way, says, after.is_opening()) {
        demand(
            term <= seen || new == Some(number),
            "a newer term leads at its first check",
        )?;
    }
    Ok(())
}

fn told(pool: &Pool, number: u8) -> bool {
    pool.members[usize::from(number) - 1].pushed.is_some()
}

#[test]
fn every_event_in_every_state_of_two_servers() {
    let now = Instant::now();
    let mut config = pool();
    config.servers.truncate(SERVERS.len());
    let start = Pool::new(&config, now);
    let mut adopted = start.clone();
    adopted.adopt(server(1), Role::Leader);
    adopted.adopt(server(2), Role::Replica);
    adopted.settle(now, None, &mut Vec::new());
    let mut known = BTreeSet::from([key(&start), key(&adopted)]);
    let mut ahead = VecDeque::from([start, adopted]);
    let (mut steps, mut led) = (0, BTreeSet::new());
    while let Some(before) = ahead.pop_front() {
        for number in SERVERS {
            let pool = after_silence(&before, now, number);
            let what = || format!("{} and silence of n{number}: {}", key(&before), key(&pool));
            assert!(is_sound(&pool), "{}", what());
            assert_ne!(leader(&pool), Some(number), "{}", what());
            assert_eq!(pool.fence.seen(), before.fence.seen(), "{}", what());
            if known.insert(key(&pool)) {
                ahead.push_back(pool);
            }
        }
        for (number, says) in SERVERS
            .into_iter()
            .flat_map(|n| WORDS.map(|word| (n, word)))
        {
            for way in [Way::Check, Way::LateCheck, Way::Line] {
                if way == Way::LateCheck && !told(&before, number) {
                    continue;
                }
                let pool = after(&before, now, number, says, way);
                if let Err(what) = is_right(&before, number, says, way, &pool) {
                    panic!(
                        "{what}: {} and then {way:?} of n{number}: {says:?} makes {}",
                        key(&before),
                        key(&pool)
                    );
                }
                steps += 1;
                led.insert((leader(&pool), pool.fence.seen()));
                if known.insert(key(&pool)) {
                    ahead.push_back(pool);
                }
            }
        }
    }
    // Each of them led, and nobody, in each term and without.
    assert_eq!(led.len(), 3 * 3, "{led:?}");
    assert!(
        known.len() > 2000 && steps > 20_000,
        "{} states, {steps} steps",
        known.len()
    );
}
