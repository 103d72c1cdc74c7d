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
//! - `advice`: what the agent beside a server says; `circuit`: what clients'
//!   connections tell; `warmth`: how much a server that came back takes yet
//! - `member`: all of that for one server; `pool`: for the servers of a pool
//! - `discovery`: when a cluster's own list of members is asked for
//! - `route`: which servers a service may use
//! - `desired`: what the tables should hold (`maglev` and `sequence` fill the
//!   big ones, `space` finds room for them)
//! - `fate`: what becomes of the connections that are left behind; `departures`:
//!   whose are cut, and when
//! - `plan`: the steps from the tables that are `installed` to those
//! - `action`: what the shell is to do
//! - `reload`: another configuration while the agent runs
//! - `agent`: ties them together; `status`: what it believes, for the API;
//!   `why`: the same in sentences

pub mod action;
pub mod advice;
pub mod agent;
mod circuit;
mod departures;
mod desired;
mod discovery;
pub mod event;
mod fate;
#[cfg(test)]
pub(crate) mod fixtures;
mod health;
mod ids;
mod installed;
mod maglev;
mod member;
pub mod plan;
mod pool;
mod reload;
#[cfg(test)]
mod reordering;
mod roles;
mod route;
#[cfg(test)]
mod scenarios;
mod sequence;
#[cfg(test)]
mod simulation;
mod space;
mod status;
mod warmth;
mod why;

use std::time::Duration;

pub use action::{Action, Held, Notice, Others, Pace};
pub use advice::{Admin, AgentReport, Operating};
pub use agent::Agent;
pub use event::{
    BackendFailure, CheckReport, Event, NextHop, Outcome, Role, RoleClaim, WatchReport,
};
pub use installed::{Installed, ServiceEntry, Settings, TargetEntry};
pub use plan::Op;

/// How often the shell sends [`Event::Tick`].
pub const TICK: Duration = Duration::from_millis(100);
