//! Reads `role` of `[pool.NAME]`: how the servers tell who they are.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeValue;

use super::expect::{Condition, read_condition, read_place};
use super::health::{Check, CheckKind, Page, RoleCheck, RoleSource};
use super::problem::Problems;
use super::raw::Fields;
use super::value;

/// Entries, bytes or seconds, as the servers count.
const LAGS: RangeInclusive<u64> = 0..=1 << 53;

/// What `leader` or `replica` is.
enum Telling {
    /// A path that answers 200.
    Path(String),
    /// A condition on the one answer.
    Condition(Condition),
}

pub(super) fn read(
    mut fields: Fields<'_>,
    check: &Check,
    problems: &Problems,
) -> Option<RoleCheck> {
    let leader = read_telling(&mut fields, "leader", "leader = \"/primary\"", problems);
    let replica = read_telling(&mut fields, "replica", "replica = \"/replica\"", problems);
    let path = fields.read("path", value::path);
    let post = fields.read("post", json_text);
    let term = read_place(&mut fields, "term", problems);
    let leader_node = read_place(&mut fields, "leader_node", problems);
    let node = read_place(&mut fields, "node", problems);
    let lag = read_place(&mut fields, "lag", problems);
    let max_lag = fields.read("max_lag", |value| value::long_number(value, LAGS));
    let watch = fields.read("watch", value::path);
    let source = leader.zip(replica).and_then(|tellings| match check.kind {
        CheckKind::Tcp { .. } => tcp_source(&mut fields, check, tellings, problems),
        CheckKind::Http { .. } => {
            let page = path.map(Spanned::into_inner);
            let post = post.map(Spanned::into_inner);
            http_source(&mut fields, tellings, page, post, problems)
        }
    });
    fields.finish();
    Some(RoleCheck {
        source: source?,
        term,
        leader_node,
        node,
        lag,
        max_lag: max_lag.map(Spanned::into_inner),
        watch: watch.map(Spanned::into_inner),
    })
}

fn read_telling(
    fields: &mut Fields<'_>,
    key: &'static str,
    mend: &str,
    problems: &Problems,
) -> Option<Spanned<Telling>> {
    let value = fields.required(key, mend)?;
    let telling = match value.get_ref() {
        DeValue::Table(_) => {
            let table = Fields::of_value(value, key, problems)?;
            Telling::Condition(read_condition(table, problems)?)
        }
        _ => Telling::Path(fields.read(key, value::path)?.into_inner()),
    };
    Some(Spanned::new(value.span(), telling))
}

/// Reports the keys that make no sense here.
fn refuse(fields: &mut Fields<'_>, keys: &[&'static str], reason: &str, problems: &Problems) {
    for key in keys {
        if let Some(value) = fields.value(key) {
            problems.report(&value.span(), format!("{key}: {reason}"));
        }
    }
}

fn tcp_source(
    fields: &mut Fields<'_>,
    check: &Check,
    (leader, replica): (Spanned<Telling>, Spanned<Telling>),
    problems: &Problems,
) -> Option<RoleSource> {
    let reason = "a tcp check asks for no page; set type = \"http\" in check";
    refuse(fields, &["path", "post", "watch"], reason, problems);
    let mut conditions = Vec::new();
    for (key, telling) in [("leader", leader), ("replica", replica)] {
        let at = telling.span();
        match telling.into_inner() {
            Telling::Condition(condition) => conditions.push(condition),
            Telling::Path(_) => {
                let reason = format!(
                    "{key}: a tcp check asks for no page; set type = \"http\" in check, \
                     or write {key} = {{ body = \"…\" }}"
                );
                problems.report(&at, reason);
            }
        }
    }
    let CheckKind::Tcp { expect, .. } = &check.kind else {
        return None;
    };
    let [leader, replica] = <[Condition; 2]>::try_from(conditions).ok()?;
    if expect.is_none() {
        let reason = "role: a tcp check without expect waits for no answer; add send and expect \
                      to check, expect for the end of the answer";
        problems.report(fields.at(), reason);
    }
    Some(RoleSource::Answer {
        page: None,
        leader,
        replica,
    })
}

fn http_source(
    fields: &mut Fields<'_>,
    (leader, replica): (Spanned<Telling>, Spanned<Telling>),
    page: Option<String>,
    post: Option<String>,
    problems: &Problems,
) -> Option<RoleSource> {
    let replica_at = replica.span();
    match (leader.into_inner(), replica.into_inner()) {
        (Telling::Path(leader), Telling::Path(replica)) => {
            let reason = "leader and replica have paths of their own; remove it, \
                          or write what the answer has to say: leader = { body = \"…\" }";
            refuse(fields, &["path", "post"], reason, problems);
            if leader == replica {
                let reason = "replica: the same path as leader; the two must tell the roles apart";
                problems.report(&replica_at, reason);
            }
            Some(RoleSource::Paths { leader, replica })
        }
        (Telling::Condition(leader), Telling::Condition(replica)) => {
            if fields.value("path").is_none() {
                let reason = "role: leader and replica look at an answer, and no page is asked \
                              for; add path = \"/status\"";
                problems.report(fields.at(), reason);
            }
            if leader == replica {
                let reason = "replica: the same as leader; the two must tell the roles apart";
                problems.report(&replica_at, reason);
            }
            Some(RoleSource::Answer {
                page: Some(Page { path: page?, post }),
                leader,
                replica,
            })
        }
        (Telling::Path(_), Telling::Condition(_)) | (Telling::Condition(_), Telling::Path(_)) => {
            let reason = "replica: leader and replica must both be paths, or both conditions";
            problems.report(&replica_at, reason);
            None
        }
    }
}

/// The body of a POST.
fn json_text(value: &DeValue<'_>) -> Result<String, String> {
    let text = value::text(value)?;
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("\"{text}\" is no JSON: {error}; write \"{{}}\"")),
    }
}
