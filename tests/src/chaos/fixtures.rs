//! Operations of tests, by when they began and ended.

use super::history::{Action, Consistency, Operation, Outcome, Via};

fn operation(invoked: u64, ended: u64, action: Action, outcome: Outcome) -> Operation {
    Operation {
        client: 1,
        via: Via::Write,
        key: "k".into(),
        action,
        invoked,
        ended,
        outcome,
    }
}

/// An acknowledged write, by node 1 in term 1, its index the time at which it
/// began.
pub fn put(invoked: u64, ended: u64, value: &str) -> Operation {
    let written = Outcome::Written {
        index: invoked,
        term: 1,
        node: 1,
    };
    operation(invoked, ended, Action::Put(value.into()), written)
}

/// A write that was not answered.
pub fn unknown(invoked: u64, ended: u64, value: &str) -> Operation {
    let unknown = Outcome::Unknown("timed out".into());
    operation(invoked, ended, Action::Put(value.into()), unknown)
}

/// A write that was not done.
pub fn refused(invoked: u64, ended: u64, value: &str) -> Operation {
    let refused = Outcome::Refused("not_leader".into());
    operation(invoked, ended, Action::Put(value.into()), refused)
}

/// A linearizable read.
pub fn get(invoked: u64, ended: u64, value: Option<&str>) -> Operation {
    read(invoked, ended, value, Consistency::Linearizable)
}

/// An eventual read.
pub fn eventual(invoked: u64, ended: u64, value: Option<&str>) -> Operation {
    read(invoked, ended, value, Consistency::Eventual)
}

fn read(invoked: u64, ended: u64, value: Option<&str>, consistency: Consistency) -> Operation {
    let found = Outcome::Found {
        value: value.map(str::to_owned),
        node: 2,
    };
    operation(invoked, ended, Action::Get(consistency), found)
}
