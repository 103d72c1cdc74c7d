//! `cargo xtask bench` builds and runs this.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use lb_tests::bench::report::Row;
use lb_tests::bench::{Effort, e2e, micro, plot, pps, report, scale};
use lb_tests::patience::{interrupted, interruption};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// What a packet, a connection and a byte cost.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    /// Which benchmarks; all of them where none is named.
    benches: Vec<Bench>,
    /// Less than two minutes in all, with wider error.
    #[arg(long)]
    quick: bool,
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
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::Micro => "micro",
            Self::E2e => "e2e",
            Self::Scale => "scale",
            Self::Pps => "pps",
        }
    }

    fn run(self, effort: Effort) -> Result<Vec<Row>> {
        match self {
            Self::Micro => micro::run(effort),
            Self::E2e => e2e::run(effort),
            Self::Scale => scale::run(effort),
            Self::Pps => pps::run(effort),
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
        let rows = bench.run(effort)?;
        if interrupted() {
            bail!("interrupted; everything was removed");
        }
        report::print(&rows);
        let json = report::write(&cli.out, bench.name(), &rows)?;
        println!("\n{}", json.display());
        figures(&cli.out, *bench, &rows)?;
    }
    Ok(())
}

/// One figure for each thing that was measured: a whole benchmark of
/// nanoseconds, or one name on all paths.
fn figures(directory: &Path, bench: Bench, rows: &[Row]) -> Result<()> {
    let draw = |name: &str, title: &str, label, rows: &[&Row]| {
        let path = directory.join(format!("{name}.svg"));
        plot::bars(&path, title, label, rows)?;
        println!("{}", path.display());
        anyhow::Ok(())
    };
    match bench {
        Bench::Micro => {
            let bars: Vec<&Row> = rows.iter().filter(|row| row.unit == "ns").collect();
            let title = "Nanoseconds a packet, net of the harness";
            draw("micro", title, plot::Label::Name, &bars)
        }
        Bench::E2e => rows.chunk_by(|a, b| a.name == b.name).try_for_each(|rows| {
            let name = &rows[0].name;
            let bars: Vec<&Row> = rows.iter().collect();
            let file = format!("e2e-{}", name.replace(' ', "-"));
            draw(&file, name, plot::Label::Path, &bars)
        }),
        Bench::Scale => {
            let units: BTreeSet<&str> = rows.iter().map(|row| row.unit.as_str()).collect();
            units.into_iter().try_for_each(|unit| {
                let bars: Vec<&Row> = rows.iter().filter(|row| row.unit == unit).collect();
                let word = unit.split_whitespace().next().unwrap_or_default();
                let file = format!("scale-{}", word.replace('%', "percent"));
                draw(&file, "Scale", plot::Label::Name, &bars)
            })
        }
        Bench::Pps => {
            let bars: Vec<&Row> = rows.iter().collect();
            let title = "Million packets a second on one core";
            draw("pps", title, plot::Label::Name, &bars)
        }
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
