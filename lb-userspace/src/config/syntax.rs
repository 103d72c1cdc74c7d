//! What the TOML parser found wrong, in as few lines as tell it.
//!
//! The parser goes on after a mistake as well as it can, and finds more: the rest
//! of a file after one missing bracket, or each line of a file that is no TOML at
//! all.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::Error;

use super::problem::{Problems, position};

/// How many lines with mistakes are told of, beside brackets that are not closed.
const LINES: usize = 3;

/// Reports `errors`, which are in the order of `text`.
pub(super) fn report(errors: &[Error], text: &str, problems: &Problems) {
    let (repeated, broken): (Vec<&Error>, Vec<&Error>) = errors
        .iter()
        .partition(|error| error.message() == "duplicate key");
    // Behind a bracket that is not closed, keys may only seem to be there twice.
    let trusted = broken.first().map_or(text.len(), |error| at(error).start);
    report_repeated(
        repeated
            .into_iter()
            .filter(|error| at(error).start < trusted),
        text,
        problems,
    );
    report_broken(&broken, text, problems);
}

fn report_broken(broken: &[&Error], text: &str, problems: &Problems) {
    let mut lines = BTreeSet::new();
    let mut left_out = Vec::new();
    for error in broken {
        let first_of_line = lines.insert(position(text, at(error).start).0);
        if (first_of_line && lines.len() <= LINES) || error.message().contains("unclosed") {
            problems.report(&at(error), format!("syntax error: {}", error.message()));
        } else if first_of_line {
            left_out.push(error);
        }
    }
    if let Some(first) = left_out.first() {
        let count = left_out.len();
        let message = format!(
            "syntax errors from here on, in {count} lines: they may follow from those before"
        );
        problems.report(&at(first), message);
    }
}

/// A table that is defined twice brings an error for each of its keys too: those
/// are left out.
fn report_repeated<'a>(repeated: impl Iterator<Item = &'a Error>, text: &str, problems: &Problems) {
    let mut repeated_table: Range<usize> = 0..0;
    for error in repeated {
        let at = at(error);
        if repeated_table.contains(&at.start) {
            continue;
        }
        let found = text.get(at.clone()).unwrap_or_default();
        let before = text.get(..at.start).unwrap_or_default();
        if before
            .lines()
            .next_back()
            .is_some_and(|line| line.trim_start().starts_with('['))
        {
            let length = text[at.end..].find("\n[").unwrap_or(text.len() - at.end);
            repeated_table = at.start..at.end + length;
        }
        problems.report(&at, format!("\"{found}\" is defined twice; remove one"));
    }
}

fn at(error: &Error) -> Range<usize> {
    error.span().unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn complaints(text: &str) -> Vec<String> {
        let problems = Config::parse(text).unwrap_err();
        let line =
            |problem: &crate::config::Problem| format!("{}: {}", problem.line, problem.message);
        problems.iter().map(line).collect()
    }

    const SERVERS: &str = "[pool.a]\nserver = [\n  { name = \"n1\", address = \"10.0.0.1:80\" },\n";
    const SERVICES: &str = "[service.w]\nlisten = \"10.0.0.9:80\"\npool = \"a\"\nroute = \"leader\"\n\
         [service.r]\nlisten = \"10.0.0.9:81\"\npool = \"a\"\nroute = \"replicas\"\n";

    #[test]
    fn a_missing_bracket_is_named_and_what_follows_from_it_is_summed_up() {
        let complaints = complaints(&format!("{SERVERS}{SERVICES}"));
        assert!(complaints.len() <= super::LINES + 2, "{complaints:#?}");
        assert!(complaints[0].contains("syntax error"), "{complaints:#?}");
        let last = complaints.last().unwrap();
        assert!(last.contains("unclosed array"), "{complaints:#?}");
    }

    #[test]
    fn keys_behind_a_missing_brace_are_not_there_twice() {
        let text = format!("{SERVERS}  {{ name = \"n2\",\n]\n{SERVICES}");
        let complaints = complaints(&text);
        assert!(
            !complaints.iter().any(|one| one.contains("twice")),
            "{complaints:#?}"
        );
    }

    #[test]
    fn a_text_that_is_no_toml_is_refused_in_a_few_lines() {
        let complaints = complaints(&"These are words.\n".repeat(100));
        assert_eq!(complaints.len(), super::LINES + 1, "{complaints:#?}");
        assert!(
            complaints[super::LINES].contains("in 97 lines"),
            "{complaints:#?}"
        );
    }

    #[test]
    fn a_table_that_is_there_twice_is_one_complaint() {
        let complaints = complaints(&format!("{SERVERS}]\n{SERVICES}{SERVICES}"));
        assert_eq!(complaints.len(), 2, "{complaints:#?}");
        assert!(
            complaints.iter().all(|one| one.contains("twice")),
            "{complaints:#?}"
        );
    }
}
