//! All IO of the agent. Decides nothing: what to do comes from `engine`.
//!
//! `run` is the loop that ties the rest together, and `reload` what it does about
//! another configuration, which is made of `layers`: the file, the `members` that
//! clusters tell, and `overrides`. Towards the kernel program: `load` (its life), `tables` (plans), `slots`, `flows` (connections), `counters`,
//! `events`. Towards the network: `probe`, `neighbours`, `announce`, `wire`.
//! Towards the operator: `admin`, and `answer` to its queries.

pub mod admin;
pub mod announce;
pub mod answer;
pub mod batch;
pub mod counters;
pub mod events;
pub mod flows;
pub mod fullness;
pub mod layers;
pub mod load;
pub mod members;
pub mod neighbours;
pub mod overrides;
pub mod probe;
pub mod reload;
pub mod run;
pub mod slots;
pub mod tables;
pub mod wire;
