//! What the program prints and which exit code it gives, for what needs no
//! agent.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn lb(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("LB_SOCKET")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
}

#[test]
fn check_counts_what_a_valid_file_defines() {
    let output = lb(examples(), &["check", "-f", "raft-kv.toml"]);
    let expected = "raft-kv.toml: valid: 2 services, 1 pool, 3 servers\n";
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn check_lists_every_problem_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let valid = fs::read_to_string(examples().join("raft-kv.toml")).unwrap();
    let broken = valid
        .replace("route = \"leader\"", "route = \"primary\"")
        .replace("interval = \"100ms\"", "interval = 100");
    fs::write(directory.path().join("lb.toml"), broken).unwrap();
    let output = lb(directory.path(), &["check", "--config", "lb.toml"]);
    assert_eq!(
        text(&output.stderr),
        "lb.toml:7:51: interval: 100 has no unit; write \"100ms\" or \"100s\"\n\
         lb.toml:18:9: route: unknown word \"primary\"; \
         known: \"leader\", \"replicas\", \"replicas-first\", \"any\"\n"
    );
    assert_eq!(text(&output.stdout), "");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn run_refuses_a_file_that_check_refuses() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("lb.toml"), "").unwrap();
    let output = lb(directory.path(), &["run", "-f", "lb.toml"]);
    assert_eq!(
        text(&output.stderr),
        "lb.toml:1:1: no service is defined; add [service.NAME] with listen, pool and route\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn run_without_an_interface_says_where_to_name_it() {
    let directory = tempfile::tempdir().unwrap();
    let valid = fs::read_to_string(examples().join("raft-kv.toml")).unwrap();
    let nowhere = valid.replace("interface = \"eth0\"", "");
    fs::write(directory.path().join("lb.toml"), nowhere).unwrap();
    assert_eq!(
        lb(directory.path(), &["check", "-f", "lb.toml"])
            .status
            .code(),
        Some(0)
    );
    let output = lb(directory.path(), &["run", "-f", "lb.toml"]);
    assert_eq!(
        text(&output.stderr),
        "lb.toml: no interface; add interface = \"eth0\" to the file, or give --interface eth0\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for verb in ["check", "run"] {
        let output = lb(directory.path(), &[verb, "-f", "lb.toml"]);
        let expected = "lb.toml: no such file; write it, or name another one with --config\n";
        assert_eq!(text(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_command_line_that_is_not_valid_exits_with_2() {
    let wrong: [&[&str]; 6] = [
        &[],
        &["chek"],
        &["check", "--file", "lb.toml"],
        &["flows", "--limit", "many"],
        &["flows", "--service", "a b&c"],
        &["run", "--interface", "far-too-long-a-name"],
    ];
    for arguments in wrong {
        let output = lb(examples(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    let output = lb(examples(), &["--help"]);
    assert!(text(&output.stdout).contains("3  no agent answers on the socket"));
    assert_eq!(output.status.code(), Some(0));
}
