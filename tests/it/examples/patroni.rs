//! `examples/patroni`: PostgreSQL under Patroni.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::address;
use lb_tests::patience::insist;
use lb_tests::privileged;

use super::Dialect;
use super::dialect::{Ending, Silence};
use super::servers::Loss;
use super::stage::Stage;

/// What `psql` says when the connection ended under it, by a FIN or a RST:
/// libpq has one sentence for both.
const CLOSED: &str = "server closed the connection unexpectedly";

struct Patroni;

impl Dialect for Patroni {
    const EXAMPLE: &'static str = "patroni";
    const PROGRAMS: &'static [&'static str] = &["patroni", "etcd", "postgres", "psql"];
    const PORT: u16 = 5432;
    const SERVICES: [u16; 2] = [5000, 5001];
    const PATIENCE: Duration = Duration::from_secs(60);

    fn write(&self, target: SocketAddr, key: &str, value: &str) -> Result<usize> {
        let table = "create table if not exists kv (key text primary key, value text)";
        let insert = format!("insert into kv values ('{key}', '{value}')");
        let who = "select inet_server_addr()";
        node_of(&psql(target, &[table, &insert, who])?)
    }

    fn read(&self, target: SocketAddr, key: &str) -> Result<(usize, Option<String>)> {
        let value = format!("select max(value) from kv where key = '{key}'");
        let answer = psql(target, &[&value, "select inet_server_addr()"])?;
        let value = answer.lines().next().filter(|value| !value.is_empty());
        Ok((node_of(&answer)?, value.map(str::to_owned)))
    }

    fn session(&self, target: SocketAddr, limit: Duration) -> Result<Silence> {
        let mut command = command(target);
        command.args(["-c", "select 1", "-c", "select pg_sleep(600)"]);
        let mut session = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = session.stdout.take().context("psql has no output")?;
        let mut first = String::new();
        BufReader::new(stdout).read_line(&mut first)?;
        ensure!(first == "1\n", "psql says {first:?}");
        Ok(Box::new(move || {
            let ended = insist(limit, || session.try_wait().ok().flatten());
            if ended.is_none() {
                // Its end is what matters.
                let _ = session.kill();
            }
            match session.wait_with_output() {
                _ if ended.is_none() => Ending::Other(format!("it waits after {limit:?}")),
                Ok(output) => ending(&String::from_utf8_lossy(&output.stderr)),
                Err(error) => Ending::Other(error.to_string()),
            }
        }))
    }
}

fn command(target: SocketAddr) -> Command {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
    command.args(["--set", "ON_ERROR_STOP=1", "--username", "postgres"]);
    command.args(["--host", &target.ip().to_string()]);
    command.args(["--port", &target.port().to_string()]);
    // As `patroni.yml` has it.
    command.env("PGPASSWORD", "change-me-1");
    command.env("PGCONNECT_TIMEOUT", "3");
    command.stdin(Stdio::null());
    command
}

/// What these statements print, on one connection.
fn psql(target: SocketAddr, statements: &[&str]) -> Result<String> {
    let mut command = command(target);
    for statement in statements {
        command.args(["-c", statement]);
    }
    let output = command.output().context("cannot start psql")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "psql: {}", stderr.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The node whose address stands in the last line.
fn node_of(answer: &str) -> Result<usize> {
    let ip: Ipv4Addr = answer.lines().last().context("no answer")?.parse()?;
    let node = (1..=3).find(|&id| address::node(id) == ip);
    node.with_context(|| format!("{ip} is no node's address"))
}

fn ending(stderr: &str) -> Ending {
    if stderr.contains(CLOSED) {
        Ending::Closed
    } else {
        Ending::Other(stderr.trim().to_owned())
    }
}

#[test]
fn writes_follow_the_primary_of_patroni_and_reads_its_replicas() {
    privileged!();
    let Some(mut stage) = Stage::start(Patroni, |_| {}) else {
        return;
    };
    // One loss is enough: it takes Patroni as long as its `ttl`.
    let lost = stage.lose_the_primary(Loss::Power);
    stage.must_come_back_as_a_replica(lost);
    stage.conclude();
}
