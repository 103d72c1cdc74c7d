//! Rules about the sources that no compiler checks, as tests over every file
//! of the workspace. A rule is a function of one file's path and text that
//! says what is wrong; what it must find stands in a test of its own.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this does several things.
const LINES_MAX: usize = 500;

/// Where the keyword may stand: the files that touch packets, maps, helpers
/// and raw system calls.
const UNSAFE_ALLOWED: [&str; 5] = [
    "lb-ebpf/",
    "lb-common/src/layout.rs",
    "lb-userspace/src/shell/",
    "tests/src/lab/",
    "tests/src/traffic/frames.rs",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "helpers.rs", "common.rs", "types.rs"];

/// One source file, its path relative to the workspace.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

#[test]
fn no_file_is_too_long() {
    check(too_long);
}

#[test]
fn every_file_says_what_it_is_for() {
    check(no_header);
}

#[test]
fn the_unsafe_keyword_stands_only_where_it_may() {
    check(unsafe_elsewhere);
}

#[test]
fn every_file_name_says_something() {
    check(empty_name);
}

#[test]
fn nothing_is_left_to_do() {
    check(left_to_do);
}

#[test]
fn no_line_ends_in_blanks() {
    check(trailing_blanks);
}

#[test]
fn no_machine_and_no_registry_is_named() {
    check(foreign_name);
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if source.is_rust() && lines > LINES_MAX {
        return vec![format!("has {lines} lines, more than {LINES_MAX}")];
    }
    Vec::new()
}

fn no_header(source: &Source) -> Vec<String> {
    if source.is_rust() && !source.text.starts_with("//!") {
        return vec!["does not start with `//!`".into()];
    }
    Vec::new()
}

fn unsafe_elsewhere(source: &Source) -> Vec<String> {
    let allowed = UNSAFE_ALLOWED
        .iter()
        .any(|allowed| source.path.starts_with(allowed));
    if !source.is_rust() || allowed {
        return Vec::new();
    }
    let keyword = ["un", "safe"].concat();
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    source
        .lines()
        .filter(|(_, line)| {
            code(line)
                .split(|character: char| !character.is_alphanumeric() && character != '_')
                .any(|word| word == keyword)
        })
        .map(|(number, _)| format!("line {number}: `{keyword}`, which only some files may use"))
        .collect()
}

fn empty_name(source: &Source) -> Vec<String> {
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if EMPTY_NAMES.contains(&name) {
        return vec!["has a name that says nothing".into()];
    }
    Vec::new()
}

fn left_to_do(source: &Source) -> Vec<String> {
    // In pieces, so that this file does not break its own rule.
    found(source, &[["to", "do!("], ["FIX", "ME"], ["XX", "X:"]])
}

fn foreign_name(source: &Source) -> Vec<String> {
    found(
        source,
        &[
            ["crates.", "io"],
            ["npmjs.", "org"],
            ["pypi.", "org"],
            ["arti", "factory"],
            ["/wo", "rk/"],
            ["/ro", "ot/"],
        ],
    )
}

fn trailing_blanks(source: &Source) -> Vec<String> {
    source
        .lines()
        .filter(|(_, line)| line.ends_with([' ', '\t']))
        .map(|(number, _)| format!("line {number} ends in blanks"))
        .collect()
}

/// The lines that hold one of the words, each given in two pieces.
fn found(source: &Source, words: &[[&str; 2]]) -> Vec<String> {
    let mut found = Vec::new();
    for word in words.iter().map(|pieces| pieces.concat()) {
        let lines = source.lines().filter(|(_, line)| line.contains(&word));
        found.extend(lines.map(|(number, _)| format!("line {number}: `{word}`")));
    }
    found
}

/// Fails if the rule finds something in any file.
fn check(rule: fn(&Source) -> Vec<String>) {
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 20, "only {} files found", sources.len());
    for source in &sources {
        let found = rule(source);
        problems.extend(found.iter().map(|what| format!("{} {what}", source.path)));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Reads all text files that people write; what tools write is left out.
fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git") {
                collect(root, &path, sources);
            }
            continue;
        }
        let relative = path.strip_prefix(root).unwrap().display().to_string();
        let written = [".rs", ".toml", ".md", ".sh", ".yml"]
            .iter()
            .any(|end| name.ends_with(end));
        if written || relative.starts_with(".ci/") {
            sources.push(Source {
                path: relative,
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

#[test]
fn each_rule_finds_what_it_is_for() {
    let source = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.into(),
    };
    let keyword = ["un", "safe"].concat();
    let fix = ["FIX", "ME"].concat();
    let host = ["index.crates.", "io"].concat();
    let block = format!("//! x\nfn f() {{ {keyword} {{}} }}");

    assert_eq!(too_long(&source("a.rs", &"x\n".repeat(501))).len(), 1);
    assert_eq!(too_long(&source("a.rs", &"x\n".repeat(500))).len(), 0);
    assert_eq!(no_header(&source("a.rs", "fn f() {}")).len(), 1);
    assert_eq!(no_header(&source("a.toml", "[package]")).len(), 0);
    assert_eq!(unsafe_elsewhere(&source("xtask/src/a.rs", &block)).len(), 1);
    assert_eq!(
        unsafe_elsewhere(&source("lb-ebpf/src/a.rs", &block)).len(),
        0
    );
    let mention = format!("//! {keyword} is a word; {keyword}_code = \"deny\"");
    assert_eq!(unsafe_elsewhere(&source("a.rs", &mention)).len(), 0);
    assert_eq!(empty_name(&source("a/utils.rs", "")).len(), 1);
    assert_eq!(empty_name(&source("lb-common/src/lib.rs", "")).len(), 0);
    assert_eq!(left_to_do(&source("a.rs", &format!("// {fix}"))).len(), 1);
    assert_eq!(foreign_name(&source("a.md", &host)).len(), 1);
    assert_eq!(trailing_blanks(&source("a.md", "a \nb\n\t")).len(), 2);
}
