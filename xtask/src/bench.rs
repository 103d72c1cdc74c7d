//! `cargo xtask bench`: installs what the benchmarks compare with, builds, and
//! becomes the benchmarks' own program.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};

use crate::step::shown;
use crate::toolchain::search_path_variable;
use crate::workspace::Workspace;
use crate::{build, setup};

#[derive(Args)]
pub struct Options {
    /// Which benchmarks to run; all of them where none is named.
    benches: Vec<Bench>,
    /// Less than two minutes for each, with wider error.
    #[arg(long)]
    quick: bool,
    /// Of failover: these scenarios alone; `kill`, `stop`, `link-cut`, `isolate`, `handover` or `stopped-replica`.
    #[arg(long = "scenario", value_name = "SCENARIO")]
    scenarios: Vec<String>,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Nanoseconds a packet in the kernel program alone.
    Micro,
    /// Connections, requests and bytes a second: direct, lb, nftables, HAProxy, nginx.
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
    /// How long writes are out when the leader is lost: lb and HAProxy side by side.
    Failover,
}

impl Bench {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }
}

/// Sets up, builds, and becomes the program that measures.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::need_root("load kernel programs and create network namespaces")?;
    let compares = |bench: &Bench| matches!(bench, Bench::E2e | Bench::Cluster | Bench::Failover);
    let peers = options.benches.is_empty() || options.benches.iter().any(compares);
    let needed = if peers {
        setup::Options::for_comparing()
    } else {
        setup::Options::for_running()
    };
    setup::run(workspace, &needed)?;
    build::everything(workspace, build::Options::default())?;
    let mut command = Command::new(workspace.release_binary("bench"));
    command.args(options.benches.iter().map(|bench| bench.name()));
    if options.quick {
        command.arg("--quick");
    }
    for scenario in &options.scenarios {
        command.args(["--scenario", scenario]);
    }
    command.arg("--out").arg(workspace.bench_directory());
    command.env("PATH", search_path_variable());
    let error = command.exec();
    Err(anyhow!(error).context(format!("cannot start `{}`", shown(&command))))
}
