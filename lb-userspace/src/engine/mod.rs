//! The decisions, and nothing but the decisions.
//!
//! [`Agent`] takes one closed [`Event`] at a time
//! and gives back [`Action`]s. No clock, no socket, no map, no
//! log line, no random number lives here: time is an argument, and the same
//! events give the same actions. In the order in which a decision is made:
//!
//! - `event`: what was observed
//! - `health`: UP or DOWN, by consecutive checks
//! - `roles`: who is the leader, by terms; one writer, fail closed
//! - `pool`: both together, for the servers of one pool
//! - `desired`: what the tables should hold (`maglev` fills the big ones,
//!   `space` finds room for them)
//! - `departures`: whose connections are cut, and when
//! - `plan`: the steps from the tables that are installed to those
//! - `action`: what the shell is to do
//! - `agent`: ties them together; `status`: what it believes, for the API

pub mod action;
pub mod agent;
mod departures;
mod desired;
pub mod event;
#[cfg(test)]
mod fixtures;
mod health;
mod maglev;
pub mod plan;
mod pool;
mod roles;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
mod space;
mod status;

use std::time::Duration;

pub use action::{Action, Notice, Pace};
pub use agent::Agent;
pub use event::{CheckReport, Event, NextHop, Outcome, Role, RoleClaim};
pub use plan::{Installed, Op, ServiceEntry, TargetEntry};

/// How often the shell sends [`Event::Tick`].
pub const TICK: Duration = Duration::from_millis(100);
