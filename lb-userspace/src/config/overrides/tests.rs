//! What overrides make of a file, what they refuse, and what becomes of them.

use super::*;

const FILE: &str = r#"
    [pool.kv]
    check = { type = "tcp" }
    server = [
        { name = "n1", address = "10.0.0.11:80" },
        { name = "n2", address = "10.0.0.12:80", weight = 3 },
    ]
    [service.s]
    listen = "10.0.0.100:80"
    pool = "kv"
    route = "any"
"#;

fn file() -> Config {
    Config::parse(FILE).unwrap()
}

fn clock() -> Clock {
    Clock {
        now: Instant::now(),
        wall: SystemTime::now(),
    }
}

fn name(server: &str) -> Name {
    ("kv".into(), server.into())
}

fn weight(server: &str, weight: u32) -> Change {
    let (pool, server) = name(server);
    Change::Weight {
        pool,
        server,
        weight,
    }
}

fn state(server: &str, state: Admin) -> Change {
    let (pool, server) = name(server);
    Change::State {
        pool,
        server,
        state,
        deadline_ms: Some(5000),
    }
}

fn add(server: &str, address: &str) -> Change {
    let (pool, server) = name(server);
    Change::Add {
        pool,
        server,
        address: address.parse().unwrap(),
        weight: Some(2),
        check_port: Some(81),
        max_connections: None,
    }
}

fn remove(server: &str) -> Change {
    let (pool, server) = name(server);
    Change::Remove { pool, server }
}

fn clear(server: Option<&str>) -> Change {
    Change::Clear {
        pool: server.map(|_| "kv".into()),
        server: server.map(ServerName::from),
    }
}

fn with(changes: impl IntoIterator<Item = Change>) -> Overrides {
    let mut overrides = Overrides::default();
    for change in changes {
        overrides.take(&file(), change, clock()).unwrap();
    }
    overrides
}

fn words(overrides: &Overrides) -> Vec<String> {
    let all = overrides.iter();
    all.map(|((pool, server), one)| format!("{pool}/{server}: {one}"))
        .collect()
}

#[test]
fn overrides_are_put_into_the_file_and_are_shown_in_words() {
    let overrides = with([
        weight("n1", 5),
        state("n1", Admin::Drain),
        state("n2", Admin::Maint),
        add("n3", "10.0.0.13:80"),
    ]);
    let clock = clock();
    let config = overrides.apply(&file(), clock);
    let [n1, n2, n3] = &config.pools["kv"].servers[..] else {
        panic!("not three servers");
    };
    assert_eq!((n1.weight, n2.weight, n3.weight), (5, 3, 2));
    let Duty::Drain { since, deadline } = n1.duty else {
        panic!("{:?}", n1.duty);
    };
    assert!(since <= clock.now && clock.now - since < Duration::from_secs(60));
    assert_eq!(deadline, Some(Duration::from_secs(5)));
    assert_eq!((n2.duty, n3.duty), (Duty::Maint, Duty::Ready));
    assert_eq!(n3.check_address.to_string(), "10.0.0.13:81");
    let expected = [
        "kv/n1: weight 5, drain within 5s",
        "kv/n2: maint",
        "kv/n3: added, 10.0.0.13:80, weight 2",
    ];
    assert_eq!(words(&overrides), expected);
    let json = serde_json::to_string(&overrides).unwrap();
    let read: Overrides = serde_json::from_str(&json).unwrap();
    assert_eq!(read, overrides, "{json}");
}

#[test]
fn what_is_cleared_is_as_in_the_file() {
    let all = [
        weight("n1", 5),
        state("n1", Admin::Maint),
        remove("n2"),
        add("n3", "10.0.0.13:80"),
    ];
    for changes in [
        vec![clear(None)],
        vec![clear(Some("n1")), clear(Some("n2")), clear(Some("n3"))],
    ] {
        let mut overrides = with(all.clone());
        assert_eq!(
            overrides.apply(&file(), clock()).pools["kv"].servers.len(),
            2
        );
        for change in changes {
            overrides.take(&file(), change, clock()).unwrap();
        }
        assert!(overrides.is_empty());
        assert_eq!(overrides.apply(&file(), clock()), file());
    }
    // Ready takes the state back, and nothing else.
    let overrides = with([
        weight("n1", 5),
        state("n1", Admin::Maint),
        state("n1", Admin::Ready),
    ]);
    assert_eq!(words(&overrides), ["kv/n1: weight 5"]);
    // Whoever was added and is removed leaves no trace.
    assert!(with([add("n3", "10.0.0.13:80"), remove("n3")]).is_empty());
}

#[test]
fn what_breaks_a_rule_of_the_file_is_refused() {
    let refused = |before: &[Change], change: Change| {
        let mut overrides = with(before.iter().cloned());
        let kept = overrides.clone();
        let refused = overrides.take(&file(), change, clock()).unwrap_err();
        assert_eq!(overrides, kept);
        refused
    };
    let table = [
        (weight("n9", 1), "pool kv has no server n9; it has: n1, n2"),
        (weight("n1", 0), "weight: 0 is out of range; write 1 to 256"),
        (weight("n1", 257), "weight: 257 is out of range"),
        (add("n1", "10.0.0.13:80"), "has a server n1 already"),
        (
            add("n3", "10.0.0.11:80"),
            "server n1 of pool kv has 10.0.0.11:80 too",
        ),
        (
            add("n3", "10.0.0.100:81"),
            "10.0.0.100 is the VIP of service s",
        ),
        (add("n3", "[fd00::1]:80"), "of the other address family"),
        (add("n3", "127.0.0.1:80"), "is a loopback address"),
        (add("-3", "10.0.0.13:80"), "-3"),
        (remove("n9"), "pool kv has no server n9"),
        (clear(Some("n9")), "pool kv has no server n9"),
    ];
    for (change, reason) in table {
        let said = refused(&[], change);
        assert!(said.contains(reason), "{said}");
    }
    let last = refused(&[remove("n1")], remove("n2"));
    assert!(last.contains("the last server of its pool"), "{last}");
    let removed = refused(&[remove("n1")], add("n1", "10.0.0.13:80"));
    assert!(removed.contains("`lb clear kv/n1`"), "{removed}");
    let taken = [remove("n1"), add("n3", "10.0.0.11:80")];
    let in_the_way = refused(&taken, clear(Some("n1")));
    assert!(in_the_way.contains("kv/n3 is in the way"), "{in_the_way}");
}

#[test]
fn what_another_file_makes_void_is_dropped_and_said() {
    let all = [
        weight("n1", 5),
        weight("n2", 5),
        add("n3", "10.0.0.13:80"),
        add("n4", "10.0.0.14:80"),
    ];
    let mut overrides = with(all);
    let other = FILE
        .replace("\"n2\"", "\"n4\"")
        .replace("10.0.0.12", "10.0.0.13");
    let dropped = overrides.prune(&Config::parse(&other).unwrap());
    let names: Vec<&str> = dropped.iter().map(|((_, name), _)| name.as_str()).collect();
    assert_eq!(names, ["n2", "n3", "n4"], "{dropped:?}");
    assert_eq!(words(&overrides), ["kv/n1: weight 5"]);
    assert_eq!(overrides.prune(&file()), []);
}
