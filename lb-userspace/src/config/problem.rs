//! What is wrong with a configuration file, where, and how to mend it.
//!
//! A file is read to its end whatever is wrong with it: problems are
//! collected, not returned at the first, so that one run of `lb check` shows
//! them all. Every problem is one line `FILE:LINE:COLUMN: reason; mend`.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a file gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read at all.
    #[error("{}: {}", path.display(), unreadable(source))]
    Unreadable {
        /// As the user named it.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file was read, and breaks at least one rule.
    #[error("{}", Lines { path, problems })]
    Invalid {
        /// As the user named it.
        path: PathBuf,
        /// In the order of the file. Never empty.
        problems: Vec<Problem>,
    },
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The reason, and the mend where there is one.
    pub message: String,
}

/// One line for each problem, without a line feed after the last.
struct Lines<'a> {
    path: &'a Path,
    problems: &'a [Problem],
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let Problem {
                line,
                column,
                message,
            } = problem;
            let separator = if index == 0 { "" } else { "\n" };
            let path = self.path.display();
            write!(out, "{separator}{path}:{line}:{column}: {message}")?;
        }
        Ok(())
    }
}

fn unreadable(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "no such file; write it, or name another one with --config".to_owned()
        }
        io::ErrorKind::IsADirectory => "a directory, not a file; name the file in it".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; make the file readable for this user".to_owned()
        }
        _ => format!("cannot be read: {source}"),
    }
}

/// Problems as they are found: byte offsets, in any order.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<(usize, String)>>,
}

impl Problems {
    /// Notes that the text at `at` breaks a rule.
    pub(super) fn report(&self, at: &Range<usize>, message: impl Into<String>) {
        self.found.borrow_mut().push((at.start, message.into()));
    }

    /// Whether nothing was reported so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The problems in the order of `text`, their offsets made positions.
    pub(super) fn into_sorted(self, text: &str) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(offset, _)| *offset);
        let placed = found.into_iter().map(|(offset, message)| {
            let (line, column) = position(text, offset);
            Problem {
                line,
                column,
                message,
            }
        });
        placed.collect()
    }
}

/// Line and column of a byte offset, both from 1. An offset past the end is
/// the end.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |index| index + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// The mend for an unknown word: the nearest of the known ones if one is
/// near, else all of them.
pub(super) fn spelling(unknown: &str, known: &[&str]) -> String {
    match nearest(unknown, known) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("known: {}", quoted(known)),
    }
}

/// The known word that `unknown` was probably meant to be: at most one edit
/// for every three characters away.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    let distance_max = (unknown.chars().count() / 3).max(1);
    known
        .iter()
        .map(|word| {
            let distance = strsim::damerau_levenshtein(&unknown, &word.to_lowercase());
            (distance, *word)
        })
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Whether `found` is `word`, or was probably meant to be.
pub(super) fn is_like(found: &str, word: &str) -> bool {
    nearest(found, &[word]).is_some()
}

/// `"a", "b", "c"`.
fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_counts_characters_from_one() {
        let text = "a = 1\nné = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 6), (2, 1));
        // The offset is in bytes: `é` takes two of them, and one column.
        assert_eq!(position(text, 10), (2, 4));
        assert_eq!(position(text, 1000), (3, 1));
    }

    #[test]
    fn a_transposed_or_missing_letter_is_near() {
        let known = ["listen", "pool", "route"];
        assert_eq!(nearest("lisetn", &known), Some("listen"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("pol", &known), Some("pool"));
    }

    #[test]
    fn another_word_is_not_near() {
        assert_eq!(nearest("colour", &["listen", "pool", "route"]), None);
        assert_eq!(nearest("x", &["ab"]), None);
    }
}
