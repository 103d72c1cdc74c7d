//! Verdicts: what becomes of a packet, and why. The one list of reasons:
//! counters, events, the CLI and the docs are derived from it.

use crate::addr::Address;
use crate::flow::{Direction, Flow};
use crate::nat::Rewrite;
use crate::service::ServiceId;
use crate::target::TargetId;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// To the host's own stack, untouched.
    Pass,
    /// Rewritten, and out again.
    Transmit,
    /// Answered with a RST.
    Reset,
    /// Nowhere.
    Drop,
}

impl Fate {
    /// The word that the CLI and the metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Transmit => "transmit",
            Self::Reset => "reset",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $fate:ident, $name:literal;)+) => {
        /// Why a packet met its fate.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// What becomes of a packet for this reason.
            #[must_use]
            pub const fn fate(self) -> Fate {
                match self {
                    $(Self::$reason => Fate::$fate,)+
                }
            }

            /// The word that the CLI and the metrics use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$reason => concat!($($doc,)+).trim_ascii_start(),)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet, an IPv4 and a TCP header.
    Truncated = Pass, "truncated";
    /// Not IPv4: another protocol, or a VLAN tag.
    NotIpv4 = Pass, "not_ipv4";
    /// An IPv4 header with options, or one that claims less than its length.
    Ipv4Options = Pass, "ipv4_options";
    /// A fragment of an IPv4 packet.
    Fragment = Pass, "fragment";
    /// IPv4, but not TCP.
    NotTcp = Pass, "not_tcp";
    /// Lengths that contradict each other.
    Malformed = Pass, "malformed";
    /// TCP for the host itself: no flow and no service.
    NotOurs = Pass, "not_ours";
    /// From a client to its server, established.
    Forward = Transmit, "forward";
    /// From a server to its client, established.
    Reply = Transmit, "reply";
    /// The SYN of a new connection.
    Opened = Transmit, "opened";
    /// A SYN that was sent again.
    SynRetransmitted = Transmit, "syn_retransmitted";
    /// Another segment of an unfinished handshake.
    Handshake = Transmit, "handshake";
    /// The ACK that finished a handshake.
    Established = Transmit, "established";
    /// A FIN.
    Closing = Transmit, "closing";
    /// A RST that one end sent to the other.
    ResetRelayed = Transmit, "reset_relayed";
    /// The RST by which a server refused a connection.
    BackendRefused = Transmit, "backend_refused";
    /// A new connection to a service that has no target.
    NoTarget = Reset, "no_target";
    /// A segment of a connection whose target was cut off.
    CutOff = Reset, "cut_off";
    /// A segment for a service, of a connection that is not known.
    UnknownFlow = Reset, "unknown_flow";
    /// A handshake of which one half was pushed out of PENDING.
    HandshakeLost = Reset, "handshake_lost";
    /// A finished handshake, but FLOWS is full.
    TableFull = Reset, "table_full";
    /// A new connection, but no free source port towards its target.
    PortsExhausted = Reset, "ports_exhausted";
    /// A RST for a connection that is not known, or that was cut off.
    StrayReset = Drop, "stray_reset";
    /// A SYN that lost a race against itself on another CPU; it comes again.
    SynLost = Drop, "syn_lost";
    /// Out of hops: most likely two balancers that point at each other.
    TtlExpired = Drop, "ttl_expired";
    /// Decided on, but not to be carried out: a checksum over too many bytes.
    Unfinished = Drop, "unfinished";
}

impl Reason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason with number `number`, as it came out of the kernel.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What becomes of a packet ([`Reason::fate`]), why, and to whom it happens.
///
/// A plain record whose every field always has a value, and no enum: what an
/// enum leaves undefined, the compiler fills with any register, and the
/// kernel's verifier refuses a program that stores half a pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Verdict<A> {
    /// Why.
    pub reason: Reason,
    /// The service that it concerns; the first one where it concerns none.
    pub service: ServiceId,
    /// The target; [`TargetId::NONE`] where none was selected.
    pub target: TargetId,
    /// Which way the packet goes.
    pub direction: Direction,
    /// How it is rewritten; means something where it is transmitted.
    pub rewrite: Rewrite<A>,
}

impl<A: Address> Verdict<A> {
    /// `reason`, of a packet that concerns no service.
    #[inline(always)]
    pub fn of_nobody(reason: Reason) -> Self {
        Self::of_service(reason, ServiceId(0))
    }

    /// `reason`, of a segment for `service` that belongs to no connection.
    #[inline(always)]
    pub fn of_service(reason: Reason, service: ServiceId) -> Self {
        Self {
            reason,
            service,
            target: TargetId::NONE,
            direction: Direction::Forward,
            rewrite: Rewrite::default(),
        }
    }

    /// `reason`, of a segment of `flow`.
    #[inline(always)]
    pub fn of_flow(reason: Reason, flow: &Flow<A>) -> Self {
        Self {
            reason,
            service: flow.service,
            target: flow.target,
            direction: flow.direction(),
            rewrite: Rewrite::default(),
        }
    }

    /// What becomes of the packet.
    #[inline(always)]
    #[must_use]
    pub const fn fate(&self) -> Fate {
        self.reason.fate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_number_of_its_place_in_the_list() {
        for (number, reason) in (0..).zip(Reason::ALL) {
            assert_eq!(Reason::from_number(number), Some(*reason));
        }
        assert_eq!(Reason::from_number(Reason::COUNT as u8), None);
    }

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        for reason in Reason::ALL {
            let same = Reason::ALL.iter().filter(|r| r.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
            assert!(reason.description().ends_with('.'), "{reason:?}");
        }
    }
}
