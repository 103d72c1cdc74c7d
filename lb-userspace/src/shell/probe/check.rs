//! One check of one server, from the first SYN to the report.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::HeaderMap;
use serde_json::Value as Json;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::claim;
use super::connect::{Ports, Purpose, connect, explain};
use super::http::{Answer, BODY_MAX, GetError, Question, Session};
use super::tcp::{ANSWER_MAX, Exchange, exchange};
use crate::config::{
    Answered, CheckKind, Condition, JsonTest, Method, Page, Pattern, Pool, RoleCheck, RoleSource,
    Server, StatusRange,
};
use crate::engine::{CheckReport, Outcome, Role, RoleClaim};

/// What to ask every server of a pool, and for how long to wait.
#[derive(Debug)]
pub struct Questions {
    /// Whether the service port has to accept too, where it is another one.
    service_port: bool,
    ports: Ports,
    timeout: Duration,
    kind: CheckKind,
    role: Option<RoleCheck>,
}

impl Questions {
    /// What `pool` asks of its servers.
    pub fn of(pool: &Pool, ports: Ports) -> Self {
        Self {
            service_port: pool.check.service_port,
            ports,
            timeout: pool.check.timeout,
            kind: pool.check.kind.clone(),
            role: pool.role.clone(),
        }
    }
}

/// The check of one server. What it shares with a thousand others is in the CPU's
/// caches; the less it has for itself, the less is fetched for each.
#[derive(Clone, Debug)]
pub struct Check {
    server: SocketAddr,
    /// The service port, where it is asked for.
    service: Option<SocketAddr>,
    questions: Arc<Questions>,
}

/// How a check ended, and what a human wants to know about it.
type Finding = (Outcome, String);

/// What a page has to be like.
#[derive(Clone, Copy)]
struct Expectations<'a> {
    method: Method,
    status: &'a [StatusRange],
    body: Option<&'a Pattern>,
    json: Option<&'a JsonTest>,
}

impl Check {
    /// Asks these questions of `server`.
    pub fn new(server: &Server, questions: &Arc<Questions>) -> Self {
        let apart = server.check_address != server.address;
        Self {
            server: server.check_address,
            service: (questions.service_port && apart).then_some(server.address),
            questions: Arc::clone(questions),
        }
    }

    /// Checks the server. Takes `timeout` at most, whatever the server does.
    pub async fn run(&self) -> CheckReport {
        let started = Instant::now();
        let deadline = started + self.questions.timeout;
        let mut role = None;
        let (finding, service) = tokio::join!(
            self.examine(deadline, &mut role),
            self.examine_service(deadline)
        );
        let (outcome, detail) = match service {
            // A server that fails its own check is described by that.
            Some(service) if finding.0.passed() => service,
            _ => finding,
        };
        CheckReport {
            outcome,
            detail,
            role,
            began: started.into_std(),
            took: started.elapsed(),
        }
    }

    /// What is wrong with the port that clients connect to.
    async fn examine_service(&self, deadline: Instant) -> Option<Finding> {
        let service = self.service?;
        let (outcome, detail) = self.open(service, Purpose::Knock, deadline).await.err()?;
        Some((
            outcome,
            format!("service port {}: {detail}", service.port()),
        ))
    }

    async fn open(
        &self,
        server: SocketAddr,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<TcpStream, Finding> {
        match timeout_at(deadline, connect(server, self.questions.ports, purpose)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => {
                let detail = format!("no connection within {:?}", self.questions.timeout);
                Err((Outcome::ConnectTimeout, detail))
            }
        }
    }

    /// Leaves what the server said in `role` even where it then falls silent:
    /// that it does not lead any more must not be lost with the rest.
    async fn examine(&self, deadline: Instant, role: &mut Option<RoleClaim>) -> Finding {
        let purpose = match &self.questions.kind {
            CheckKind::Tcp { expect: None, .. } => Purpose::Knock,
            CheckKind::Tcp { send, .. } if send.is_empty() => Purpose::Listen,
            CheckKind::Tcp { .. } | CheckKind::Http { .. } => Purpose::Ask,
        };
        let stream = match self.open(self.server, purpose, deadline).await {
            Ok(stream) => stream,
            Err(finding) => return finding,
        };
        if purpose == Purpose::Knock {
            return (Outcome::Connected, String::new());
        }
        // Apart from the rest, which every check has to carry.
        let asking = Box::pin(self.converse(stream, role));
        match timeout_at(deadline, asking).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(GetError::Connect(error))) => explain(&error),
            Ok(Err(error)) => (Outcome::Garbage, error.to_string()),
            Err(_) => (
                Outcome::AnswerTimeout,
                format!("no whole answer within {:?}", self.questions.timeout),
            ),
        }
    }

    /// A check that asks something, once connected.
    async fn converse(
        &self,
        stream: TcpStream,
        role: &mut Option<RoleClaim>,
    ) -> Result<Finding, GetError> {
        match &self.questions.kind {
            CheckKind::Tcp { send, expect } => {
                self.ask_tcp(stream, send, expect.as_ref(), role).await
            }
            CheckKind::Http { .. } => {
                let mut session = Session::new(self.server, self.questions.ports, stream);
                self.ask_http(&mut session, role).await
            }
        }
    }

    /// A tcp check, once connected.
    async fn ask_tcp(
        &self,
        mut stream: TcpStream,
        send: &[u8],
        expect: Option<&Pattern>,
        role: &mut Option<RoleClaim>,
    ) -> Result<Finding, GetError> {
        let Some(expect) = expect else {
            return Ok((Outcome::Connected, String::new()));
        };
        let mut answer = Vec::new();
        let exchange = exchange(&mut stream, send, expect, &mut answer).await;
        let failed = |reason: String| Ok((Outcome::Content, reason));
        match exchange {
            Ok(Exchange::Found) => {}
            Ok(Exchange::Ended) => {
                return failed("the server closed the connection, and had not said it".into());
            }
            Ok(Exchange::TooLong) => {
                return failed(format!("not in the first {ANSWER_MAX} bytes of the answer"));
            }
            Err(error) => return Ok((Outcome::Garbage, error.to_string())),
        }
        let Some(check) = &self.questions.role else {
            return Ok((Outcome::Answered, String::new()));
        };
        let RoleSource::Answer {
            leader, replica, ..
        } = &check.source
        else {
            return Ok((Outcome::Answered, String::new()));
        };
        let json = json_of(&answer);
        let answer = Answered {
            bytes: &answer,
            json: &json,
        };
        let claim = claim_of(check, (leader, replica), &HeaderMap::new(), answer);
        let finding = describe_role(&claim, "the answer");
        *role = Some(claim);
        Ok(finding)
    }

    /// An http check, once connected.
    async fn ask_http(
        &self,
        session: &mut Session,
        role: &mut Option<RoleClaim>,
    ) -> Result<Finding, GetError> {
        let mut finding = (Outcome::Answered, String::new());
        if let CheckKind::Http {
            method,
            path: Some(path),
            expect_status,
            expect_body,
            json,
        } = &self.questions.kind
        {
            let expected = Expectations {
                method: *method,
                status: expect_status,
                body: expect_body.as_ref(),
                json: json.as_ref(),
            };
            finding = ask_page(session, path, expected).await?;
        }
        let Some(check) = &self.questions.role else {
            return Ok(finding);
        };
        let (outcome, detail) = match &check.source {
            RoleSource::Paths { leader, replica } => {
                ask_paths(session, check, (leader, replica), role).await?
            }
            RoleSource::Answer {
                page: Some(page),
                leader,
                replica,
            } => ask_answer(session, check, page, (leader, replica), role).await?,
            RoleSource::Answer { page: None, .. } => return Ok(finding),
        };
        // A server that fails its own check is asked for its role all the
        // same: that it leads no more is news in any case.
        Ok(if finding.0.passed() {
            (outcome, detail)
        } else {
            finding
        })
    }
}

async fn ask_page(
    session: &mut Session,
    path: &str,
    expected: Expectations<'_>,
) -> Result<Finding, GetError> {
    let method = match expected.method {
        Method::Get => &hyper::Method::GET,
        Method::Head => &hyper::Method::HEAD,
    };
    let question = Question {
        method,
        ..Question::get(path)
    };
    let answer = session.ask(question).await?;
    let described = describe(path, &answer);
    let status = answer.status.as_u16();
    if !expected.status.iter().any(|range| range.contains(status)) {
        return Ok((Outcome::Status, described));
    }
    let failed = |what: String| Ok((Outcome::Content, format!("{described}, but {what}")));
    let size = match answer.truncated {
        true => format!(" in its first {BODY_MAX} bytes"),
        false => String::new(),
    };
    if let Some(pattern) = expected.body
        && !pattern.is_in(&answer.body)
    {
        return failed(format!("the body does not say it{size}"));
    }
    if let Some(test) = expected.json {
        match serde_json::from_slice::<Json>(&answer.body) {
            Err(_) => return failed(format!("the body is no JSON{size}")),
            Ok(json) if !test.holds(&json) => {
                let found = json.pointer(&test.pointer);
                let found = found.map_or("missing".to_owned(), |found| shorten(&found.to_string()));
                return failed(format!("{} is {found}", test.pointer));
            }
            Ok(_) => {}
        }
    }
    Ok((Outcome::Answered, described))
}

/// Finds out a server's role: the first of the two paths that answers 200.
async fn ask_paths(
    session: &mut Session,
    check: &RoleCheck,
    (leader, replica): (&str, &str),
    role: &mut Option<RoleClaim>,
) -> Result<Finding, GetError> {
    let mut denials = Vec::new();
    for (path, means) in [(leader, Role::Leader), (replica, Role::Replica)] {
        let answer = session.ask(Question::get(path)).await?;
        let yes = answer.status.as_u16() == 200;
        let json = json_of(&answer.body);
        let answered = Answered {
            bytes: &answer.body,
            json: &json,
        };
        let said = if yes { means } else { Role::Unknown };
        *role = Some(claim::read(check, said, &answer.headers, answered));
        let described = describe(path, &answer);
        if yes {
            return Ok((Outcome::Answered, described));
        }
        denials.push(described);
    }
    Ok((Outcome::Status, denials.join(", ")))
}

/// Finds out a server's role: the condition that the answer meets.
async fn ask_answer(
    session: &mut Session,
    check: &RoleCheck,
    page: &Page,
    conditions: (&Condition, &Condition),
    role: &mut Option<RoleClaim>,
) -> Result<Finding, GetError> {
    let mut question = Question::get(&page.path);
    if let Some(body) = &page.post {
        (question.method, question.body) = (&hyper::Method::POST, body);
    }
    let answer = session.ask(question).await?;
    let json = json_of(&answer.body);
    let answered = Answered {
        bytes: &answer.body,
        json: &json,
    };
    let claim = claim_of(check, conditions, &answer.headers, answered);
    let finding = describe_role(&claim, &describe(&page.path, &answer));
    *role = Some(claim);
    Ok(finding)
}

/// What a single answer claims. An answer that meets both conditions claims
/// nothing: it would be anybody's guess.
fn claim_of(
    check: &RoleCheck,
    (leader, replica): (&Condition, &Condition),
    headers: &HeaderMap,
    answer: Answered<'_>,
) -> RoleClaim {
    let role = match (leader.holds(answer), replica.holds(answer)) {
        (true, false) => Role::Leader,
        (false, true) => Role::Replica,
        (false, false) | (true, true) => Role::Unknown,
    };
    claim::read(check, role, headers, answer)
}

fn describe_role(claim: &RoleClaim, answer: &str) -> Finding {
    match claim.role {
        Role::Leader | Role::Replica => (Outcome::Answered, format!("{} by {answer}", claim.role)),
        Role::Unknown => (
            Outcome::Content,
            format!("{answer} tells neither leader nor replica"),
        ),
    }
}

/// `Null` where it is none.
fn json_of(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// `503 Service Unavailable at /primary`.
fn describe(path: &str, answer: &Answer) -> String {
    format!("{} at {path}", answer.status)
}

/// The beginning of a text that a server chose.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
