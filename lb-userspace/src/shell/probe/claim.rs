//! What an answer says about its sender's role, beyond its status.
//!
//! Where the configuration names no place, two dialects are understood, as far
//! as they are spoken: a JSON body `{"id", "term", "leader", "lag"}`, and
//! headers `X-Raft-Node`, `X-Raft-Term`, `X-Raft-Leader`, `X-Raft-Lag`. A
//! server that speaks neither says nothing wrong.

use hyper::HeaderMap;
use serde_json::Value;

use crate::config::{Answered, Place, RoleCheck};
use crate::engine::{Role, RoleClaim};

/// A claim to `role`, with what else the answer tells.
pub fn read(check: &RoleCheck, role: Role, headers: &HeaderMap, answer: Answered<'_>) -> RoleClaim {
    let header = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let place = |place: &Option<Place>, field: &str, name: &str| match place {
        Some(place) => place.find(answer),
        None => word(&answer.json[field]).or_else(|| header(name)),
    };
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
    RoleClaim {
        role,
        term: number(place(&check.term, "term", "x-raft-term")),
        leader: place(&check.leader_node, "leader", "x-raft-leader"),
        node: place(&check.node, "id", "x-raft-node"),
        lag: number(place(&check.lag, "lag", "x-raft-lag")),
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
            lag: None,
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
            let check = RoleCheck::by_paths("/primary", "/replica");
            assert_eq!(claimed(&check, fields, body), *expected, "{sentence}");
        }
    }

    fn claimed(check: &RoleCheck, fields: &[Field], body: &str) -> RoleClaim {
        let json = serde_json::from_str(body).unwrap_or_default();
        let answer = Answered {
            bytes: body.as_bytes(),
            json: &json,
        };
        read(check, Role::Replica, &headers(fields), answer)
    }

    #[test]
    fn a_place_that_is_configured_is_the_only_one() {
        let pointer = |text: &str| Some(Place::Pointer(text.into()));
        let check = RoleCheck {
            term: pointer("/timeline"),
            node: pointer("/patroni/name"),
            lag: pointer("/replication/lag"),
            ..RoleCheck::by_paths("/primary", "/replica")
        };
        let body = r#"{"term":9,"timeline":3,"patroni":{"name":"pg2"},"replication":{"lag":"12"}}"#;
        let claim = claimed(&check, &[("x-raft-term", "8")], body);
        assert_eq!((claim.term, claim.lag), (Some(3), Some(12)));
        assert_eq!(claim.node.as_deref(), Some("pg2"));
        let nothing = claimed(&check, &[("x-raft-term", "8")], r#"{"term":9}"#);
        assert_eq!(
            nothing.term, None,
            "another term than the one that was asked for"
        );
    }
}
