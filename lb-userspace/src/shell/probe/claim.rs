//! What an answer says about its sender's role, beyond its status.
//!
//! Two dialects, as far as they are spoken: a JSON body `{"id", "term",
//! "leader"}`, and headers `X-Raft-Node`, `X-Raft-Term`, `X-Raft-Leader`. A
//! server that speaks neither says nothing wrong: its status is its role.

use hyper::HeaderMap;
use serde_json::Value;

use crate::engine::{Role, RoleClaim};

/// A claim to `role`, with what else the answer tells.
pub fn read(role: Role, headers: &HeaderMap, body: &[u8]) -> RoleClaim {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let header = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    RoleClaim {
        role,
        term: number(&body["term"])
            .or_else(|| header("x-raft-term").and_then(|term| term.parse().ok())),
        leader: word(&body["leader"]).or_else(|| header("x-raft-leader")),
        node: word(&body["id"]).or_else(|| header("x-raft-node")),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A node's name: node ids are numbers in some clusters, words in others.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(headers: &[Field]) -> HeaderMap {
        let one = |&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        headers.iter().map(one).collect()
    }

    fn claim(term: Option<u64>, leader: Option<&str>, node: Option<&str>) -> RoleClaim {
        let (leader, node) = (leader.map(str::to_owned), node.map(str::to_owned));
        RoleClaim {
            role: Role::Replica,
            term,
            leader,
            node,
        }
    }

    /// A sentence, headers, a body, and what they claim.
    type Row<'a> = (&'a str, &'a [Field], &'a str, RoleClaim);
    type Field = (&'static str, &'static str);

    #[test]
    fn claims() {
        let raft = [
            ("x-raft-node", "2"),
            ("x-raft-term", "7"),
            ("x-raft-leader", "1"),
        ];
        let table: &[Row] = &[
            ("nothing", &[], "", claim(None, None, None)),
            ("headers", &raft, "", claim(Some(7), Some("1"), Some("2"))),
            (
                "numbers",
                &[],
                r#"{"id":2,"term":7,"leader":1}"#,
                claim(Some(7), Some("1"), Some("2")),
            ),
            (
                "words",
                &[],
                r#"{"id":"n2","term":"7","leader":"n1"}"#,
                claim(Some(7), Some("n1"), Some("n2")),
            ),
            (
                "no leader",
                &[],
                r#"{"id":2,"term":7,"leader":null}"#,
                claim(Some(7), None, Some("2")),
            ),
            (
                "the body before the headers",
                &raft,
                r#"{"term":8}"#,
                claim(Some(8), Some("1"), Some("2")),
            ),
            (
                "nonsense",
                &[("x-raft-term", "-1")],
                r#"{"id":{},"term":1.5,"leader":[]}"#,
                claim(None, None, None),
            ),
            ("no JSON", &[], "<html>", claim(None, None, None)),
            (
                "JSON, but no object",
                &[],
                "[1, 2]",
                claim(None, None, None),
            ),
            (
                "Patroni",
                &[],
                r#"{"state":"running","role":"replica","timeline":3,"patroni":{"version":"3.0","name":"pg2"}}"#,
                claim(None, None, None),
            ),
        ];
        for (sentence, fields, body, expected) in table {
            assert_eq!(
                read(Role::Replica, &headers(fields), body.as_bytes()),
                *expected,
                "{sentence}"
            );
        }
    }
}
