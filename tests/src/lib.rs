//! The lab, and what drives it: shared by the `lab` binary and by the tests
//! under `it/`.
//!
//! - [`lab`]: network namespaces, veths and a switch, gone when dropped.
//! - [`cluster`], [`balancer`]: the project's binaries, run in a lab.
//! - [`deployment`]: all of them at once.
//! - [`traffic`]: clients that write, read, connect and transfer, and keep
//!   account of it.
//! - [`fake`]: servers that say what a test tells them to.
//! - [`http`]: the few requests that all of these make.
//!
//! - [`chaos`]: all that can go wrong at once, and what must hold all the same.
//! - [`rows`]: what the data path does with a packet, one sentence a row.
//! - [`mod@bench`]: what it costs.
//!
//! But for [`rows`] and [`mod@bench`], nothing here links the project's other
//! crates: they are met where a user meets them, as processes, configuration,
//! packets and JSON.

pub mod balancer;
pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod cluster;
pub mod deployment;
pub mod fake;
pub mod http;
pub mod lab;
pub mod patience;
pub mod privilege;
pub mod rows;
pub mod traffic;
