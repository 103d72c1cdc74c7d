//! Everything goes wrong at once, while clients read and write: and in the end
//! what they saw must fit together.
//!
//! - [`schedule`] says from a seed which faults strike when, [`workload`] what
//!   the clients ask for; [`faults`] and [`clients`] carry it out.
//! - [`history`] is what the clients saw, [`check`] what must be true of it.
//! - [`episode`] puts it together.
//!
//! A seed means the same faults and the same requests. When each request meets
//! which fault, the machine decides.

pub mod check;
pub mod clients;
pub mod episode;
pub mod faults;
#[cfg(test)]
mod fixtures;
pub mod history;
mod register;
pub mod schedule;
pub mod workload;
