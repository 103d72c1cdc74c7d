//! What the data path does with a packet, one sentence a row: the state of
//! the tables, the packet as it comes in, the verdict and its reason, the
//! frame as it goes out, and what the tables hold of connections then.
//!
//! The rows are run twice: by [`host`] through `lb_common` in ordinary memory,
//! and by [`kernel`] through the loaded program (BPF_PROG_TEST_RUN).

pub mod connections;
mod established;
pub mod family;
mod foreign;
mod foreign6;
pub mod frame;
pub mod golden;
mod handshake;
pub mod host;
mod icmp;
pub mod kernel;
mod limits;
mod local;
pub mod maps;
pub mod message;
mod modes;
mod offload;
pub mod random;
mod refused;
mod reset;
pub mod sane;
mod stray;
mod vlan;
pub mod wire;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use lb_common::addr::{Address, Ipv4, Ipv6};
use lb_common::nat::PartialChecksum;
use lb_common::verdict::{Fate, Reason};

use connections::Connections;
use family::{Family as _, ipv6_like};
use world::World;

/// One row.
#[derive(Clone, Debug)]
pub struct Row<A: Address = Ipv4> {
    /// What the row says.
    pub sentence: String,
    /// The tables before.
    pub given: World<A>,
    /// Where it meets the packet.
    pub hook: Hook,
    /// The packet.
    pub packet: Vec<u8>,
    /// What is to become of it.
    pub expected: Outcome<A>,
}

/// Where the data path meets a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// As it arrives.
    Ingress,
    /// As it leaves this host. What is none of ours there is not counted, and
    /// a row calls it [`Reason::NotOurs`].
    Egress,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome<A: Address = Ipv4> {
    /// Of the packet itself.
    pub passage: Passage,
    /// What the tables hold afterwards.
    pub connections: Connections<A>,
}

/// A packet's way, as the network sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passage {
    /// Why.
    pub reason: Reason,
    /// What the hook does with the frame.
    pub fate: Fate,
    /// By which NIC it leaves.
    pub way: Way,
    /// The frame afterwards; none where it goes nowhere.
    pub frame: Option<Vec<u8>>,
}

/// By which NIC a frame leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It does not leave.
    None,
    /// By the one that it came by.
    Back,
    /// By another one.
    Across,
    /// By one that the hook does not show.
    Unseen,
}

impl Passage {
    /// The same as TC shows it: not by which NIC the frame leaves.
    #[must_use]
    pub fn at_tc(self) -> Self {
        let way = match self.way {
            Way::None => Way::None,
            Way::Back | Way::Across | Way::Unseen => Way::Unseen,
        };
        Self { way, ..self }
    }

    /// In what this differs from what was `expected`; nothing where in nothing.
    #[must_use]
    pub fn difference(&self, expected: &Self) -> String {
        let mut text = String::new();
        let verdict = |passage: &Self| (passage.fate, passage.reason, passage.way);
        let (is, wanted) = (verdict(self), verdict(expected));
        if is != wanted {
            text += &format!("  verdict {is:?}, expected {wanted:?}\n");
        }
        if self.frame != expected.frame {
            let hex = |passage: &Self| {
                passage.frame.as_ref().map_or("none".to_owned(), |bytes| {
                    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
                })
            };
            let (is, wanted) = (hex(self), hex(expected));
            text += &format!("  frame {is},\n  expected {wanted}\n");
        }
        text
    }
}

impl<A: Address> Outcome<A> {
    /// In what this differs from what was `expected`; none where in nothing.
    #[must_use]
    pub fn difference(&self, expected: &Self) -> Option<String> {
        if self == expected {
            return None;
        }
        let is = &self.connections;
        let wanted = &expected.connections;
        let mut text = self.passage.difference(&expected.passage);
        text += &entries("FLOWS", &is.flows, &wanted.flows);
        text += &entries("PENDING", &is.pending, &wanted.pending);
        text += &entries("SOURCES", &is.sources, &wanted.sources);
        text += &entries("AFFINITIES", &is.affinities, &wanted.affinities);
        text += &entries("LOAD", &is.open, &wanted.open);
        text += &entries(
            "SERVICE_LOAD",
            &is.open_of_services,
            &wanted.open_of_services,
        );
        Some(text)
    }
}

/// The entries of a table that are not as expected.
fn entries<K: Ord + Debug, V: PartialEq + Debug>(
    table: &str,
    is: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> String {
    let keys: BTreeSet<&K> = is.keys().chain(expected.keys()).collect();
    keys.into_iter()
        .map(|key| (key, is.get(key), expected.get(key)))
        .filter(|(_, is, expected)| is != expected)
        .map(|(key, is, expected)| {
            format!("  {table} {key:?}:\n    {is:?},\n    expected {expected:?}\n")
        })
        .collect()
}

/// The rows that are about IPv4 as about IPv6, for a hook that treats partial
/// checksums like `partial`.
fn of_both(partial: PartialChecksum) -> Vec<Row> {
    let rows = [
        handshake::rows(),
        established::rows(),
        reset::rows(),
        refused::rows(),
        limits::rows(),
        modes::rows(),
        local::rows(),
        vlan::rows(),
        offload::rows(partial),
    ];
    rows.concat()
}

/// All rows about IPv4, for a hook that treats partial checksums like
/// `partial`.
#[must_use]
pub fn ipv4(partial: PartialChecksum) -> Vec<Row> {
    [
        of_both(partial),
        icmp::rows(),
        foreign::rows(),
        golden::rows(),
    ]
    .concat()
}

/// All rows about IPv6.
#[must_use]
pub fn ipv6(partial: PartialChecksum) -> Vec<Row<Ipv6>> {
    let both = of_both(partial);
    let both = both.iter().map(Row::over_ipv6);
    both.chain(icmp::rows()).chain(foreign6::rows()).collect()
}

impl Row {
    /// The same row over IPv6.
    fn over_ipv6(&self) -> Row<Ipv6> {
        let frame = |frame: &[u8]| frame::over_ipv6(frame, ipv6_like, Ipv6::port);
        let Passage {
            reason, fate, way, ..
        } = self.expected.passage;
        let then = World {
            connections: self.expected.connections.clone(),
            targets: self.given.targets.clone(),
            ..World::empty()
        };
        Row {
            sentence: format!("over IPv6: {}", self.sentence),
            given: self.given.translated(),
            hook: self.hook,
            packet: frame(&self.packet),
            expected: Outcome {
                passage: Passage {
                    reason,
                    fate,
                    way,
                    frame: self.expected.passage.frame.as_deref().map(frame),
                },
                connections: then.translated().connections,
            },
        }
    }
}

/// What no row speaks of: in ordinary memory, there always is room in front of
/// a packet, and no checksum is over too many bytes. What the kernel does where
/// there is none stands in `tests/it/datapath/room.rs`.
pub const OUT_OF_REACH: [Reason; 1] = [Reason::Unfinished];

/// The beginning of a row.
struct Case<A: Address> {
    sentence: String,
    given: World<A>,
    packet: Vec<u8>,
}

/// A row that says `sentence` of `packet`, which meets `given`.
fn row<A: Address>(sentence: impl Into<String>, given: World<A>, packet: Vec<u8>) -> Case<A> {
    Case {
        sentence: sentence.into(),
        given,
        packet,
    }
}

impl<A: Address> Case<A> {
    /// The packet goes on as `frame`, and leaves the connections of `then`.
    fn transmits(self, reason: Reason, frame: Vec<u8>, then: World<A>) -> Row<A> {
        self.finish(Fate::Transmit, reason, Some(frame), then)
    }

    /// The same, by another NIC than the one that the packet came by.
    fn redirects(self, reason: Reason, frame: Vec<u8>, then: World<A>) -> Row<A> {
        let mut row = self.transmits(reason, frame, then);
        row.expected.passage.way = Way::Across;
        row
    }

    /// The packet goes on as `frame` through this host's own stack, and leaves
    /// the connections of `then`.
    fn delivers(self, reason: Reason, frame: Vec<u8>, then: World<A>) -> Row<A> {
        self.finish(Fate::Deliver, reason, Some(frame), then)
    }

    /// The packet is answered by the ICMP error `frame`; the connections are as
    /// before.
    fn notifies(self, reason: Reason, frame: Vec<u8>) -> Row<A> {
        let then = self.given.clone();
        self.finish(Fate::Notify, reason, Some(frame), then)
    }

    /// The packet is answered by `frame`, and leaves the connections of `then`.
    fn resets(self, reason: Reason, frame: Vec<u8>, then: World<A>) -> Row<A> {
        self.finish(Fate::Reset, reason, Some(frame), then)
    }

    /// The packet goes nowhere, and leaves the connections of `then`.
    fn drops(self, reason: Reason, then: World<A>) -> Row<A> {
        self.finish(Fate::Drop, reason, None, then)
    }

    /// The packet goes to the host; it and the connections are as before.
    fn passes(self, reason: Reason) -> Row<A> {
        let then = self.given.clone();
        self.passes_and_leaves(reason, then)
    }

    /// The packet goes to the host as it is, and leaves the connections of
    /// `then`.
    fn passes_and_leaves(self, reason: Reason, then: World<A>) -> Row<A> {
        let frame = self.packet.clone();
        self.finish(Fate::Pass, reason, Some(frame), then)
    }

    fn finish(self, fate: Fate, reason: Reason, frame: Option<Vec<u8>>, then: World<A>) -> Row<A> {
        let Self {
            sentence,
            given,
            packet,
        } = self;
        Row {
            sentence,
            given,
            hook: Hook::Ingress,
            packet,
            expected: Outcome {
                passage: Passage {
                    reason,
                    fate,
                    way: match fate {
                        Fate::Transmit | Fate::Reset | Fate::Notify => Way::Back,
                        Fate::Pass | Fate::Deliver | Fate::Drop => Way::None,
                    },
                    frame,
                },
                connections: then.settled(),
            },
        }
    }
}

impl<A: Address> Row<A> {
    /// The same of a packet that leaves this host.
    fn leaving(self) -> Self {
        Self {
            hook: Hook::Egress,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::family::Family;

    /// The rows that do not hold on the host.
    fn wrong<A: Family>(rows: &[Row<A>], partial: PartialChecksum) -> String {
        let mut wrong = String::new();
        for row in rows {
            let outcome = host::run(&row.given.tables(), row.hook, &row.packet, partial);
            if let Some(difference) = outcome.difference(&row.expected) {
                wrong += &format!("{} ({partial:?}):\n{difference}", row.sentence);
            }
        }
        wrong
    }

    #[test]
    fn every_row_holds_on_the_host() {
        let mut all = String::new();
        for partial in [PartialChecksum::Finish, PartialChecksum::Keep] {
            all += &wrong(&ipv4(partial), partial);
            all += &wrong(&ipv6(partial), partial);
        }
        assert!(all.is_empty(), "{all}");
    }

    #[test]
    fn no_two_rows_say_the_same() {
        let ipv4 = ipv4(PartialChecksum::Finish).into_iter();
        let ipv6 = ipv6(PartialChecksum::Finish).into_iter();
        let sentences = ipv4.map(|row| row.sentence);
        let sentences: Vec<_> = sentences.chain(ipv6.map(|row| row.sentence)).collect();
        let different: BTreeSet<_> = sentences.iter().collect();
        assert_eq!(sentences.len(), different.len());
    }

    #[test]
    fn some_row_speaks_of_every_reason() {
        let ipv4: BTreeSet<_> = ipv4(PartialChecksum::Finish)
            .into_iter()
            .map(|row| row.expected.passage.reason)
            .collect();
        let ipv6: BTreeSet<_> = ipv6(PartialChecksum::Finish)
            .into_iter()
            .map(|row| row.expected.passage.reason)
            .collect();
        for reason in Reason::ALL {
            let within_reach = !OUT_OF_REACH.contains(reason);
            assert_eq!(ipv4.contains(reason), within_reach, "{reason:?}");
            assert_eq!(ipv6.contains(reason), within_reach, "{reason:?}");
        }
    }
}
