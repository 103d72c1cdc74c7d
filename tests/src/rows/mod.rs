//! What the data path does with a packet, one sentence a row: the state of
//! the tables, the packet as it comes in, the verdict and its reason, the
//! frame as it goes out, and what the tables hold of connections then.
//!
//! The rows are run twice: by [`host`] through `lb_common` in ordinary memory,
//! and by [`kernel`] through the loaded program (BPF_PROG_TEST_RUN).

pub mod connections;
mod established;
mod foreign;
pub mod frame;
pub mod golden;
mod handshake;
pub mod host;
pub mod kernel;
mod offload;
pub mod random;
mod refused;
mod reset;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason};

use connections::{Connections, Key};
use world::World;

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the row says.
    pub sentence: String,
    /// The tables before.
    pub given: World,
    /// The packet.
    pub packet: Vec<u8>,
    /// What is to become of it.
    pub expected: Outcome,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// What the hook does with the frame.
    pub fate: Fate,
    /// The frame afterwards; none where it goes nowhere.
    pub frame: Option<Vec<u8>>,
    /// FLOWS and PENDING afterwards.
    pub connections: Connections,
}

impl Outcome {
    /// In what this differs from what was `expected`; none where in nothing.
    #[must_use]
    pub fn difference(&self, expected: &Self) -> Option<String> {
        if self == expected {
            return None;
        }
        let mut text = String::new();
        let Self {
            reason,
            fate,
            frame,
            connections,
        } = self;
        if (reason, fate) != (&expected.reason, &expected.fate) {
            let wanted = (expected.fate, expected.reason);
            text += &format!("  verdict {:?}, expected {wanted:?}\n", (fate, reason));
        }
        if *frame != expected.frame {
            let hex = |frame: &Option<Vec<u8>>| {
                frame.as_ref().map_or("none".to_owned(), |bytes| {
                    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
                })
            };
            let [is, wanted] = [frame, &expected.frame].map(hex);
            text += &format!("  frame {is},\n  expected {wanted}\n");
        }
        let Connections { flows, pending } = connections;
        text += &entries("FLOWS", flows, &expected.connections.flows);
        text += &entries("PENDING", pending, &expected.connections.pending);
        Some(text)
    }
}

/// The entries of a table that are not as expected.
fn entries<V: PartialEq + Debug>(
    table: &str,
    is: &BTreeMap<Key, V>,
    expected: &BTreeMap<Key, V>,
) -> String {
    let keys: BTreeSet<&Key> = is.keys().chain(expected.keys()).collect();
    keys.into_iter()
        .map(|key| (key, is.get(key), expected.get(key)))
        .filter(|(_, is, expected)| is != expected)
        .map(|(key, is, expected)| {
            format!("  {table} {key:?}:\n    {is:?},\n    expected {expected:?}\n")
        })
        .collect()
}

/// All rows, for a hook that treats partial checksums like `partial`.
#[must_use]
pub fn corpus(partial: PartialChecksum) -> Vec<Row> {
    let rows = [
        handshake::rows(),
        established::rows(),
        reset::rows(),
        refused::rows(),
        foreign::rows(),
        offload::rows(partial),
        golden::rows(),
    ];
    rows.concat()
}

/// The beginning of a row.
struct Case {
    sentence: String,
    given: World,
    packet: Vec<u8>,
}

/// A row that says `sentence` of `packet`, which meets `given`.
fn row(sentence: impl Into<String>, given: World, packet: Vec<u8>) -> Case {
    Case {
        sentence: sentence.into(),
        given,
        packet,
    }
}

impl Case {
    /// The packet goes on as `frame`, and leaves the connections of `then`.
    fn transmits(self, reason: Reason, frame: Vec<u8>, then: World) -> Row {
        self.finish(Fate::Transmit, reason, Some(frame), then)
    }

    /// The packet is answered by `frame`, and leaves the connections of `then`.
    fn resets(self, reason: Reason, frame: Vec<u8>, then: World) -> Row {
        self.finish(Fate::Reset, reason, Some(frame), then)
    }

    /// The packet goes nowhere, and leaves the connections of `then`.
    fn drops(self, reason: Reason, then: World) -> Row {
        self.finish(Fate::Drop, reason, None, then)
    }

    /// The packet goes to the host; it and the connections are as before.
    fn passes(self, reason: Reason) -> Row {
        let then = self.given.clone();
        self.passes_and_leaves(reason, then)
    }

    /// The packet goes to the host as it is, and leaves the connections of
    /// `then`.
    fn passes_and_leaves(self, reason: Reason, then: World) -> Row {
        let frame = self.packet.clone();
        self.finish(Fate::Pass, reason, Some(frame), then)
    }

    fn finish(self, fate: Fate, reason: Reason, frame: Option<Vec<u8>>, then: World) -> Row {
        let Self {
            sentence,
            given,
            packet,
        } = self;
        Row {
            sentence,
            given,
            packet,
            expected: Outcome {
                reason,
                fate,
                frame,
                connections: then.connections,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_holds_on_the_host() {
        let mut wrong = String::new();
        for partial in [PartialChecksum::Finish, PartialChecksum::Keep] {
            for row in corpus(partial) {
                let outcome = host::run(&row.given.tables(), &row.packet, partial);
                if let Some(difference) = outcome.difference(&row.expected) {
                    wrong += &format!("{} ({partial:?}):\n{difference}", row.sentence);
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }

    #[test]
    fn no_two_rows_say_the_same() {
        let rows = corpus(PartialChecksum::Finish);
        let sentences: BTreeSet<_> = rows.iter().map(|row| &row.sentence).collect();
        assert_eq!(sentences.len(), rows.len());
    }

    #[test]
    fn some_row_speaks_of_every_reason() {
        // Two CPUs at once, and frames of more than a page.
        let out_of_reach = [Reason::SynLost, Reason::Unfinished];
        let rows = corpus(PartialChecksum::Finish);
        for reason in Reason::ALL {
            let spoken_of = rows.iter().any(|row| row.expected.reason == *reason);
            assert_eq!(spoken_of, !out_of_reach.contains(reason), "{reason:?}");
        }
    }
}
