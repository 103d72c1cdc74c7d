//! Tests that need root: each makes a lab of network namespaces, and runs the
//! project's binaries in it.

mod bench;
mod chaos;
mod cluster;
mod connections;
mod crowd;
mod datapath;
mod dataplane;
mod endurance;
mod equivalence;
mod examples;
mod failover;
mod footprint;
mod garbage;
mod health;
mod interactive;
mod lab;
mod members;
mod overrides;
mod pair;
mod reload;
mod roles;
mod upgrade;
