//! `lb` with a table full of connections that nobody made: copies of one real
//! connection, with other clients and other source ports.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::addr::{Ipv4, Port};
use lb_common::flow::{Direction, Flow, FlowKey, Pending, Progress, Tick};
use lb_common::target::{Load, Target, TargetId};

use crate::balancer::{Balancer, Configuration, Flows};
use crate::binaries;
use crate::fake::{Claim, FakeNode};
use crate::http::Connection;
use crate::lab::address::Family;
use crate::lab::{Lab, Spec, joined};
use crate::patience::wait_until;
use crate::rows::connections::Entry;
use crate::rows::family::Family as _;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Client ports of one address.
const PORTS: u32 = 1 << 14;
/// How far ahead of now the connections' last segments are.
const AHEAD: Duration = Duration::from_secs(25);
/// The first client.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// The first address that the server takes for its client.
const SNATS: Ipv4Addr = Ipv4Addr::new(10, 192, 0, 0);

/// A running `lb` with one server, and its tables.
pub struct Crowd {
    /// The agent.
    pub balancer: Balancer,
    flows: HashMap<MapData, FlowKey<Ipv4>, Flow<Ipv4>>,
    pending: HashMap<MapData, FlowKey<Ipv4>, Pending<Ipv4>>,
    load: Array<MapData, Load>,
    service_load: Array<MapData, u32>,
    /// What is copied: forward, and reply.
    pair: [Entry; 2],
    /// Whose they are.
    target: Target<Ipv4>,
    connections: u32,
    _node: FakeNode,
    _lab: Lab,
}

impl Crowd {
    /// Starts `lb` with room for `connections`; open ones are forgotten after
    /// `idle_timeout`, in the words of the configuration, of which `top` has
    /// further ones.
    pub fn start(connections: u32, idle_timeout: &str, top: &str) -> Result<Self> {
        let lab = Lab::new(&Spec::for_test(1))?;
        let at = lab.node_address(Family::V4, 1);
        let node = FakeNode::start(lab.node(1), 1, at, Claim::leader(1))?;
        let mut configuration = Configuration::for_nodes(&lab);
        // The table of handshakes loses none as long as it is half empty.
        configuration.top = format!(
            "limits = {{ connections = {}, half_open = {} }}\n{top}",
            connections + 16,
            connections * 2,
        );
        configuration.read_service = format!("idle_timeout = \"{idle_timeout}\"");
        // A server whose threads wait for a core is not to be taken for DOWN.
        configuration.check =
            r#"interval = "500ms", timeout = "500ms", rise = 1, fall = 100"#.to_owned();
        let mut balancer = Balancer::with_configuration(&lab, &configuration.to_toml())?;
        balancer.set_log_filter("info,lb_userspace::shell::flows=debug");
        balancer.start_again()?;
        balancer.wait_until_serving(PATIENCE)?;
        let pins = balancer.pins()?;
        let map = |name: &str| Ok::<_, anyhow::Error>(MapData::from_pin(pins.join(name))?);
        let flows = HashMap::try_from(Map::HashMap(map("FLOWS_V4")?))?;
        let pending = HashMap::try_from(Map::LruHashMap(map("PENDING_V4")?))?;
        let open = lab
            .client()
            .enter(|| Connection::open(Family::V4.read(), PATIENCE))?;
        let targets = Array::try_from(Map::Array(map("TARGETS_V4")?))?;
        let (pair, target) = pair_of(&flows, &targets, open.local_address()?)?;
        Ok(Self {
            flows,
            pending,
            load: Array::try_from(Map::Array(map("LOAD")?))?,
            service_load: Array::try_from(Map::Array(map("SERVICE_LOAD")?))?,
            pair,
            target,
            connections,
            balancer,
            _node: node,
            _lab: lab,
        })
    }

    /// Puts the connections into the tables, as open ones whose last segment
    /// passed `ahead` from now: they become due all at once, however long
    /// this takes.
    pub fn fill(&mut self, ahead: Duration) -> Result<()> {
        let (target, service) = (self.pair[0].1.target().0, u32::from(self.target.service.0));
        let Load { open, latency } = self.load.get(&target, 0)?;
        let open = open + self.connections;
        self.load.set(target, Load { open, latency }, 0)?;
        let all = self.load.get(&0, 0)?;
        let open = all.open + self.connections;
        self.load.set(0, Load { open, ..all }, 0)?;
        let open = self.service_load.get(&service, 0)? + self.connections;
        self.service_load.set(service, open, 0)?;
        for (key, flow) in copies(self.pair, self.connections, ahead) {
            self.flows.insert(key, flow, 0)?;
        }
        Ok(())
    }

    /// Puts them into the tables as connections in their handshake.
    pub fn fill_handshakes(&mut self, ahead: Duration) -> Result<()> {
        for (key, flow) in copies(self.pair, self.connections, ahead) {
            let pending = Pending {
                flow,
                server_sequence: 0,
                opened: 0,
                progress: Progress(0),
            };
            self.pending.insert(key, pending, 0)?;
        }
        Ok(())
    }

    /// Takes the reply flow of one of them away, as if its server answered the
    /// client itself.
    pub fn lose_a_reply(&mut self) -> Result<()> {
        let mut flows = copies(self.pair, 1, Duration::ZERO);
        let reply = flows.find(|(_, flow)| flow.direction() == Direction::Reply);
        let (key, _) = reply.context("there is one")?;
        Ok(self.flows.remove(&key)?)
    }

    /// How many connections are counted as open: of the target, and of the
    /// service.
    pub fn open(&self) -> Result<(u32, u32)> {
        let TargetId(target) = self.pair[0].1.target();
        let of_target = self.load.get(&target, 0)?.open;
        let service = u32::from(self.target.service.0);
        Ok((of_target, self.service_load.get(&service, 0)?))
    }

    /// The sweeps of the agent so far.
    pub fn sweeps(&self) -> Vec<SweepReport> {
        let log = self.balancer.output();
        log.lines().filter_map(SweepReport::read).collect()
    }

    /// What `lb flows` prints with such `arguments`, and what that takes.
    pub fn list(&self, arguments: &[&str]) -> Result<Listing> {
        let agent = self.balancer.pid().context("lb ended")?;
        forget_peak(agent)?;
        let before = peak_mebibytes(agent)?;
        let begun = Instant::now();
        let mut child = Command::new(binaries::find("lb")?)
            .args(["flows", "--json", "--socket"])
            .arg(self.balancer.socket())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdout = child.stdout.take().context("a pipe")?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let mut cli_mebibytes: f64 = 0.0;
        while child.try_wait()?.is_none() {
            // None of one that ends just now.
            cli_mebibytes = cli_mebibytes.max(peak_mebibytes(child.id()).unwrap_or(0.0));
            thread::sleep(Duration::from_millis(1));
        }
        let took = begun.elapsed();
        let text = joined(reader.join())?;
        Ok(Listing {
            flows: serde_json::from_str(&text).context("`lb flows --json` printed no JSON")?,
            took,
            agent_mebibytes: peak_mebibytes(agent)? - before,
            cli_mebibytes,
        })
    }
}

/// So many copies of a connection, each with another client and another port
/// of its own, whose last segment passed `ahead` from the pair's.
fn copies(pair: [Entry; 2], connections: u32, ahead: Duration) -> impl Iterator<Item = Entry> {
    let [(forward_key, forward), (reply_key, reply)] = pair;
    let Tick(ahead) = Tick::at(ahead.as_nanos() as u64);
    let last_seen = Tick(forward.last_seen.0.wrapping_add(ahead));
    let like = move |flow: &Flow<Ipv4>, key: &FlowKey<Ipv4>, other: &FlowKey<Ipv4>| {
        let (direction, owner) = (flow.direction(), flow.owner());
        Flow::new(
            key,
            &other.reversed(),
            direction,
            owner,
            flow.hop,
            last_seen,
        )
    };
    (0..connections).flat_map(move |number| {
        let (nth, port) = (number / PORTS, Port::new(1024 + (number % PORTS) as u16));
        let address = |first: Ipv4Addr| Ipv4::from(Ipv4Addr::from_bits(first.to_bits() + nth));
        let (mut key, mut reply_key) = (forward_key, reply_key);
        (key.source, key.source_port) = (address(CLIENTS), port);
        (reply_key.destination, reply_key.destination_port) = (address(SNATS), port);
        [
            (key, like(&forward, &key, &reply_key)),
            (reply_key, like(&reply, &reply_key, &key)),
        ]
    })
}

/// What `lb flows` said, and what it took.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What it said.
    pub flows: Flows,
    /// How long.
    pub took: Duration,
    /// How much more memory the agent had at its most.
    pub agent_mebibytes: f64,
    /// How much memory the CLI had at its most.
    pub cli_mebibytes: f64,
}

/// From now on, the peak of a process' memory is that of what follows.
fn forget_peak(pid: u32) -> Result<()> {
    // proc_pid_clear_refs(5).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset a peak")
}

/// The most memory that a process had.
fn peak_mebibytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kibibytes.context("no VmHWM")?.parse::<f64>()? / 1024.0)
}

/// What an agent with many connections takes for its work.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The sweep that took most, of some that forgot nothing.
    pub resting: SweepReport,
    /// The sweep that took most of those that forgot something.
    pub reaping: SweepReport,
    /// Connections that were forgotten in all.
    pub forgotten: u64,
    /// The agent's memory at its most while it forgot them, beyond what it had.
    pub reaping_mebibytes: f64,
    /// The slowest answer to `lb status` in all of this time.
    pub slowest_status: Duration,
    /// How many are counted as open in the end: of the target, and of the
    /// service.
    pub open: (u32, u32),
    /// `lb flows` with some arguments.
    pub listings: Vec<(&'static str, Listing)>,
}

/// How `lb flows` is asked.
const LISTINGS: [(&str, &[&str]); 4] = [
    ("the first ten", &["--limit", "10"]),
    ("the ten idle longest", &["--limit", "10", "--sort", "idle"]),
    (
        "one client's",
        &["--source", "10.128.0.7/32", "--limit", "10"],
    ),
    (
        "a thousand of one server's",
        &["--server", "n1", "--limit", "1000"],
    ),
];

/// Gives `lb` so many open connections, looks on while they rest, lists them,
/// and looks on while they are all forgotten at once.
pub fn measure(connections: u32) -> Result<Findings> {
    let mut crowd = Crowd::start(connections, "3s", "")?;
    // Filling takes seconds on a busy machine, and so does listing.
    crowd.fill(AHEAD)?;
    let filled = Instant::now();
    let socket = crowd.balancer.watch_status(Duration::from_millis(10));
    let all = u64::from(connections) * 2;
    let whole = |report: &&SweepReport| report.flows >= all && report.forgotten == 0;
    let found = wait_until(PATIENCE, || {
        crowd.sweeps().iter().filter(whole).count() >= 3
    });
    ensure!(
        found,
        "the agent does not sweep {all} flows: {:?}",
        crowd.sweeps()
    );
    let listings = LISTINGS.into_iter();
    let listings = listings.map(|(name, arguments)| Ok((name, crowd.list(arguments)?)));
    let listings = listings.collect::<Result<Vec<_>>>()?;
    ensure!(
        filled.elapsed() < AHEAD,
        "listing took too long: {:?}",
        filled.elapsed()
    );

    let agent = crowd.balancer.pid().context("lb ended")?;
    forget_peak(agent)?;
    let before = peak_mebibytes(agent)?;
    let forgotten = |crowd: &Crowd| crowd.sweeps().iter().map(|sweep| sweep.forgotten).sum();
    let gone = wait_until(PATIENCE, || {
        forgotten(&crowd) >= u64::from(connections) && crowd.open().is_ok_and(|open| open.0 == 0)
    });
    ensure!(gone, "they are not forgotten: {:?}", crowd.sweeps());
    let sweeps = crowd.sweeps();
    let most = |wanted: &dyn Fn(&&SweepReport) -> bool| {
        sweeps
            .iter()
            .filter(wanted)
            .max_by_key(|report| report.cpu)
            .copied()
    };
    let slowest_status = socket
        .stop()
        .into_iter()
        .map(|sample| sample.ended - sample.begun);
    Ok(Findings {
        resting: most(&whole).context("there was one")?,
        reaping: most(&|report| report.forgotten > 0).context("there was one")?,
        forgotten: forgotten(&crowd),
        reaping_mebibytes: peak_mebibytes(agent)? - before,
        slowest_status: slowest_status.max().unwrap_or_default(),
        open: crowd.open()?,
        listings,
    })
}

/// What the agent logs of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepReport {
    /// Entries that it found in FLOWS.
    pub flows: u64,
    /// And in PENDING.
    pub pending: u64,
    /// Connections that it forgot.
    pub forgotten: u64,
    /// CPU time.
    pub cpu: Duration,
    /// That of its longest slice.
    pub longest_slice: Duration,
}

impl SweepReport {
    fn read(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("swept the flow table ")?;
        let field = |name: &str| {
            let mut fields = fields.split_whitespace();
            let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            value.parse::<u64>().ok()
        };
        Some(Self {
            flows: field("flows")?,
            pending: field("pending")?,
            forgotten: field("forgotten")?,
            cpu: Duration::from_micros(field("cpu_us")?),
            longest_slice: Duration::from_micros(field("longest_slice_us")?),
        })
    }
}

/// Both flows of the one connection from `client`, and their target.
fn pair_of(
    flows: &HashMap<MapData, FlowKey<Ipv4>, Flow<Ipv4>>,
    targets: &Array<MapData, Target<Ipv4>>,
    client: SocketAddr,
) -> Result<([Entry; 2], Target<Ipv4>)> {
    let all = flows.iter().collect::<Result<Vec<_>, _>>()?;
    let of_client = |source: &FlowKey<Ipv4>, flow: &Flow<Ipv4>| {
        flow.direction() == Direction::Forward
            && source.source == Ipv4::like(client.ip())
            && source.source_port.number() == client.port()
    };
    let forward = all
        .iter()
        .find(|(key, flow)| of_client(key, flow))
        .context("the connection is not in FLOWS")?;
    let target = targets.get(&forward.1.target().0, 0)?;
    let pair_key = forward.1.pair_key(&forward.0, &target);
    let reply = all.iter().find(|(key, _)| *key == pair_key);
    let reply = reply.context("the connection has no reply flow")?;
    let paired = forward.1.is_paired_with(&forward.0, &target, &reply.1);
    ensure!(paired, "the pair does not match");
    Ok(([*forward, *reply], target))
}
