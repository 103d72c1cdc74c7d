//! What an answer has to say: texts, regular expressions and JSON values, as
//! the configuration names them and as probes look for them.
//!
//! Pure. A pattern looks at bytes, because nothing makes a server send UTF-8.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::DeValue;

use super::problem::Problems;
use super::raw::{Fields, kind};
use super::value;

/// The most memory that one regular expression may compile to, in bytes. The
/// time that it takes is linear in the answer, whatever it says.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// Something to find in an answer.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// These bytes, anywhere.
    Text(String),
    /// A match, anywhere.
    Regex(Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::Text(_), Self::Regex(_)) | (Self::Regex(_), Self::Text(_)) => false,
        }
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// Whether `answer` contains it.
    #[must_use]
    pub fn is_in(&self, answer: &[u8]) -> bool {
        match self {
            Self::Text(text) => {
                let text = text.as_bytes();
                answer.windows(text.len()).any(|window| window == text)
            }
            Self::Regex(regex) => regex.is_match(answer),
        }
    }
}

/// A condition on one value of a JSON answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonTest {
    /// Where the value is (RFC 6901): `/role`.
    pub pointer: String,
    /// What it has to be.
    pub expected: Expected,
}

/// What a JSON value has to be. Values are compared by their text: there are
/// servers that write numbers as strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these texts.
    OneOf(Vec<String>),
    /// The same as the value at this pointer: a node that names itself as the
    /// leader.
    SameAs(String),
    /// Another than the value at this pointer, which has to be there: a node
    /// that names another one.
    DiffersFrom(String),
}

impl JsonTest {
    /// Whether `answer` meets the condition.
    #[must_use]
    pub fn holds(&self, answer: &Json) -> bool {
        let Some(found) = text_at(answer, &self.pointer) else {
            return false;
        };
        match &self.expected {
            Expected::OneOf(texts) => texts.contains(&found),
            Expected::SameAs(pointer) => text_at(answer, pointer) == Some(found),
            Expected::DiffersFrom(pointer) => {
                text_at(answer, pointer).is_some_and(|other| other != found)
            }
        }
    }
}

/// A condition on a whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It contains this.
    Contains(Pattern),
    /// It is JSON, and a value of it is this.
    Json(JsonTest),
}

/// Where in an answer a number or a name is to be found.
#[derive(Clone, Debug)]
pub enum Place {
    /// A JSON pointer (RFC 6901).
    Pointer(String),
    /// The first group of a match.
    Regex(Regex),
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pointer(one), Self::Pointer(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::Pointer(_), Self::Regex(_)) | (Self::Regex(_), Self::Pointer(_)) => false,
        }
    }
}

impl Eq for Place {}

/// An answer, and the JSON that it is, if it is.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// As it came.
    pub bytes: &'a [u8],
    /// `Null` where it is no JSON.
    pub json: &'a Json,
}

impl Condition {
    /// Whether the answer meets it.
    #[must_use]
    pub fn holds(&self, answer: Answered<'_>) -> bool {
        match self {
            Self::Contains(pattern) => pattern.is_in(answer.bytes),
            Self::Json(test) => test.holds(answer.json),
        }
    }
}

impl Place {
    /// What stands there: a number or a word, as text.
    #[must_use]
    pub fn find(&self, answer: Answered<'_>) -> Option<String> {
        match self {
            Self::Pointer(pointer) => text_at(answer.json, pointer),
            Self::Regex(regex) => {
                let group = regex.captures(answer.bytes)?.get(1)?;
                String::from_utf8(group.as_bytes().to_vec()).ok()
            }
        }
    }
}

/// The text of a number, a word or a truth value; `None` for all else.
pub(super) fn text_at(json: &Json, pointer: &str) -> Option<String> {
    match json.pointer(pointer)? {
        Json::String(text) if !text.is_empty() => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(truth) => Some(truth.to_string()),
        Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Reads `key = "text"` or `key = { regex = "…" }`.
pub(super) fn read_pattern(
    fields: &mut Fields<'_>,
    key: &'static str,
    problems: &Problems,
) -> Option<Spanned<Pattern>> {
    let value = fields.value(key)?;
    if !value.get_ref().is_table() {
        return fields.read(key, |value| nonempty(value).map(Pattern::Text));
    }
    let mut table = Fields::of_value(value, key, problems)?;
    let regex = table.require("regex", "regex = \"…\"", regex);
    table.finish();
    regex.map(|regex| Spanned::new(value.span(), Pattern::Regex(regex.into_inner())))
}

/// Reads `key = { pointer = "/role", equals = "leader" }`.
pub(super) fn read_json_test(
    fields: &mut Fields<'_>,
    key: &'static str,
    problems: &Problems,
) -> Option<Spanned<JsonTest>> {
    let value = fields.value(key)?;
    let mut table = Fields::of_value(value, key, problems)?;
    table.required("pointer", "pointer = \"/role\"");
    let test = json_test(&mut table, problems);
    table.finish();
    test.map(|test| Spanned::new(value.span(), test))
}

/// Reads a condition: a table of `body`, of `regex`, or of `pointer` and what
/// belongs to it.
pub(super) fn read_condition(mut table: Fields<'_>, problems: &Problems) -> Option<Condition> {
    let body = table.read("body", nonempty);
    let regex = table.read("regex", regex);
    let is_json = table.value("pointer").is_some();
    let given = ["body", "regex", "pointer"].map(|key| table.value(key).is_some());
    let test = if is_json {
        json_test(&mut table, problems)
    } else {
        // Known keys, to be missed beside `pointer` only.
        for key in ["equals", "same_as", "differs_from"] {
            table.value(key);
        }
        None
    };
    if given.iter().filter(|&&given| given).count() != 1 {
        let reason = format!(
            "{}: write one of body = \"…\", regex = \"…\", and pointer = \"/…\" with equals",
            table.name()
        );
        problems.report(table.at(), reason);
    }
    table.finish();
    let text = body.map(|text| Condition::Contains(Pattern::Text(text.into_inner())));
    let regex = regex.map(|regex| Condition::Contains(Pattern::Regex(regex.into_inner())));
    text.or(regex).or_else(|| test.map(Condition::Json))
}

fn json_test(table: &mut Fields<'_>, problems: &Problems) -> Option<JsonTest> {
    let at = table.read("pointer", pointer);
    let equals = table.read("equals", texts);
    let same_as = table.read("same_as", pointer);
    let differs_from = table.read("differs_from", pointer);
    let given = ["equals", "same_as", "differs_from"];
    let given = given.map(|key| table.value(key).is_some());
    let given = given.iter().filter(|&&given| given).count();
    if table.value("pointer").is_some() && given != 1 {
        let reason = format!(
            "{}: write one of equals = \"…\", same_as = \"/…\" and differs_from = \"/…\" \
             with the pointer",
            table.name()
        );
        problems.report(table.at(), reason);
    }
    let equals = equals.map(|texts| Expected::OneOf(texts.into_inner()));
    let same_as = same_as.map(|pointer| Expected::SameAs(pointer.into_inner()));
    let differs_from = differs_from.map(|other| Expected::DiffersFrom(other.into_inner()));
    Some(JsonTest {
        pointer: at?.into_inner(),
        expected: equals.or(same_as).or(differs_from)?,
    })
}

/// Reads a place: `key = "/pointer"` or `key = { regex = "…(…)…" }`.
pub(super) fn read_place(
    fields: &mut Fields<'_>,
    key: &'static str,
    problems: &Problems,
) -> Option<Place> {
    let value = fields.value(key)?;
    if !value.get_ref().is_table() {
        let pointer = fields.read(key, pointer)?;
        return Some(Place::Pointer(pointer.into_inner()));
    }
    let mut table = Fields::of_value(value, key, problems)?;
    let regex = table.require("regex", "regex = \"…(…)\"", |value| {
        let regex = regex(value)?;
        match regex.captures_len() {
            2 => Ok(regex),
            _ => Err("the value is what the one group (…) matches; write one group".to_owned()),
        }
    });
    table.finish();
    regex.map(|regex| Place::Regex(regex.into_inner()))
}

fn nonempty(value: &DeValue<'_>) -> Result<String, String> {
    match value::text(value)? {
        "" => Err("\"\" is in every answer; write what has to be there".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// A regular expression over bytes.
fn regex(value: &DeValue<'_>) -> Result<Regex, String> {
    let text = nonempty(value)?;
    let built = RegexBuilder::new(&text).size_limit(REGEX_SIZE_MAX).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "the regular expression is too big; repeat less".to_owned()
        }
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let reason = last.trim_start_matches("error: ");
            format!(
                "\"{}\" is no regular expression: {reason}",
                value_text(value)
            )
        }
    })
}

fn value_text<'a>(value: &'a DeValue<'_>) -> &'a str {
    value::text(value).unwrap_or_default()
}

/// A JSON pointer to something, and not to the whole.
fn pointer(value: &DeValue<'_>) -> Result<String, String> {
    json_pointer(value::text(value)?)
}

/// A JSON pointer (RFC 6901) that points below the whole answer.
pub(super) fn json_pointer(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "\"{text}\" is no JSON pointer; write \"/{}\"",
            text.replace('.', "/")
        ));
    }
    Ok(text.to_owned())
}

/// A string, an integer or a truth value, or an array of such, as texts.
fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        other => Err(format!(
            "expected a string, an integer or a boolean, found {}",
            kind(other)
        )),
    };
    match value {
        DeValue::Array(array) if array.is_empty() => {
            Err("nothing is right; write what the value has to be".to_owned())
        }
        DeValue::Array(array) => array.iter().map(|one| text(one.get_ref())).collect(),
        one => Ok(vec![text(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered<'a>(bytes: &'a [u8], json: &'a Json) -> Answered<'a> {
        Answered { bytes, json }
    }

    #[test]
    fn a_pattern_is_found_anywhere_and_in_any_bytes() {
        let text = Pattern::Text("role:master".into());
        assert!(text.is_in(b"\xff\r\nrole:master\r\n"));
        assert!(!text.is_in(b"role:slave"));
        assert!(!text.is_in(b""));
        let regex = Pattern::Regex(Regex::new("^\\+PONG\r\n$").unwrap());
        assert!(regex.is_in(b"+PONG\r\n"));
        assert!(!regex.is_in(b"-ERR +PONG\r\n"));
    }

    /// Answers as etcd 3.4, Consul, Vault and Patroni give them, cut short.
    #[test]
    fn json_values_are_compared_by_their_text() {
        let etcd: Json = serde_json::from_str(
            r#"{"header":{"member_id":"10276657743932975437","raft_term":"2"},"leader":"10276657743932975437"}"#,
        )
        .unwrap();
        let consul: Json =
            serde_json::from_str(r#"{"Stats":{"raft":{"state":"Leader","term":"3"}}}"#).unwrap();
        let vault: Json = serde_json::from_str(r#"{"is_self":true,"ha_enabled":true}"#).unwrap();
        let patroni: Json =
            serde_json::from_str(r#"{"role":"primary","timeline":3,"xlog":{}}"#).unwrap();
        let test = |pointer: &str, expected| JsonTest {
            pointer: pointer.into(),
            expected,
        };
        let one_of =
            |texts: &[&str]| Expected::OneOf(texts.iter().map(|text| (*text).into()).collect());
        let table = [
            (
                &etcd,
                test("/leader", Expected::SameAs("/header/member_id".into())),
                true,
            ),
            (
                &etcd,
                test("/leader", Expected::SameAs("/nowhere".into())),
                false,
            ),
            (
                &etcd,
                test("/leader", Expected::DiffersFrom("/header/member_id".into())),
                false,
            ),
            (
                &etcd,
                test("/leader", Expected::DiffersFrom("/header/raft_term".into())),
                true,
            ),
            (
                &etcd,
                test("/leader", Expected::DiffersFrom("/nowhere".into())),
                false,
            ),
            (
                &consul,
                test("/Stats/raft/state", one_of(&["Leader"])),
                true,
            ),
            (
                &consul,
                test("/Stats/raft/state", one_of(&["Follower"])),
                false,
            ),
            (&vault, test("/is_self", one_of(&["true"])), true),
            (
                &patroni,
                test("/role", one_of(&["master", "primary"])),
                true,
            ),
            (&patroni, test("/timeline", one_of(&["3"])), true),
            (&patroni, test("/xlog", one_of(&["{}"])), false),
            (&Json::Null, test("/role", one_of(&["primary"])), false),
        ];
        for (answer, test, expected) in table {
            assert_eq!(test.holds(answer), expected, "{test:?} of {answer}");
        }
    }

    #[test]
    fn a_place_gives_the_text_that_stands_there() {
        let json: Json = serde_json::from_str(r#"{"a":{"b":[7,"x"]},"e":""}"#).unwrap();
        let pointer = |text: &str| Place::Pointer(text.into()).find(answered(b"", &json));
        assert_eq!(pointer("/a/b/0").as_deref(), Some("7"));
        assert_eq!(pointer("/a/b/1").as_deref(), Some("x"));
        assert_eq!(pointer("/a/b"), None);
        assert_eq!(pointer("/e"), None);
        let lag = Place::Regex(Regex::new("seconds_ago:(\\d+)").unwrap());
        let redis = b"role:slave\r\nmaster_last_io_seconds_ago:4\r\n";
        assert_eq!(lag.find(answered(redis, &Json::Null)).as_deref(), Some("4"));
        assert_eq!(lag.find(answered(b"role:master", &Json::Null)), None);
    }
}
