//! What the kernel program and the agent of `lb` share.
//!
//! A packet's path reads in module order: `wire` (bytes to a segment),
//! `flow` (is it known), `service` and `target` (whom it may go to), `select`
//! (which one), `nat` (how it is rewritten), `steer` (the policy that ties
//! these together), `datapath` (bytes to bytes).
//!
//! Nothing here does IO, knows a clock or allocates; `steer` is generic over
//! the `Tables` trait, so that the same policy runs in the kernel and in
//! ordinary tests.

#![cfg_attr(not(any(test, feature = "fake")), no_std)]

pub mod addr;
pub mod counters;
pub mod datapath;
pub mod emit;
pub mod event;
#[cfg(feature = "fake")]
pub mod fake;
pub mod flow;
pub mod layout;
pub mod nat;
pub mod select;
pub mod service;
pub mod steer;
pub mod tables;
pub mod target;
pub mod verdict;
pub mod wire;
