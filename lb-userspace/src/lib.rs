//! The agent and the command line of `lb`.
//!
//! `engine` decides and does no IO; `shell` does all IO and decides nothing;
//! `config` turns a file into a validated model; `cli` is what a user types;
//! `api` is what the agent and the CLI say to each other.

pub mod api;
pub mod cli;
pub mod config;
pub mod engine;
pub mod shell;
