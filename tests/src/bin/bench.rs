//! `cargo xtask bench` builds and runs this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use lb_tests::bench::failover::scenario::Scenario;
use lb_tests::bench::report::Row;
use lb_tests::bench::{
    Effort, cluster, e2e, failover, micro, plot, pps, probes, report, scale, stalls,
};
use lb_tests::patience::{interrupted, interruption};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What a packet, a connection and a byte cost.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    /// Which benchmarks; all of them where none is named.
    benches: Vec<Bench>,
    /// Less than two minutes for each, with wider error.
    #[arg(long)]
    quick: bool,
    /// Of failover: these scenarios alone.
    #[arg(long = "scenario", value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Where the JSON and the figures go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Nanoseconds a packet in the program alone.
    Micro,
    /// Connections, requests and bytes a second, for each way to a server.
    E2e,
    /// What many flows, services and targets cost.
    Scale,
    /// Packets a second on one core, through a driver.
    Pps,
    /// What checking a thousand servers costs the agent.
    Probes,
    /// Writes and reads a second of the sample cluster, beside etcd.
    Cluster,
    /// How many of very many connections wait for something to be sent again.
    Stalls,
    /// How long writes are out when the leader is lost, beside HAProxy.
    Failover,
}

impl Bench {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }

    fn run(self, effort: Effort, cli: &Cli) -> Result<Vec<Row>> {
        match self {
            Self::Micro => micro::run(effort),
            Self::E2e => e2e::run(effort),
            Self::Scale => scale::run(effort),
            Self::Pps => pps::run(effort),
            Self::Probes => probes::run(effort),
            Self::Cluster => cluster::run(effort),
            Self::Stalls => stalls::run(effort),
            Self::Failover => failover::run(effort, &cli.scenarios, &cli.out),
        }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "root is needed to load kernel programs; try: sudo -E env PATH=$PATH cargo xtask bench"
        );
    }
    if read("/proc/sys/kernel/bpf_stats_enabled").trim() == "1" {
        bail!(
            "the kernel times every BPF program, which costs more than what is measured here; \
             try: sysctl kernel.bpf_stats_enabled=0"
        );
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // A second one ends us at once, should leaving in order take too long.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(interruption()))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interruption())))
            .context("cannot handle signals")?;
    }
    let effort = if cli.quick {
        Effort::Quick
    } else {
        Effort::Full
    };
    let all = Bench::value_variants();
    let benches = if cli.benches.is_empty() {
        all
    } else {
        &cli.benches
    };
    for bench in benches {
        println!("{} ({})", bench.name(), machine());
        let rows = bench.run(effort, cli)?;
        if interrupted() {
            bail!("interrupted; everything was removed");
        }
        report::print(&rows);
        let json = report::write(&cli.out, &bench.name(), &rows)?;
        println!("\n{}", json.display());
        figures(&cli.out, *bench, &rows)?;
        // How much and how long is a finding; what was acknowledged and is gone, a fault.
        let gone = |row: &&Row| row.name.ends_with(": lost") && row.max > 0.0;
        if let Some(Row {
            name, path, max, ..
        }) = rows.iter().find(gone)
        {
            bail!("{name}: {max} acknowledged writes through {path}");
        }
    }
    Ok(())
}

/// One figure for each thing that was measured: what is in nanoseconds on one
/// path, one name on all paths, one name in all sizes.
fn figures(directory: &Path, bench: Bench, rows: &[Row]) -> Result<()> {
    let mut figures: Vec<(Figure, Vec<&Row>)> = Vec::new();
    for row in rows {
        let Some(figure) = Figure::of(bench, row) else {
            continue;
        };
        match figures.iter_mut().find(|(known, _)| *known == figure) {
            Some((_, rows)) => rows.push(row),
            None => figures.push((figure, vec![row])),
        }
    }
    for (figure, rows) in figures {
        let file = format!("{}-{}.svg", bench.name(), figure.subject.replace(' ', "-"));
        let path = directory.join(file);
        plot::bars(&path, &figure.title, figure.label, &rows)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Which rows belong together.
#[derive(PartialEq, Eq)]
struct Figure {
    /// For the name of the file.
    subject: String,
    title: String,
    label: plot::Label,
}

impl Figure {
    /// The figure that shows `row`; `None` where a number says enough.
    fn of(bench: Bench, row: &Row) -> Option<Self> {
        let Row {
            name, path, unit, ..
        } = row;
        let (subject, title, label) = match bench {
            Bench::Micro if unit == "ns" => {
                // What differs by orders of magnitude.
                let what = match name.ends_with("k connections") || name.ends_with("M connections")
                {
                    true if name.contains("SYN") => "new of many",
                    true => "of many",
                    false => "of one",
                };
                let subject = format!("{path} {what}");
                let title = format!("{path}: nanoseconds a packet, net of the harness");
                (subject, title, plot::Label::Name)
            }
            Bench::Micro => return None,
            Bench::E2e => (name.clone(), format!("{name}, {unit}"), plot::Label::Path),
            Bench::Scale => {
                // What differs stands behind the comma, and before the colon.
                let (head, _) = name.split_once(',')?;
                let subject = head.rsplit(": ").next()?;
                let title = format!("{subject}, {unit}");
                (subject.to_owned(), title, plot::Label::Name)
            }
            Bench::Pps => {
                let title = "million packets a second on one core".to_owned();
                ("veth".to_owned(), title, plot::Label::Name)
            }
            // Zeros, with luck: nothing to draw.
            Bench::Stalls => return None,
            Bench::Cluster if unit == "ms" => return None,
            Bench::Cluster => {
                let subject = name.split(',').next().unwrap_or_default();
                let title = format!("{name}, {unit}");
                (subject.to_owned(), title, plot::Label::Path)
            }
            Bench::Failover => {
                let scenario = name.strip_suffix(": writes out")?;
                let title = format!("{name}, {unit}");
                (scenario.to_owned(), title, plot::Label::Path)
            }
            Bench::Probes => {
                let title = "the agent's share of one core".to_owned();
                ("agent".to_owned(), title, plot::Label::Name)
            }
        };
        Some(Self {
            subject,
            title,
            label,
        })
    }
}

/// The machine and how busy it is: numbers mean nothing without.
fn machine() -> String {
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown CPU");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{count} x {model}, Linux {}, load {load}", kernel.trim())
}

/// What a file of /proc says; nothing where there is none.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
