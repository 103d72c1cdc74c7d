//! Reads `check` of `[pool.NAME]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::expect::{read_json_test, read_pattern};
use super::health::{
    AgentCheck, Breaker, Check, CheckKind, InitState, Method, Observe, StatusRange,
};
use super::pool::RoleKey;
use super::problem::Problems;
use super::raw::Fields;
use super::value;
use super::word::words;

/// Probes closer together than this would load a server more than they tell.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);
/// Consecutive answers: more would take longer than anybody waits.
const COUNTS: RangeInclusive<u32> = 1..=1000;
/// How long failures count, and how long a circuit stays open.
const BREAKS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(24);

words! {
    /// The words of `type`.
    pub enum CheckType {
        /// The port accepts a connection.
        Tcp = "tcp",
        /// The port answers an HTTP request.
        Http = "http",
    }
}

/// What only checks of the other type have.
const HTTP_KEYS: [&str; 5] = ["method", "path", "expect_status", "expect_body", "json"];
const TCP_KEYS: [&str; 2] = ["send", "expect"];

pub(super) fn read(mut fields: Fields<'_>, role_key: RoleKey, problems: &Problems) -> Check {
    let kind = read_kind(&mut fields, role_key, problems);
    let port = fields.read("port", value::port);
    let service_port = fields.read("service_port", value::truth);
    let rise = fields.read("rise", |value| value::number(value, COUNTS));
    let fall = fields.read("fall", |value| value::number(value, COUNTS));
    let init_state = fields.read("init_state", value::word::<InitState>);
    let agent = read_agent(&mut fields);
    let (observe, breaker) = read_breaker(&mut fields, problems);
    let times = read_times(&mut fields, problems);
    fields.finish();
    Check {
        kind,
        port: port.map(Spanned::into_inner),
        service_port: service_port.is_none_or(Spanned::into_inner),
        interval: times.interval,
        fast_interval: times.fast,
        down_interval: times.down,
        timeout: times.timeout,
        rise: rise.map_or(Check::RISE, Spanned::into_inner),
        fall: fall.map_or(Check::FALL, Spanned::into_inner),
        init_state: init_state.map_or(InitState::default(), Spanned::into_inner),
        agent,
        observe,
        breaker,
    }
}

struct Times {
    interval: Duration,
    fast: Duration,
    down: Duration,
    timeout: Duration,
}

fn read_times(fields: &mut Fields<'_>, problems: &Problems) -> Times {
    let mut time = |key| fields.read(key, |value| value::duration(value, INTERVALS));
    let interval = time("interval");
    let (fast, down, timeout) = (
        time("fast_interval"),
        time("down_interval"),
        time("timeout"),
    );
    let interval_given = fields.value("interval").is_some();
    // Where the interval could not be read, nothing is longer than it.
    let comparable = interval.is_some() || !interval_given;
    let interval = interval.map_or(Check::INTERVAL, Spanned::into_inner);
    for (key, time) in [("fast_interval", &fast), ("timeout", &timeout)] {
        if let Some(time) = time
            && *time.get_ref() > interval
            && comparable
        {
            let longest = humantime::format_duration(interval);
            let reason = format!("{key}: longer than the interval; write at most \"{longest}\"");
            problems.report(&time.span(), reason);
        }
    }
    Times {
        interval,
        fast: fast.map_or(Check::fast_interval_of(interval), Spanned::into_inner),
        down: down.map_or(interval, Spanned::into_inner),
        timeout: timeout.map_or(interval, Spanned::into_inner),
    }
}

fn read_kind(fields: &mut Fields<'_>, role_key: RoleKey, problems: &Problems) -> CheckKind {
    let check_type = fields.require("type", "type = \"tcp\" or type = \"http\"", value::word);
    // Without a type, nothing can be said about what goes with it.
    let check_type = check_type.map(Spanned::into_inner);
    let method = fields.read("method", value::word::<Method>);
    let path = fields.read("path", value::path);
    let expect_status = fields.read("expect_status", value::status_ranges);
    let expect_body = read_pattern(fields, "expect_body", problems);
    let json = read_json_test(fields, "json", problems);
    let send = fields.read("send", bytes);
    let expect = read_pattern(fields, "expect", problems);
    let (strangers, mend): (&[&'static str], _) = match check_type {
        Some(CheckType::Tcp) => (&HTTP_KEYS, "a tcp check has none; set type = \"http\""),
        Some(CheckType::Http) => (&TCP_KEYS, "an http check has none; set type = \"tcp\""),
        None => (&[], ""),
    };
    for &key in strangers {
        if let Some(value) = fields.value(key) {
            problems.report(&value.span(), format!("{key}: {mend}"));
        }
    }
    if check_type == Some(CheckType::Tcp) {
        return CheckKind::Tcp {
            send: send.map_or(Vec::new(), Spanned::into_inner),
            expect: expect.map(Spanned::into_inner),
        };
    }
    let method = method.map_or(Method::default(), Spanned::into_inner);
    if method == Method::Head {
        for key in ["expect_body", "json"] {
            if let Some(value) = fields.value(key) {
                let reason = format!("{key}: HEAD is answered without a body; remove one of them");
                problems.report(&value.span(), reason);
            }
        }
    }
    if check_type == Some(CheckType::Http) && fields.value("path").is_none() {
        check_absent_path(fields, role_key, problems);
    }
    CheckKind::Http {
        method,
        path: path.map(Spanned::into_inner),
        expect_status: expect_status.map_or(vec![StatusRange::SUCCESS], Spanned::into_inner),
        expect_body: expect_body.map(Spanned::into_inner),
        json: json.map(Spanned::into_inner),
    }
}

/// A check without a path asks for nothing but the role.
fn check_absent_path(fields: &mut Fields<'_>, role_key: RoleKey, problems: &Problems) {
    if role_key == RoleKey::Absent {
        let reason = "an http check without a role needs a path; add path = \"/health\"";
        problems.report(fields.at(), reason);
        return;
    }
    for key in ["method", "expect_status", "expect_body", "json"] {
        if let Some(value) = fields.value(key) {
            let reason = format!("{key}: no path is asked but those of the role; add path");
            problems.report(&value.span(), reason);
        }
    }
}

fn read_agent(fields: &mut Fields<'_>) -> AgentCheck {
    let port = fields.read("agent_port", value::port);
    let send = fields.read("agent_send", bytes);
    let interval = fields.read("agent_interval", |value| value::duration(value, INTERVALS));
    AgentCheck {
        port: port.map(Spanned::into_inner),
        send: send.map_or(Vec::new(), Spanned::into_inner),
        interval: interval.map(Spanned::into_inner),
    }
}

fn read_breaker(fields: &mut Fields<'_>, problems: &Problems) -> (Observe, Breaker) {
    let observe = fields.read("observe", value::word::<Observe>);
    let limit = fields.read("error_limit", |value| value::number(value, COUNTS));
    let mut time = |key| fields.read(key, |value| value::duration(value, BREAKS));
    let (window, open) = (time("error_window"), time("open_time"));
    let observe_given = fields.value("observe").is_some();
    let counts = observe
        .as_ref()
        .map_or(observe_given, |word| *word.get_ref() != Observe::None);
    for key in ["error_limit", "error_window", "open_time"] {
        if let (Some(value), false) = (fields.value(key), counts) {
            let reason = format!("{key}: nothing is counted; add observe = \"layer4\"");
            problems.report(&value.span(), reason);
        }
    }
    let default = Breaker::default();
    let breaker = Breaker {
        error_limit: limit.map_or(default.error_limit, Spanned::into_inner),
        error_window: window.map_or(default.error_window, Spanned::into_inner),
        open_time: open.map_or(default.open_time, Spanned::into_inner),
    };
    (
        observe.map_or(Observe::default(), Spanned::into_inner),
        breaker,
    )
}

/// What to send: TOML's own escapes write what no keyboard has.
fn bytes(value: &DeValue<'_>) -> Result<Vec<u8>, String> {
    match value::text(value)? {
        "" => Err("there is nothing to send; leave the key out".to_owned()),
        text => Ok(text.as_bytes().to_vec()),
    }
}
