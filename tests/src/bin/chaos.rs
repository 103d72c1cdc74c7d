//! `cargo xtask chaos` builds and runs this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use lb_tests::chaos::check::check;
use lb_tests::chaos::episode::{self, Plan};
use lb_tests::chaos::history::History;
use lb_tests::patience::{interrupted, interruption};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// For how long faults strike in one episode.
const FAULTS: Duration = Duration::from_secs(60);

/// Faults at random, clients at both VIPs, and a check of what they saw.
#[derive(Parser)]
#[command(name = "cargo xtask chaos")]
struct Cli {
    /// For how long; one episode of a little more than a minute at least.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// The first episode's seed, the next one's is one more; a number that depends on the time, if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the histories go.
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// Check a history that was kept, and do nothing else.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "seed"])]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.check {
        Some(file) => check_again(file),
        None => run(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "root is needed to load kernel programs and create network namespaces; \
             try: sudo -E env PATH=$PATH cargo xtask chaos"
        );
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // A second one ends us at once, should leaving in order take too long.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(interruption()))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interruption())))
            .context("cannot handle signals")?;
    }
    let end = Instant::now() + Duration::from_secs(60 * cli.minutes);
    let first = cli.seed.unwrap_or_else(seed_of_now);
    for seed in first.. {
        println!("episode with seed {seed}");
        let plan = Plan {
            seed,
            faults: FAULTS,
            out: cli.out.clone(),
        };
        let judged = episode::run(&plan, &mut |what| println!("  {what}"));
        if interrupted() {
            bail!("interrupted; everything was removed");
        }
        println!("{}", judged.with_context(|| format!("seed {seed}"))?);
        if Instant::now() + FAULTS > end {
            break;
        }
    }
    Ok(())
}

fn check_again(file: &Path) -> Result<()> {
    let history = History::read(file)?;
    let violations = check(&history);
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations", violations.len());
    }
    println!("{} operations are in order", history.operations.len());
    Ok(())
}

/// A seed that is another one each time.
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs())
}
