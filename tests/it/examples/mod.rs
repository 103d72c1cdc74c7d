//! The examples under `examples/`, run as they stand there: their scripts
//! start the servers, `lb` gets their `lb.toml`. Each goes through the same
//! story ([`stage`]); a [`Dialect`] is how its clients talk.
//!
//! The servers come from Debian's packages, which `cargo xtask test` installs.

mod dialect;
mod etcd;
mod patroni;
mod raft;
mod redis;
mod servers;
mod stage;

use std::process::Command;

use dialect::Dialect;
use lb_tests::binaries;

/// Unit tests see crates with more features than the program is built with.
#[test]
fn the_program_as_built_takes_every_key() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../lb-userspace/examples/every-key.toml"
    );
    let lb = binaries::find("lb").unwrap();
    let check = Command::new(lb).args(["check", "-f"]).arg(file).output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}
