//! Every way to get a configuration wrong, with the exact words that the
//! operator reads: the table is `config_refusals.txt`.

use std::fs;
use std::path::Path;

use lb_userspace::config::{Config, LoadError};
use proptest::prelude::*;

/// Valid; each case of the table breaks it in one place.
const VALID: &str = r#"interface = "eth0"
hook = "xdp-native"
[limits]
connections = 1000
[snat]
address = "10.0.0.5"
ports = "1024-32767"
[pool.kv]
check = { type = "http", port = 10001, interval = "100ms", timeout = "100ms" }
role = { leader = "/primary", replica = "/replica" }
server = [
  { name = "n1", address = "10.0.0.11:8081" },
  { name = "n2", address = "10.0.0.12:8081" },
]
[service.kv-write]
listen = "10.0.0.100:8080"
pool = "kv"
route = "leader"
[service.kv-read]
listen = "10.0.0.100:8081"
pool = "kv"
route = "replicas"
algorithm = "maglev"
"#;

/// One paragraph of the table.
#[derive(Debug, Default)]
struct Case {
    what: String,
    old: String,
    new: String,
    problems: Vec<String>,
}

#[test]
fn every_case_of_the_table_is_refused_in_its_words() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 175, "only {} cases were found", cases.len());
    for case in cases {
        assert_eq!(VALID.matches(&case.old).count(), 1, "{case:?}");
        assert!(!case.problems.is_empty(), "{case:?}");
        let found = problems(&VALID.replace(&case.old, &case.new));
        if found != case.problems {
            let what = case.what;
            wrong.push(format!(
                "{what}:\n  expected {:#?}\n  found {found:#?}",
                case.problems
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_text_that_the_cases_break_is_valid() {
    assert_eq!(problems(VALID), [""; 0]);
}

#[test]
fn all_problems_of_a_file_are_listed_in_its_order() {
    let text = VALID
        .replace("connections = 1000", "connections = \"many\"")
        .replace("\"10.0.0.11:8081\"", "\"10.0.0.11\"")
        .replace("route = \"leader\"", "route = \"leadr\"")
        .replace("algorithm", "algo");
    assert_eq!(
        problems(&text),
        [
            r#"4:15: connections: expected an integer, found a string"#,
            r#"12:28: address: "10.0.0.11" has no port; write "10.0.0.11:PORT""#,
            r#"18:9: route: unknown word "leadr"; did you mean "leader"?"#,
            r#"23:1: unknown key "algo" in service "kv-read"; known: "listen", "pool", "route", "algorithm", "affinity", "mode", "max_connections", "on_no_target", "on_full", "source", "allow", "deny", "on_change", "on_down", "drain_timeout", "idle_timeout""#,
        ]
    );
}

#[test]
fn an_empty_file_is_refused() {
    let reason = "1:1: no service is defined; add [service.NAME] with listen, pool and route";
    assert_eq!(problems(""), [reason]);
    assert_eq!(problems("# nothing yet\n"), [reason]);
}

#[test]
fn as_many_services_as_there_may_be_find_slots_whatever_they_select_by() {
    for algorithm in ["maglev", "round-robin"] {
        let route = format!("route = \"any\"\nalgorithm = \"{algorithm}\"");
        assert_eq!(problems(&many(1024, &route, 31)), [""; 0]);
    }
}

#[test]
fn more_source_addresses_than_the_kernel_has_room_for_are_refused() {
    let list = |count: u8| {
        let addresses: Vec<String> = (1..=count)
            .map(|host| format!("\"10.9.0.{host}\""))
            .collect();
        let list = format!("addresses = [{}]", addresses.join(", "));
        problems(&VALID.replace("address = \"10.0.0.5\"", &list))
    };
    assert_eq!(list(64), [""; 0]);
    assert_eq!(
        list(65),
        ["6:13: addresses: 65 are too many; write at most 64"]
    );
}

#[test]
fn more_rules_than_the_kernel_has_room_for_are_refused() {
    let deny = |count: usize| {
        let prefixes = (0..count).map(|net| format!("\"10.{}.{}.0/24\"", net / 256, net % 256));
        let prefixes: Vec<String> = prefixes.collect();
        let list = format!("deny = [{}]\nroute = \"leader\"", prefixes.join(", "));
        let text = VALID.replace("route = \"leader\"", &list);
        problems(&text.replace("algorithm", "allow = \"192.0.2.0/24\"\nalgorithm"))
    };
    assert_eq!(deny(1023), [""; 0]);
    assert_eq!(
        deny(1024),
        [
            "20:10: too many rules: 1025 up to this service, the kernel's table holds 1024; \
             allow and deny fewer prefixes"
        ]
    );
}

#[test]
fn more_targets_than_the_kernel_has_room_for_are_refused() {
    let problems = problems(&many(33, "route = \"leader\"", 1000));
    assert_eq!(
        problems,
        [
            "1134:10: too many targets: 33000 up to this service, the kernel's tables hold 32767; \
             use fewer services, or fewer servers in their pools"
        ]
    );
}

#[test]
fn more_services_than_the_kernel_has_room_for_are_refused() {
    let problems = problems(&many(1025, "route = \"leader\"", 1));
    assert_eq!(
        problems,
        [
            "4102:10: too many services: 1025 up to this service, the kernel's tables hold 1024; \
             use fewer services, or fewer servers in their pools"
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_as_text_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display();
    let missing = directory.path().join("missing.toml");
    assert_eq!(
        refusal(&missing),
        format!("{here}/missing.toml: no such file; write it, or name another one with --config")
    );
    assert_eq!(
        refusal(directory.path()),
        format!("{here}: a directory, not a file; name the file in it")
    );
    let binary = directory.path().join("binary.toml");
    fs::write(&binary, b"interface = \"eth0\"\n# \xff\n").unwrap();
    assert_eq!(
        refusal(&binary),
        format!("{here}/binary.toml:2:3: byte 0xff is not UTF-8; save the file as UTF-8")
    );
    let wrong = directory.path().join("wrong.toml");
    fs::write(&wrong, VALID.replace("hook", "hok").replace("\"n2\"", "2")).unwrap();
    assert_eq!(
        refusal(&wrong),
        format!(
            "{here}/wrong.toml:2:1: unknown key \"hok\" in the file; did you mean \"hook\"?\n\
             {here}/wrong.toml:13:12: name: expected a string in quotes, found an integer"
        )
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever an editor does to a valid file, it is either valid still or
    /// refused at a place that exists.
    #[test]
    fn a_mangled_file_never_makes_the_parser_panic(
        at in 0..VALID.len(),
        removed in 0..40_usize,
        inserted in "[\\[\\]{}=\",.\\\\ \nab0é\u{feff}-]{0,6}",
    ) {
        let end = (at + removed).min(VALID.len());
        let text = format!("{}{inserted}{}", &VALID[..at], &VALID[end..]);
        if let Err(problems) = Config::parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line <= text.lines().count() + 1, "{:?}", problem);
                prop_assert!(problem.column >= 1 && !problem.message.is_empty());
            }
        }
    }
}

#[test]
fn tables_nested_without_end_are_refused() {
    let text = format!("pool = {}", "[".repeat(100_000));
    assert!(!problems(&text).is_empty());
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_problem() {
    let text = format!("\u{feff}{}", VALID.replace('\n', "\r\n"));
    assert_eq!(problems(&text), [""; 0]);
}

fn refusal(path: &Path) -> String {
    let error: LoadError = Config::load(path).expect_err("the file was accepted");
    error.to_string()
}

fn problems(text: &str) -> Vec<String> {
    let problems = Config::parse(text).err().unwrap_or_default();
    let lines = problems.iter().map(|problem| {
        let (line, column) = (problem.line, problem.column);
        format!("{line}:{column}: {}", problem.message)
    });
    lines.collect()
}

/// `services` services of a pool of `servers` servers.
fn many(services: u16, route: &str, servers: u16) -> String {
    let mut text = String::from(
        "[pool.p]\ncheck = { type = \"http\" }\n\
         role = { leader = \"/leader\", replica = \"/replica\" }\nserver = [\n",
    );
    for server in 1..=servers {
        text += &format!("{{ name = \"n{server}\", address = \"10.0.0.1:{server}\" }},");
        text += if servers > 1 { "\n" } else { "" };
    }
    text += "]\n";
    for service in 1..=services {
        text +=
            &format!("[service.s{service:04}]\nlisten = \"10.1.0.1:{service}\"\npool = \"p\"\n");
        text += &format!("{route}\n");
    }
    text
}

/// The table: `#` names a case, `-` and `+` are the lines of the diff, `!` the
/// problems.
fn cases() -> Vec<Case> {
    let table = include_str!("config_refusals.txt");
    let (_, table) = table.split_once("\n## ").expect("no section");
    let mut cases: Vec<Case> = Vec::new();
    for line in table.lines() {
        if let Some(what) = line.strip_prefix("# ") {
            let what = what.to_owned();
            cases.push(Case {
                what,
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            continue;
        };
        match line.split_at_checked(2) {
            Some(("- ", old)) => case.old += &format!("{old}\n"),
            Some(("+ ", new)) => case.new += &format!("{new}\n"),
            Some(("! ", problem)) => case.problems.push(problem.to_owned()),
            Some(("##", _)) | None => {}
            Some(_) => panic!("{line:?} is no line of the table"),
        }
    }
    cases
}
