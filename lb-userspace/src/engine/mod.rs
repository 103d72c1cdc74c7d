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
//! - `route`: which servers a service may use
//! - `desired`: what the tables should hold (`maglev` and `sequence` fill the
//!   big ones, `space` finds room for them)
//! - `departures`: whose connections are cut, and when
//! - `plan`: the steps from the tables that are `installed` to those
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
mod ids;
mod installed;
mod maglev;
pub mod plan;
mod pool;
mod roles;
mod route;
#[cfg(test)]
mod scenarios;
mod sequence;
#[cfg(test)]
mod simulation;
mod space;
mod status;

use std::time::Duration;

pub use action::{Action, Notice, Pace};
pub use agent::Agent;
pub use event::{CheckReport, Event, NextHop, Outcome, Role, RoleClaim};
pub use installed::{Installed, ServiceEntry, Settings, TargetEntry};
pub use plan::Op;

/// How often the shell sends [`Event::Tick`].
pub const TICK: Duration = Duration::from_millis(100);
