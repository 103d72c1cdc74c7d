//! Verdicts: what becomes of a packet, and why. The one list of reasons:
//! counters, events, the CLI and the docs are derived from it.

use crate::addr::Address;
use crate::flow::{Direction, Flow};
use crate::service::ServiceId;
use crate::target::{Mode, Target, TargetId};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// To the host's own stack, untouched.
    Pass,
    /// Rewritten, and out again.
    Transmit,
    /// Rewritten, and on its way through the host's own stack.
    Deliver,
    /// Answered with a RST.
    Reset,
    /// Answered with an ICMP error.
    Notify,
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
            Self::Deliver => "deliver",
            Self::Reset => "reset",
            Self::Notify => "notify",
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
            #[inline(always)]
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
    /// Shorter than an Ethernet, an IP and a TCP header.
    Truncated = Pass, "truncated";
    /// Neither IPv4 nor IPv6.
    NotIp = Pass, "not_ip";
    /// An IPv4 header with options, or IPv6 extension headers.
    Options = Pass, "options";
    /// A fragment of a packet.
    Fragment = Pass, "fragment";
    /// IP, but not TCP.
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
    /// A SYN that was sent again though the server has answered it.
    SynRetransmitted = Transmit, "syn_retransmitted";
    /// A SYN that was sent again because the server has not answered it.
    SynUnanswered = Transmit, "syn_unanswered";
    /// Another segment of an unfinished handshake.
    Handshake = Transmit, "handshake";
    /// The ACK that finished a handshake.
    Established = Transmit, "established";
    /// A FIN.
    Closing = Transmit, "closing";
    /// A RST that one end sent to the other.
    ResetRelayed = Transmit, "reset_relayed";
    /// An ICMP error about a connection, on its way to the other end.
    IcmpTranslated = Transmit, "icmp_translated";
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
    /// A new connection or a finished handshake, but the table of connections
    /// is full.
    TableFull = Reset, "table_full";
    /// A new connection, but no free source port towards its target.
    PortsExhausted = Reset, "ports_exhausted";
    /// A new connection, but every server has as many as it takes.
    ServersFull = Reset, "servers_full";
    /// A new connection, but the service has as many as it takes.
    ServiceFull = Reset, "service_full";
    /// A new connection of a source that has as many as it may have.
    SourceFull = Reset, "source_full";
    /// Longer than the tunnel to its server takes.
    TooBig = Notify, "too_big";
    /// A new connection of a source that opens too many in too short a time.
    SourceRate = Drop, "source_rate";
    /// A new connection of a source that the service's rules deny.
    Denied = Drop, "denied";
    /// A RST for a connection that is not known, or that was cut off.
    StrayReset = Drop, "stray_reset";
    /// A SYN that lost a race against itself on another CPU; it comes again.
    SynLost = Drop, "syn_lost";
    /// Out of hops: most likely two balancers that point at each other.
    TtlExpired = Drop, "ttl_expired";
    /// Decided on, but not to be carried out: a checksum over too many bytes,
    /// or no room in the frame for a tunnel or an ICMP error.
    Unfinished = Drop, "unfinished";
}

impl Reason {
    /// Whether the packet goes on to where it was sent.
    #[inline(always)]
    #[must_use]
    pub const fn goes_on(self) -> bool {
        matches!(self.fate(), Fate::Transmit | Fate::Deliver)
    }

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason with number `number`, as it came out of the kernel.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What becomes of a packet ([`Verdict::fate`]), why, and to whom it happens.
///
/// A plain record whose every field always has a value, and no enum: what an
/// enum leaves undefined, the compiler fills with any register, and the
/// kernel's verifier refuses a program that stores half a pointer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// Which way the packet goes.
    pub direction: Direction,
    /// How the connection's segments get to the server.
    pub mode: Mode,
    /// Whether a refusal is not to be answered.
    pub silent: bool,
    /// The service that it concerns; the first one where it concerns none.
    pub service: ServiceId,
    /// Always 0: what is left undefined would be stored from any register, and
    /// that the kernel's verifier refuses.
    pub reserved: u16,
    /// The target; [`TargetId::NONE`] where none was selected.
    pub target: TargetId,
}

impl Verdict {
    /// `reason`, of a packet that concerns no service.
    #[inline(always)]
    pub const fn of_nobody(reason: Reason) -> Self {
        Self::of_service(reason, ServiceId(0))
    }

    /// `reason`, of a segment for `service` that belongs to no connection.
    #[inline(always)]
    pub const fn of_service(reason: Reason, service: ServiceId) -> Self {
        Self {
            reason,
            direction: Direction::Forward,
            mode: Mode::Nat,
            silent: false,
            service,
            reserved: 0,
            target: TargetId::NONE,
        }
    }

    /// `reason`, of a segment of `flow`, a connection to `target`.
    #[inline(always)]
    pub fn of_flow<A: Address>(reason: Reason, flow: &Flow<A>, target: &Target<A>) -> Self {
        Self {
            reason,
            direction: flow.direction(),
            mode: target.mode(),
            silent: false,
            service: target.service,
            reserved: 0,
            target: flow.target(),
        }
    }

    /// What becomes of the packet.
    #[inline(always)]
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self.reason.fate() {
            Fate::Reset if self.silent => Fate::Drop,
            Fate::Transmit if self.mode == Mode::Local => Fate::Deliver,
            fate => fate,
        }
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
