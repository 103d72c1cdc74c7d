//! What a client asks of a server, and how fast it is answered: wrk and
//! iperf3, each in the client's namespace, and their answers in numbers.

use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::peers::{Place, nginx};
use crate::lab::{Lab, Process};
use crate::patience::wait_for;

/// Where the server speaks HTTP, and each balancer listens for it.
pub const HTTP: u16 = 8080;
/// Where the server takes bytes.
pub const BULK: u16 = 5201;
/// Connections that wrk keeps busy.
const CONNECTIONS: u32 = 64;
/// Of `/proc/stat`: USER_HZ, which is fixed on all that Linux runs on today.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;
/// How long a command may take beyond what it was told.
const GRACE: Duration = Duration::from_secs(20);

/// The server: nginx with an answer of two bytes, a process a CPU so that no
/// way is held up by a single one; and iperf3.
#[derive(Debug)]
pub struct Backend {
    _processes: Vec<Process>,
}

impl Backend {
    /// Starts both on the lab's one node, and waits until they listen.
    pub fn start(lab: &Lab) -> Result<Self> {
        let node = lab.node(1);
        node.set_sysctl("core/somaxconn", "4096")?;
        // As on any client; the lab's own range is wider than the default.
        lab.client()
            .set_sysctl("ipv4/ip_local_port_range", "32768 60999")?;
        let http = format!(
            "http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 60s;
  server {{ listen {HTTP} reuseport backlog=4096; location / {{ return 200 \"ok\"; }} }}
}}
"
        );
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut processes = (0..cpus)
            .map(|index| nginx(lab, Place::Node, index, "", &http))
            .collect::<Result<Vec<_>>>()?;
        let mut command = Command::new("iperf3");
        command.args(["--server", "--port", &BULK.to_string()]);
        let log = lab.run_directory().join("iperf3-node.log");
        processes.push(node.spawn(command, &log)?);
        Ok(Self {
            _processes: processes,
        })
    }
}

/// Waits until `at` accepts a connection from the client.
pub fn wait_for_port(lab: &Lab, at: SocketAddrV4) -> Result<()> {
    let timeout = Duration::from_secs(1);
    let connected = wait_for(GRACE, || {
        lab.client()
            .enter(|| TcpStream::connect_timeout(&at.into(), timeout).ok())
    });
    ensure!(connected.is_some(), "nobody accepts connections at {at}");
    Ok(())
}

/// What wrk found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requests {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds within which half of the answers came.
    pub p50: f64,
    /// Microseconds within which 99 % of the answers came.
    pub p99: f64,
    /// Errors of any kind.
    pub errors: f64,
    /// CPU time of the whole machine for each request, in microseconds.
    pub cpu: f64,
}

/// Whether a connection serves one request or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// One request each.
    Short,
    /// As many as there is time for.
    KeptAlive,
}

/// HTTP requests to `at` for so many seconds.
pub fn requests(
    lab: &Lab,
    at: SocketAddrV4,
    connections: Connections,
    seconds: u64,
) -> Result<Requests> {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--latency", "--timeout", "5s"]);
    wrk.args(["--connections", &CONNECTIONS.to_string()]);
    wrk.args(["--duration", &format!("{seconds}s")]);
    if connections == Connections::Short {
        wrk.args(["--header", "Connection: close"]);
    }
    wrk.arg(format!("http://{at}/"));
    let before = busy_seconds()?;
    let output = output(lab, wrk, "wrk", seconds)?;
    let busy = busy_seconds()? - before;
    parse_wrk(&output, busy).with_context(|| format!("wrk printed:\n{output}"))
}

/// Reads wrk's report; `busy` seconds of CPU went into it.
fn parse_wrk(output: &str, busy: f64) -> Result<Requests> {
    let after = |label: &str| {
        let mut lines = output.lines();
        lines.find_map(|line| line.trim().strip_prefix(label).map(str::trim))
    };
    let rate: f64 = after("Requests/sec:").context("no rate")?.parse()?;
    let (count, _) = output
        .split_once(" requests in ")
        .context("no count of requests")?;
    let count: f64 = count.split_whitespace().last().unwrap_or("0").parse()?;
    let socket: f64 = after("Socket errors:").map_or(0.0, sum_of_numbers);
    let status: f64 = after("Non-2xx or 3xx responses:").map_or(0.0, sum_of_numbers);
    Ok(Requests {
        rate,
        p50: microseconds(after("50%").context("no p50")?)?,
        p99: microseconds(after("99%").context("no p99")?)?,
        errors: socket + status,
        cpu: busy * 1e6 / count.max(1.0),
    })
}

fn sum_of_numbers(text: &str) -> f64 {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse::<f64>().ok())
        .sum()
}

/// `12.3us`, `1.2ms` or `3s`, as wrk writes them.
fn microseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("no time: {text:?}")
}

/// Gbit/s from the client to `at`, by one connection, for so many seconds.
pub fn bulk(lab: &Lab, at: SocketAddrV4, seconds: u64) -> Result<f64> {
    let mut iperf = Command::new("iperf3");
    iperf.args(["--json", "--client", &at.ip().to_string()]);
    iperf.args(["--port", &at.port().to_string()]);
    iperf.args(["--time", &seconds.to_string()]);
    let output = output(lab, iperf, "iperf3", seconds)?;
    let report: Value =
        serde_json::from_str(&output).with_context(|| format!("iperf3 printed:\n{output}"))?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.with_context(|| format!("iperf3 failed: {}", report["error"]))?;
    Ok(bits / 1e9)
}

/// What a command in the client's namespace prints.
fn output(lab: &Lab, command: Command, name: &str, seconds: u64) -> Result<String> {
    let log = lab.run_directory().join(format!("{name}.log"));
    // A log is added to: only this command's own output is wanted.
    let _ = std::fs::remove_file(&log);
    let mut process = lab.client().spawn(command, &log)?;
    let patience = Duration::from_secs(seconds) + GRACE;
    wait_for(patience, || process.exit_status()).with_context(|| format!("{name} does not end"))?;
    Ok(process.output())
}

/// Seconds that all CPUs of this machine have worked so far.
fn busy_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq; what a
    // hypervisor stole is nobody's work here.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        bail!("/proc/stat begins with {line:?}");
    };
    Ok((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let report = "Running 1s test @ http://10.87.0.100:8080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   421.88us  101.25us   3.71ms   87.30%
    Req/Sec   150.53k     3.93k  155.66k    72.73%
  Latency Distribution
     50%  410.00us
     75%  450.00us
     90%  520.00us
     99%    1.20ms
  164572 requests in 1.10s, 23.07MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
Requests/sec: 149617.62
Transfer/sec:     20.97MB
";
        let read = parse_wrk(report, 1.64572).unwrap();
        assert_eq!(
            read,
            Requests {
                rate: 149_617.62,
                p50: 410.0,
                p99: 1_200.0,
                errors: 3.0,
                cpu: 10.0,
            }
        );
        assert!(parse_wrk("unable to connect", 1.0).is_err());
    }
}
