//! `cargo xtask bench`: what a packet, a connection and a byte cost, side by
//! side with the floor and with what else there is.
//!
//! - [`micro`]: the program on single packets, by BPF_PROG_TEST_RUN.
//! - [`e2e`]: a client, a balancer and a server in a lab, for each way there is
//!   ([`peers`]), the least there can be ([`relay`]) among them, under load
//!   ([`load`]).
//! - [`scale`]: many flows, many services; with [`crowd`], an agent that has
//!   many flows.
//! - [`pps`]: packets a second through a driver.
//! - [`probes`]: the agent's CPU time for checking many servers.
//! - [`cluster`]: the sample cluster beside etcd.
//! - [`failover`]: how long writes are out when the leader is lost, beside HAProxy.
//! - [`stalls`]: connections that wait for something to be sent again.
//! - [`stack`]: what the kernel programs take of theirs.
//! - [`report`], [`plot`]: the table, the JSON and the figures.
//!
//! `docs/benchmarks.md` says what each row means. All that knows the kernel
//! program's types is in [`datapath`] and [`measured`].

pub mod cluster;
pub mod crowd;
pub mod datapath;
pub mod e2e;
pub mod failover;
pub mod load;
pub mod measured;
pub mod micro;
pub mod peers;
pub mod plot;
pub mod pps;
pub mod probes;
pub mod relay;
pub mod report;
pub mod scale;
pub mod stack;
pub mod stalls;

/// How long a benchmark may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As long as it takes for numbers that hold.
    Full,
    /// Two minutes for a benchmark, with wider error.
    Quick,
    /// Seconds: to see that it works at all.
    Smoke,
}
