//! Connections through `lb`, end to end: where they land, that every byte
//! arrives, what is refused and what forgotten, and that the counters tell the
//! truth.

mod accounts;
mod forgotten;
mod refusals;
mod reports;
mod site;
mod starts;
mod steering;
mod transfers;

pub use self::site::{Echo, PATIENCE, Site, nic, spec_for};
