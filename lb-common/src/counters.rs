//! What the kernel counts, per CPU: packets and bytes by reason, the rarer
//! reasons by service, and traffic by target.

use crate::flow::Direction;
use crate::service::ServiceId;
use crate::target::TargetId;
use crate::verdict::Reason;

/// Packets and their bytes, from the IP header on.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What happens to a target's connections, but for their traffic.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TargetCounters {
    /// SYNs of new connections.
    pub opened: u64,
    /// Handshakes finished.
    pub established: u64,
    /// Connections that the server refused.
    pub refused: u64,
    /// Segments answered with a RST because the target was cut off.
    pub cut_off: u64,
}

/// The index of a target's [`Traffic`] in one direction in TARGET_TRAFFIC.
///
/// The map checks the index. An array inside of a value would need the
/// verifier to know that a direction, read back from memory, is 0 or 1.
#[inline(always)]
#[must_use]
pub const fn target_traffic(target: TargetId, direction: Direction) -> u32 {
    target.0.wrapping_mul(2).wrapping_add(direction as u32)
}

/// How many counters each service has in SERVICE_VERDICTS.
pub const REASONS_STRIDE: u32 = 64;
const _: () = assert!(Reason::COUNT <= REASONS_STRIDE as usize);

/// The index of a service's counter for `reason` in SERVICE_VERDICTS.
///
/// Established segments are not counted there: their service's sum is that
/// of its targets.
#[inline(always)]
#[must_use]
pub const fn service_verdict(service: ServiceId, reason: Reason) -> u32 {
    service.0 as u32 * REASONS_STRIDE + reason as u32
}
