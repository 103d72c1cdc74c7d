//! `docs/operations.md` names all there is: the lists come from the program.

use std::collections::BTreeSet;

use lb_common::verdict::Reason;
use lb_userspace::api::path;
use lb_userspace::config::{
    Algorithm, Config, Hook, InitState, Limits, Method, Mode, Observe, OnChange, OnDown, OnStop,
    Refusal, Route, Timeouts, Vips,
};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// A key that nobody could have meant to be another.
const NONSENSE: &str = "xyzzyxyzzy";

/// The text with one unknown key in every table there is: each error lists
/// the known keys of its table.
fn known_keys() -> BTreeSet<String> {
    let text = format!(
        "{NONSENSE} = 0
        limits = {{ {NONSENSE} = 0 }}
        snat = {{ {NONSENSE} = 0 }}
        timeouts = {{ {NONSENSE} = 0 }}
        [pool.p]
        {NONSENSE} = 0
        check = {{ {NONSENSE} = 0, json = {{ {NONSENSE} = 0 }}, expect = {{ {NONSENSE} = 0 }} }}
        discover = {{ {NONSENSE} = 0 }}
        role = {{ {NONSENSE} = 0, leader = {{ {NONSENSE} = 0 }} }}
        server = [{{ {NONSENSE} = 0 }}]
        [service.s]
        source = {{ {NONSENSE} = 0 }}
        {NONSENSE} = 0"
    );
    let problems = Config::parse(&text).unwrap_err();
    let lists: Vec<&str> = problems
        .iter()
        .filter_map(|problem| problem.message.split_once("; known: "))
        .map(|(_, list)| list)
        .collect();
    assert_eq!(lists.len(), 14, "{problems:?}");
    let keys = lists.iter().flat_map(|list| list.split(", "));
    keys.map(|key| key.trim_matches('"').to_owned()).collect()
}

#[test]
fn every_key_of_the_configuration_is_described() {
    for key in known_keys() {
        let row = format!("| `{key}` |");
        assert!(OPERATIONS.contains(&row), "no row for {key}");
    }
}

#[test]
fn every_key_that_is_described_is_known() {
    let known = known_keys();
    let (_, configuration) = OPERATIONS.split_once("### At the top").unwrap();
    let (configuration, _) = configuration.split_once("## Verdicts").unwrap();
    let rows = configuration
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        // In quotes: a word that a key may have.
        .filter(|(key, _)| !key.starts_with('"'));
    let described: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
    assert_eq!(described, known);
}

#[test]
fn every_word_of_the_configuration_is_described() {
    let words = (Hook::ALL.iter().map(|word| word.word()))
        .chain(Vips::ALL.iter().map(|word| word.word()))
        .chain(Route::ALL.iter().map(|word| word.word()))
        .chain(Algorithm::ALL.iter().map(|word| word.word()))
        .chain(Mode::ALL.iter().map(|word| word.word()))
        .chain(Refusal::ALL.iter().map(|word| word.word()))
        .chain(OnChange::ALL.iter().map(|word| word.word()))
        .chain(OnDown::ALL.iter().map(|word| word.word()))
        .chain(OnStop::ALL.iter().map(|word| word.word()))
        .chain(Method::ALL.iter().map(|word| word.word()))
        .chain(InitState::ALL.iter().map(|word| word.word()))
        .chain(Observe::ALL.iter().map(|word| word.word()))
        .chain(["tcp", "http"]);
    for word in words {
        assert!(OPERATIONS.contains(&format!("`\"{word}\"`")), "{word}");
    }
}

#[test]
fn every_path_of_the_api_is_described() {
    for path in path::READ {
        assert!(OPERATIONS.contains(&format!("| `GET {path}")), "{path}");
    }
    for path in path::CHANGE {
        assert!(OPERATIONS.contains(&format!("| `POST {path}")), "{path}");
    }
}

#[test]
fn the_defaults_are_those_of_the_program() {
    let Limits {
        connections,
        half_open,
    } = Limits::default();
    assert!(OPERATIONS.contains(&format!("| `connections` | {connections} |")));
    assert!(OPERATIONS.contains(&format!("| `half_open` | {half_open} |")));
    let Timeouts {
        half_open,
        fin,
        reset,
        rest,
    } = Timeouts::default();
    for (key, time) in [
        ("half_open", half_open),
        ("fin", fin),
        ("reset", reset),
        ("rest", rest),
    ] {
        let row = format!("| `{key}` | `\"{}s\"` |", time.as_secs());
        assert!(OPERATIONS.contains(&row), "{row}");
    }
    let text = r#"
        [pool.p]
        server = [{ name = "a", address = "10.0.0.1:1" }]
        [service.s]
        listen = "10.0.0.9:1"
        pool = "p"
        route = "any"
    "#;
    let config = Config::parse(text).unwrap();
    let (check, service) = (&config.pools["p"].check, &config.services["s"]);
    let interval = humantime::format_duration(check.interval);
    assert!(OPERATIONS.contains(&format!("| `interval` | `\"{interval}\"` |")));
    assert!(OPERATIONS.contains(&format!("| `rise` | {} |", check.rise)));
    assert!(OPERATIONS.contains(&format!("| `fall` | {} |", check.fall)));
    let (init_state, observe) = (check.init_state, check.observe);
    assert!(OPERATIONS.contains(&format!("| `init_state` | `\"{init_state}\"` |")));
    assert!(OPERATIONS.contains(&format!("| `observe` | `\"{observe}\"` |")));
    let limit = check.breaker.error_limit;
    assert!(OPERATIONS.contains(&format!("| `error_limit` | {limit} |")));
    let (window, open) = (check.breaker.error_window, check.breaker.open_time);
    for (key, time) in [("error_window", window), ("open_time", open)] {
        let row = format!("| `{key}` | `\"{}s\"` |", time.as_secs());
        assert!(OPERATIONS.contains(&row), "{row}");
    }
    assert!(OPERATIONS.contains(&format!("| `hook` | `\"{}\"` |", config.hook)));
    assert!(OPERATIONS.contains(&format!("| `vips` | `\"{}\"` |", config.vips)));
    assert!(OPERATIONS.contains(&format!("| `algorithm` | `\"{}\"` |", service.algorithm)));
    assert!(OPERATIONS.contains(&format!("| `mode` | `\"{}\"` |", service.mode)));
    let (none, full) = (service.on_no_target, service.on_full);
    assert!(OPERATIONS.contains(&format!("| `on_no_target` | `\"{none}\"` |")));
    assert!(OPERATIONS.contains(&format!("| `on_full` | `\"{full}\"` |")));
    assert!(OPERATIONS.contains(&format!(
        "| `weight` | {} |",
        config.pools["p"].servers[0].weight
    )));
    assert!(OPERATIONS.contains(&format!("| `on_down` | `\"{}\"` |", service.on_down)));
    let idle_timeout = format!(
        "| `idle_timeout` | `\"{}s\"` |",
        service.idle_timeout.as_secs()
    );
    assert!(OPERATIONS.contains(&idle_timeout));
    let drain_timeout = service.drain_timeout.as_secs();
    let drain_timeout = format!("| `drain_timeout` | `\"{drain_timeout}s\"` |");
    assert!(OPERATIONS.contains(&drain_timeout));
    let ports = &config.snat.ports;
    let ports = format!("| `ports` | `\"{}-{}\"` |", ports.start(), ports.end());
    assert!(OPERATIONS.contains(&ports));
}

#[test]
fn the_verdicts_that_are_described_are_those_of_the_data_path() {
    let (_, verdicts) = OPERATIONS.split_once("## Verdicts").unwrap();
    let (verdicts, _) = verdicts.split_once("## What to know beforehand").unwrap();
    let rows: Vec<&str> = verdicts
        .lines()
        .filter(|line| line.contains("| `"))
        .collect();
    let known: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| {
            let (fate, name) = (reason.fate().name(), reason.name());
            format!("| {fate} | `{name}` | {} |", reason.description())
        })
        .collect();
    assert_eq!(rows, known);
}
