//! `examples/redis-sentinel`: Redis with Sentinel.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_tests::lab::address;
use lb_tests::privileged;

use super::Dialect;
use super::dialect::{Ending, Silence};
use super::servers::Loss;
use super::stage::{READ, Stage, WRITE};

const TIMEOUT: Duration = Duration::from_secs(3);
/// Where a node's Sentinel listens.
const SENTINEL: u16 = 26379;

struct Redis;

impl Dialect for Redis {
    const EXAMPLE: &'static str = "redis-sentinel";
    const PROGRAMS: &'static [&'static str] = &["redis-server", "redis-sentinel"];
    const PORT: u16 = 6379;
    const SERVICES: [u16; 2] = [6379, 6380];
    const PATIENCE: Duration = Duration::from_secs(40);

    /// Sentinels and replicas are found by those who are connected to the
    /// primary, within ten seconds.
    fn is_ready(&self) -> Result<bool> {
        let mut ready = true;
        for id in 1..=3 {
            let mut sentinel = Client::open((address::node(id), SENTINEL).into(), TIMEOUT)?;
            let known = sentinel.ask("INFO sentinel")?.concat();
            ready &= known.contains("status=ok") && known.contains("slaves=2,sentinels=3");
        }
        Ok(ready)
    }

    fn write(&self, target: SocketAddr, key: &str, value: &str) -> Result<usize> {
        let mut client = Client::open(target, TIMEOUT)?;
        client.ask(&format!("SET {key} {value}"))?;
        client.node()
    }

    fn read(&self, target: SocketAddr, key: &str) -> Result<(usize, Option<String>)> {
        let mut client = Client::open(target, TIMEOUT)?;
        let value = client.ask(&format!("GET {key}"))?.pop();
        Ok((client.node()?, value))
    }

    fn session(&self, target: SocketAddr, limit: Duration) -> Result<Silence> {
        let mut client = Client::open(target, limit)?;
        client.ask("PING")?;
        Ok(Box::new(move || match client.line() {
            Ok(line) => Ending::Other(format!("an answer to nothing: {line}")),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset => Ending::Reset,
                ErrorKind::UnexpectedEof => Ending::Closed,
                _ => Ending::Other(error.to_string()),
            },
        }))
    }
}

/// As much of a client as the story needs.
struct Client(BufReader<TcpStream>);

impl Client {
    fn open(target: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends an inline command; the strings of its answer.
    fn ask(&mut self, command: &str) -> Result<Vec<String>> {
        self.0
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())?;
        let first = self.line()?;
        match first.split_at_checked(1) {
            Some(("+", text)) => Ok(vec![text.to_owned()]),
            Some(("$", length)) => Ok(self.string(length)?.into_iter().collect()),
            Some(("*", count)) => {
                let mut strings = Vec::new();
                for _ in 0..count.parse::<usize>()? {
                    let length = self.line()?;
                    let length = length.strip_prefix('$').context("not a list of strings")?;
                    strings.extend(self.string(length)?);
                }
                Ok(strings)
            }
            _ => bail!("{command}: {first}"),
        }
    }

    /// Which node this is: each has a directory of its own.
    fn node(&mut self) -> Result<usize> {
        let answer = self.ask("CONFIG GET dir")?;
        let name = answer.last().and_then(|path| path.rsplit('/').next());
        let id = name.and_then(|name| name.strip_prefix('n'));
        Ok(id.context("a directory that is no node's")?.parse()?)
    }

    /// A string of this length; `None` where there is none, which has -1.
    fn string(&mut self, length: &str) -> Result<Option<String>> {
        let Ok(length) = length.parse::<u64>() else {
            return Ok(None);
        };
        let mut text = String::new();
        self.0.by_ref().take(length).read_to_string(&mut text)?;
        self.line()?;
        Ok(Some(text))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.by_ref().take(4096).read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

#[test]
fn writes_follow_the_primary_of_redis_and_reads_its_replicas() {
    privileged!();
    let Some(mut stage) = Stage::start(Redis, |_| {}) else {
        return;
    };
    for loss in [Loss::Kill, Loss::Power] {
        let lost = stage.lose_the_primary(loss);
        // It says that it is the primary until Sentinel tells it better, and
        // the writes go on at the new one.
        stage.must_come_back_as_a_replica(lost);
    }
    stage.conclude();
}

/// What the example's `leader` is for.
#[test]
fn two_primaries_of_redis_make_no_writer_where_role_master_alone_counts() {
    privileged!();
    let Some(mut stage) = Stage::start(Redis, |toml| {
        let careful = r#"leader = { regex = "role:master\r\nconnected_slaves:[1-9]" }"#;
        let careless = r#"leader = { body = "role:master" }"#;
        assert!(toml.contains(careful));
        *toml = toml.replace(careful, careless);
    }) else {
        return;
    };
    let lost = stage.lose_the_primary(Loss::Kill);
    stage.servers.start_node(&stage.lab, lost).unwrap();
    let status = stage.wait_for("two claims, and so no writer", |status| {
        status.targets(WRITE).is_empty() && status.pools[0].problem.is_some()
    });
    let problem = status.pools[0].problem.as_deref().unwrap_or_default();
    assert!(
        problem.contains("claim to lead without a term: no writer"),
        "{problem}"
    );
    let begun = Instant::now();
    assert!(stage.try_write().is_err());
    stage.wait_for("one primary again", |status| {
        status.targets(WRITE).len() == 1 && status.targets(READ).len() == 2
    });
    println!("two primaries for {} ms", begun.elapsed().as_millis());
    assert_ne!(stage.must_write(Duration::ZERO), lost);
    stage.conclude();
}
