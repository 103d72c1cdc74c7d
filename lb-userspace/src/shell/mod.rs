//! All IO of the agent. Decides nothing: what to do comes from `engine`.
//!
//! `run` is the loop that ties the rest together, and `reload` what it does about
//! another configuration. Towards the kernel program:
//! `load` (its life), `tables` (plans), `slots`, `flows` (connections), `counters`,
//! `events`. Towards the network: `probe`, `neighbours`, `announce`, `wire`.
//! Towards the operator: `admin`, `answer` to its queries, and `overrides`, the file
//! of what it changed.

pub mod admin;
pub mod announce;
pub mod answer;
pub mod batch;
pub mod counters;
pub mod events;
pub mod flows;
pub mod load;
pub mod neighbours;
pub mod overrides;
pub mod probe;
pub mod reload;
pub mod run;
pub mod slots;
pub mod tables;
pub mod wire;
