//! Rows about who is let in, and to whom: limits, rules, drained targets, and
//! the ways to select.

use lb_common::addr::Ipv4;
use lb_common::flow::{Progress, Tick};
use lb_common::limit::SourceState;
use lb_common::service::{Algorithm, Options, Rule, SourceKey};
use lb_common::tables::Affinity;
use lb_common::target::TargetId;
use lb_common::verdict::Reason;

use super::connections::SOME_DAY;
use super::family::Family as _;
use super::frame::{ACK, FIN, RST, SYN, Tcp, segment};
use super::world::{
    CLIENT, CONNECTIONS_MAX, FROM_CLIENT, FROM_SERVER, HEIR_TARGET, SERVICE, SLOT, STRANGER,
    TARGET, TO_CLIENT, TO_HEIR, TO_SERVER, World,
};
use super::{Row, row};

fn syn() -> Tcp {
    segment(FROM_CLIENT, SYN).numbers(1000, 0)
}

fn refusal() -> Vec<u8> {
    segment(TO_CLIENT, RST | ACK)
        .numbers(0, 1001)
        .unsolicited()
        .build()
}

fn refused(sentence: &str, given: World, reason: Reason) -> Row {
    row(sentence, given.clone(), syn().build()).resets(reason, refusal(), given)
}

fn dropped(sentence: &str, given: World, reason: Reason) -> Row {
    row(sentence, given.clone(), syn().build()).drops(reason, given)
}

fn opens(sentence: &str, given: World, then: World) -> Row {
    row(sentence, given, syn().build()).transmits(
        Reason::Opened,
        syn().hop(TO_SERVER).build(),
        then,
    )
}

fn opens_to_heir(sentence: &str, given: World, then: World) -> Row {
    row(sentence, given, syn().build()).transmits(Reason::Opened, syn().hop(TO_HEIR).build(), then)
}

pub(super) fn rows() -> Vec<Row> {
    [targets(), services(), rules(), sources(), selection()].concat()
}

fn targets() -> Vec<Row> {
    let full = |open| {
        World::new()
            .target(|target| target.max_connections = 3)
            .busy(open)
    };
    let all_full = || {
        let mut world = full(3).service(|service| service.members = 1);
        world.slots.insert(SLOT + 2, TargetId::NONE);
        world
    };
    let drained = || World::new().target(|target| target.accepts = 0);
    let ack = segment(FROM_CLIENT, ACK).numbers(1001, 5001);
    let reset = segment(TO_CLIENT, RST).numbers(5001, 0).unsolicited();
    vec![
        opens(
            "a target takes its last connection",
            full(2),
            full(2).opened(),
        ),
        opens_to_heir(
            "a SYN for a full target goes to another one",
            full(3),
            full(3).opened_to_heir(),
        ),
        refused(
            "a SYN is refused where every target is full",
            all_full(),
            Reason::ServersFull,
        ),
        row(
            "a handshake that its target has no room for any more is reset",
            full(3).answered(5000),
            ack.build(),
        )
        .resets(Reason::ServersFull, reset.build(), full(3)),
        refused(
            "a SYN is refused where the slot's target is drained",
            drained(),
            Reason::NoTarget,
        ),
        row(
            "a connection goes on while its target is drained",
            drained().established(),
            ack.build(),
        )
        .transmits(
            Reason::Forward,
            ack.clone().hop(TO_SERVER).build(),
            drained().established(),
        ),
        row(
            "a handshake that was answered is finished while its target is drained",
            drained().answered(5000),
            ack.build(),
        )
        .transmits(
            Reason::Established,
            ack.hop(TO_SERVER).build(),
            drained().established(),
        ),
        opens_to_heir(
            "a SYN sent again selects again where its target was drained and did not answer",
            drained().opened().handed_over(),
            drained().opened_to_heir(),
        ),
        row(
            "a SYN sent again meets its target though that was drained where it has answered",
            drained().answered(5000).handed_over(),
            syn().build(),
        )
        .transmits(
            Reason::SynRetransmitted,
            syn().hop(TO_SERVER).build(),
            drained().answered(5000),
        ),
    ]
}

fn services() -> Vec<Row> {
    let limited = |open| {
        World::new()
            .service(|service| service.max_connections = 3)
            .busy(open)
    };
    let silent = |options, world: World| world.service(|service| service.options = options);
    vec![
        opens(
            "a service takes its last connection",
            limited(2),
            limited(2).opened(),
        ),
        refused(
            "a SYN to a service that is full is refused",
            limited(3),
            Reason::ServiceFull,
        ),
        dropped(
            "a SYN to a service that is full is dropped where the service wants it",
            silent(Options::DROP_FULL, limited(3)),
            Reason::ServiceFull,
        ),
        dropped(
            "a SYN to a service without target is dropped where the service wants it",
            silent(Options::DROP_NO_TARGET, World::new().leaderless()),
            Reason::NoTarget,
        ),
        refused(
            "a SYN to a service without target is refused where only the full ones are silent",
            silent(Options::DROP_FULL, World::new().leaderless()),
            Reason::NoTarget,
        ),
        opens(
            "the last connection that there may be is opened",
            World::new().busy(CONNECTIONS_MAX - 1),
            World::new().busy(CONNECTIONS_MAX - 1).opened(),
        ),
        refused(
            "a SYN is refused where there are as many connections as there may be",
            World::new().busy(CONNECTIONS_MAX),
            Reason::TableFull,
        ),
    ]
}

fn rules() -> Vec<Row> {
    let ruled = |source, rule, options: Options| {
        let mut world = World::new().service(|service| service.options = options);
        world.rules.insert((SERVICE, Ipv4::like(source)), rule);
        world
    };
    let only = Options::PREFIXES.with(Options::DENY_OTHERS, true);
    vec![
        dropped(
            "a client that a rule denies gets no answer",
            ruled(CLIENT.0, Rule::DENY, Options::PREFIXES),
            Reason::Denied,
        ),
        opens(
            "a client is let in where a rule denies another one",
            ruled(STRANGER, Rule::DENY, Options::PREFIXES),
            World::new().opened(),
        ),
        opens(
            "a rule is not asked for where the service has none",
            ruled(CLIENT.0, Rule::DENY, Options::default()),
            World::new().opened(),
        ),
        opens(
            "a client that a rule allows is let in where the others are denied",
            ruled(CLIENT.0, Rule::ALLOW, only),
            World::new().opened(),
        ),
        dropped(
            "a client that no rule allows gets no answer where the others are denied",
            ruled(STRANGER, Rule::ALLOW, only),
            Reason::Denied,
        ),
    ]
}

fn sources() -> Vec<Row> {
    let account = |world: World, due, open| {
        let mut world = world;
        let state = SourceState {
            due,
            open,
            reserved: 0,
        };
        let source = SourceKey::new(Ipv4::like(CLIENT.0), SERVICE);
        world.connections.sources.insert(source, state);
        world
    };
    let limited = || World::new().service(|service| service.source_connections = 2);
    let paced = || {
        World::new().service(|service| {
            service.source_interval = u32::MAX;
            service.source_burst = 1;
        })
    };
    let ack = segment(FROM_CLIENT, ACK).numbers(1001, 5001);
    let fin = segment(FROM_SERVER, FIN | ACK).numbers(5001, 1001);
    let half_closed = || World::new().progressed(Progress::CLIENT_FIN);
    let closed = Progress::CLIENT_FIN.with(Progress::SERVER_FIN);
    vec![
        opens(
            "a source that is limited gets an account with its first connection",
            limited(),
            account(limited().opened(), 0, 0),
        ),
        opens(
            "a source may open one connection less than its limit and then another",
            account(limited(), 0, 1),
            account(limited().opened(), 0, 1),
        ),
        refused(
            "a source that has as many connections as it may is refused another",
            account(limited(), 0, 2),
            Reason::SourceFull,
        ),
        row(
            "a finished handshake counts for its source",
            account(limited().answered(5000), 0, 1),
            ack.build(),
        )
        .transmits(
            Reason::Established,
            ack.hop(TO_SERVER).build(),
            account(limited().established(), 0, 2),
        ),
        row(
            "a closed connection counts no more for its source",
            account(half_closed(), 0, 1),
            fin.build(),
        )
        .transmits(
            Reason::Closing,
            fin.hop(TO_CLIENT).build(),
            account(World::new().progressed(closed), 0, 0),
        ),
        opens(
            "a source that keeps to its rate is let in, and its next connection is due later",
            paced(),
            account(paced().opened(), SOME_DAY, 0),
        ),
        dropped(
            "a source that comes too early gets no answer",
            account(paced(), SOME_DAY, 0),
            Reason::SourceRate,
        ),
    ]
}

fn selection() -> Vec<Row> {
    let by =
        |algorithm: Algorithm| World::new().service(|service| service.algorithm = algorithm as u8);
    // The second slot of two is the other target's.
    let in_turn = |turn| {
        let mut world = by(Algorithm::RoundRobin).service(|service| {
            service.first_slot = SLOT + 1;
            service.slots = 2;
        });
        world.turns.insert(SERVICE, turn);
        world
    };
    // Two slots that are the same target's.
    let by_chance = |algorithm| by(algorithm).service(|service| service.slots = 2);
    let affine = |to| {
        let mut world = World::new().service(|service| service.affinity = u32::MAX);
        let affinity = Affinity {
            target: to,
            generation: world.generations[&to],
            since: Tick(0),
        };
        let source = SourceKey::new(Ipv4::like(CLIENT.0), SERVICE);
        world.connections.affinities.insert(source, affinity);
        world
    };
    let nobody_s = || World::new().service(|service| service.affinity = u32::MAX);
    let mut drained = affine(HEIR_TARGET);
    let heir = drained.targets.get_mut(&HEIR_TARGET).expect("it is there");
    heir.accepts = 0;
    let mut forgotten = affine(HEIR_TARGET);
    forgotten.generations.entry(HEIR_TARGET).or_default().0 += 1;
    vec![
        opens(
            "round robin begins at its turn",
            in_turn(2),
            World::new().opened(),
        ),
        opens_to_heir(
            "round robin goes on with the next slot",
            in_turn(3),
            World::new().opened_to_heir(),
        ),
        opens(
            "a source's hash leads to a slot",
            by(Algorithm::SourceHash),
            World::new().opened(),
        ),
        opens(
            "chance leads to a slot",
            by_chance(Algorithm::Random),
            World::new().opened(),
        ),
        opens(
            "least connections lead to a slot",
            by_chance(Algorithm::LeastConnections),
            World::new().opened(),
        ),
        opens(
            "least latency leads to a slot",
            by_chance(Algorithm::LeastLatency),
            World::new().opened(),
        ),
        opens(
            "a client's target is remembered where it shall stay with it",
            nobody_s(),
            affine(TARGET).opened(),
        ),
        opens_to_heir(
            "a client returns to its target whatever the slot says",
            affine(HEIR_TARGET),
            affine(HEIR_TARGET).opened_to_heir(),
        ),
        opens(
            "a client gets another target where its own one is drained",
            drained,
            affine(TARGET).opened(),
        ),
        opens(
            "a client gets another target where its own one was cut off",
            forgotten,
            affine(TARGET).opened(),
        ),
    ]
}
