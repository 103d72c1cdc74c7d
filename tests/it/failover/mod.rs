//! What becomes of writes and reads when leaders die, hang, lose touch or
//! disagree: clients keep writing, witnesses keep looking, and in the end
//! everything that was seen has to fit together.

mod absence;
mod attacks;
mod blocked;
mod kills;
mod reads;
pub mod trial;

use std::process::Command;
use std::time::Duration;

use lb_tests::lab::Namespace;

/// How long anything may take on a slow machine. Nothing waits for so long
/// unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `ip` in a namespace.
pub fn ip(namespace: &Namespace, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name()]);
    command.args(arguments.split(' '));
    let status = command.status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}
