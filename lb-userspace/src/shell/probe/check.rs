//! One check of one server, from the first SYN to the report.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::claim;
use super::connect::{Ports, connect, explain};
use super::http::{Answer, GetError, Session};
use crate::config::{CheckKind, Pool, RoleCheck, Server, StatusRange};
use crate::engine::{CheckReport, Outcome, Role, RoleClaim};

/// What to ask a server, and for how long to wait.
pub struct Check {
    server: SocketAddr,
    ports: Ports,
    timeout: Duration,
    kind: CheckKind,
    role: Option<RoleCheck>,
}

/// How a check ended, and what a human wants to know about it.
type Finding = (Outcome, String);

impl Check {
    /// The check of `server`, which is one of `pool`.
    pub fn new(pool: &Pool, server: &Server, ports: Ports) -> Self {
        Self {
            server: server.check_address,
            ports,
            timeout: pool.check.timeout,
            kind: pool.check.kind.clone(),
            role: pool.role.clone(),
        }
    }

    /// Checks the server. Takes `timeout` at most, whatever the server does.
    pub async fn run(&self) -> CheckReport {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let mut role = None;
        let (outcome, detail) = self.examine(deadline, &mut role).await;
        CheckReport {
            outcome,
            detail,
            role,
            took: started.elapsed(),
        }
    }

    /// Leaves what the server said in `role` even where it then falls silent:
    /// that it does not lead any more must not be lost with the rest.
    async fn examine(&self, deadline: Instant, role: &mut Option<RoleClaim>) -> Finding {
        let stream = match timeout_at(deadline, connect(self.server, self.ports)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return explain(&error),
            Err(_) => {
                return (
                    Outcome::ConnectTimeout,
                    format!("no connection within {:?}", self.timeout),
                );
            }
        };
        let (path, expected) = match &self.kind {
            CheckKind::Tcp => return (Outcome::Connected, String::new()),
            CheckKind::Http {
                path,
                expect_status,
            } => (path.as_deref(), &expect_status[..]),
        };
        let asking = async {
            let mut session = Session::new(self.server, self.ports, stream).await?;
            self.ask(&mut session, path, expected, role).await
        };
        match timeout_at(deadline, asking).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(GetError::Connect(error))) => explain(&error),
            Ok(Err(error)) => (Outcome::Garbage, error.to_string()),
            Err(_) => (
                Outcome::AnswerTimeout,
                format!("no whole answer within {:?}", self.timeout),
            ),
        }
    }

    async fn ask(
        &self,
        session: &mut Session,
        path: Option<&str>,
        expected: &[StatusRange],
        role: &mut Option<RoleClaim>,
    ) -> Result<Finding, GetError> {
        let mut finding = (Outcome::Answered, String::new());
        if let Some(path) = path {
            let answer = session.get(path).await?;
            let good = expected
                .iter()
                .any(|range| range.contains(answer.status.as_u16()));
            let outcome = if good {
                Outcome::Answered
            } else {
                Outcome::Status
            };
            finding = (outcome, describe(path, &answer));
        }
        let Some(paths) = &self.role else {
            return Ok(finding);
        };
        let (outcome, detail) = ask_role(session, paths, role).await?;
        // A server that fails its own check is asked for its role all the
        // same: that it leads no more is news in any case.
        Ok(match finding.0 {
            Outcome::Status => finding,
            _ => (outcome, detail),
        })
    }
}

/// Finds out a server's role: the first of the two paths that answers 200.
async fn ask_role(
    session: &mut Session,
    paths: &RoleCheck,
    role: &mut Option<RoleClaim>,
) -> Result<Finding, GetError> {
    let as_leader = session.get(&paths.leader).await?;
    if is_yes(&as_leader) {
        *role = Some(claim::read(
            Role::Leader,
            &as_leader.headers,
            &as_leader.body,
        ));
        return Ok((Outcome::Answered, describe(&paths.leader, &as_leader)));
    }
    *role = Some(claim::read(
        Role::Unknown,
        &as_leader.headers,
        &as_leader.body,
    ));
    let as_replica = session.get(&paths.replica).await?;
    if is_yes(&as_replica) {
        *role = Some(claim::read(
            Role::Replica,
            &as_replica.headers,
            &as_replica.body,
        ));
        return Ok((Outcome::Answered, describe(&paths.replica, &as_replica)));
    }
    *role = Some(claim::read(
        Role::Unknown,
        &as_replica.headers,
        &as_replica.body,
    ));
    let (leader, replica) = (
        describe(&paths.leader, &as_leader),
        describe(&paths.replica, &as_replica),
    );
    Ok((Outcome::Status, format!("{leader}, {replica}")))
}

fn is_yes(answer: &Answer) -> bool {
    answer.status.as_u16() == 200
}

/// `503 Service Unavailable at /primary`.
fn describe(path: &str, answer: &Answer) -> String {
    format!("{} at {path}", answer.status)
}
