//! Events: what the kernel tells the agent through the ring buffer.
//!
//! Events may be left out when there are too many of them; the counters
//! miss nothing.

use crate::addr::Ipv6;
use crate::flow::FlowKey;
use crate::service::ServiceId;
use crate::target::TargetId;
use crate::verdict::Reason;

/// How urgent an event is. Each urgency has a budget of its own, so that
/// ordinary connections cannot crowd out bad news, nor what clients bring
/// about by themselves what servers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// A connection came or went.
    Ordinary = 0,
    /// Something that the operator acts on.
    Trouble = 1,
    /// A server failed a client, and the agent asks it why.
    BackendFailure = 2,
}

impl Urgency {
    /// How many there are.
    pub const COUNT: u32 = Self::BackendFailure as u32 + 1;
}

/// How many events of one urgency one CPU sends at most within one
/// [`BUDGET_WINDOW_TICKS`].
pub const BUDGET: u32 = 64;

/// The length of a budget's window in ticks: about 67 ms.
pub const BUDGET_WINDOW_TICKS: u32 = 64;

/// What is left of an urgency's budget on one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// The window, counted since the host started.
    pub window: u32,
    /// How many events were sent in it.
    pub spent: u32,
}

impl Budget {
    /// The budget after one more event at `tick`; none where it is used up.
    #[inline(always)]
    #[must_use]
    pub const fn spend(self, tick: crate::flow::Tick) -> Option<Self> {
        let window = tick.0 / BUDGET_WINDOW_TICKS;
        let spent = if window == self.window { self.spent } else { 0 };
        if spent >= BUDGET {
            return None;
        }
        Some(Self {
            window,
            spent: spent + 1,
        })
    }
}

impl Reason {
    /// How urgently the agent hears of it; none where counting is enough.
    #[inline(always)]
    #[must_use]
    pub const fn urgency(self) -> Option<Urgency> {
        match self {
            Self::Established | Self::Closing | Self::ResetRelayed => Some(Urgency::Ordinary),
            Self::BackendRefused | Self::SynUnanswered => Some(Urgency::BackendFailure),
            Self::NoTarget
            | Self::HandshakeLost
            | Self::TableFull
            | Self::PortsExhausted
            | Self::ServersFull
            | Self::ServiceFull
            | Self::TtlExpired
            | Self::Unfinished => Some(Urgency::Trouble),
            Self::Truncated
            | Self::NotIp
            | Self::Options
            | Self::Fragment
            | Self::NotTcp
            | Self::Malformed
            | Self::NotOurs
            | Self::Forward
            | Self::IcmpTranslated
            | Self::TooBig
            | Self::Reply
            | Self::Opened
            | Self::SynRetransmitted
            | Self::Handshake
            | Self::CutOff
            | Self::UnknownFlow
            | Self::SourceFull
            | Self::SourceRate
            | Self::Denied
            | Self::SynLost
            | Self::StrayReset => None,
        }
    }
}

/// One entry of EVENTS. Addresses and ports are those that the packet leaves
/// with: translated, or turned round where it is answered with a RST.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Sender and receiver; IPv4 addresses are mapped into IPv6.
    pub key: FlowKey<Ipv6>,
    /// The target that it concerns, or none.
    pub target: TargetId,
    /// The service that it concerns.
    pub service: ServiceId,
    /// The number of the [`Reason`].
    pub reason: u8,
    /// The packet's [`crate::flow::Direction`], as a number.
    pub direction: u8,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Tick;

    #[test]
    fn a_budget_runs_out_and_comes_back_with_the_next_window() {
        let mut budget = Budget::default();
        for _ in 0..BUDGET {
            budget = budget.spend(Tick(7)).expect("within the budget");
        }
        assert_eq!(budget.spend(Tick(BUDGET_WINDOW_TICKS - 1)), None);
        let next = budget
            .spend(Tick(BUDGET_WINDOW_TICKS))
            .expect("a new window");
        assert_eq!(next.spent, 1);
    }
}
