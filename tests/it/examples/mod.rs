//! The examples under `examples/`, run as they stand there: their scripts
//! start the servers, `lb` gets their `lb.toml`. Each goes through the same
//! story ([`stage`]); a [`Dialect`] is how its clients talk.
//!
//! The servers come from Debian's packages, which `cargo xtask test` installs.

mod dialect;
mod etcd;
mod patroni;
mod raft;
mod redis;
mod servers;
mod stage;

use dialect::Dialect;
