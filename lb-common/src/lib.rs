//! What the kernel program and the agent of `lb` share.
//!
//! A packet's path reads in module order: `wire` (bytes to a segment),
//! `flow` (is it known), `service` and `target` (whom it may go to), `steer`
//! (the policy: `admit` lets new connections in, `choose` picks their target,
//! `handshake` sees them through, `account` counts them), `nat` (how a segment
//! is rewritten), `datapath` (bytes to bytes).
//!
//! Nothing here does IO, knows a clock or allocates; `steer` is generic over
//! the `Tables` trait, so that the same policy runs in the kernel and in
//! ordinary tests.

#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

pub mod account;
pub mod addr;
pub mod admit;
pub mod choose;
pub mod counters;
pub mod datapath;
pub mod emit;
pub mod event;
#[cfg(feature = "fake")]
pub mod fake;
pub mod filter;
pub mod flow;
pub mod handshake;
pub mod icmp;
pub mod layout;
pub mod limit;
pub mod nat;
pub mod reaping;
pub mod select;
pub mod service;
pub mod steer;
pub mod tables;
pub mod target;
pub mod tunnel;
pub mod verdict;
pub mod wire;
