//! One packet through one program by BPF_PROG_TEST_RUN, and what the program's
//! action means.
//!
//! To a program at TC it shows less than a NIC does: no checksum that is left to
//! one, no half of a network header, and every VLAN tag in the packet's bytes,
//! where the kernel takes off the first one. Nor does it say to which NIC TC
//! redirects.

use anyhow::{Result, bail};
use aya::programs::{TestRun, TestRunOptions, TestRunResult};
use lb_common::verdict::{Fate, Reason};

use crate::rows::frame::{ETH, IP, IP6, checksum_partial};
use crate::rows::{Passage, Way};

/// What the longest frame may be that BPF_PROG_TEST_RUN takes for a program
/// that does not know of fragments: a page less headroom and tailroom.
pub const FRAME_MAX: usize = 3520;

/// By how many bytes a frame grows at most: an IPv6 and an ICMP header.
const GROWTH: usize = 48;

const XDP_ABORTED: u32 = 0;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// `TC_ACT_UNSPEC`, -1.
const TC_ON: u32 = u32::MAX;
const TC_DROP: u32 = 2;
const TC_REDIRECT: u32 = 7;

/// Whether a program at TC can be shown `packet` as what it is.
#[must_use]
pub fn shown_at_tc(packet: &[u8]) -> bool {
    let least = match packet.get(12..ETH) {
        Some([0x08, 0x00]) => ETH + IP,
        Some([0x86, 0xdd]) => ETH + IP6,
        _ => ETH,
    };
    packet.len() >= least && !checksum_partial(packet)
}

/// What `program` gives for `packet`, and the frame behind it.
pub fn test_run<P>(program: &P, packet: &[u8]) -> Result<(u32, Vec<u8>)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut frame = vec![0; packet.len() + GROWTH];
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut frame),
        ..TestRunOptions::new()
    })?;
    frame.truncate(result.data_size_out as usize);
    Ok((result.return_value, frame))
}

/// What an XDP program's `action` for `reason` means.
pub fn passage(action: u32, frame: Vec<u8>, reason: Reason) -> Result<Passage> {
    let (fate, way) = match action {
        XDP_PASS => (staying(reason), Way::None),
        XDP_TX => (leaving(reason), Way::Back),
        XDP_REDIRECT => (leaving(reason), Way::Across),
        XDP_DROP => (Fate::Drop, Way::None),
        XDP_ABORTED => bail!("the program aborted, and counted {reason:?}"),
        other => bail!("the program returned {other}, and counted {reason:?}"),
    };
    Ok(passed(reason, fate, way, frame))
}

/// What the `action` for `reason` of a program at TC means.
pub fn passage_at_tc(action: u32, frame: Vec<u8>, reason: Reason) -> Result<Passage> {
    let (fate, way) = match action {
        TC_ON => (staying(reason), Way::None),
        TC_REDIRECT => (leaving(reason), Way::Unseen),
        TC_DROP => (Fate::Drop, Way::None),
        other => bail!("the program returned {other}, and counted {reason:?}"),
    };
    Ok(passed(reason, fate, way, frame))
}

/// A passage, with the frame that is left of it.
fn passed(reason: Reason, fate: Fate, way: Way, frame: Vec<u8>) -> Passage {
    Passage {
        reason,
        fate,
        way,
        frame: (fate != Fate::Drop).then_some(frame),
    }
}

/// What it means that a packet goes on to the host.
fn staying(reason: Reason) -> Fate {
    match reason.fate() {
        Fate::Pass => Fate::Pass,
        Fate::Transmit | Fate::Deliver | Fate::Reset | Fate::Notify | Fate::Drop => Fate::Deliver,
    }
}

/// What it means that a packet leaves.
fn leaving(reason: Reason) -> Fate {
    match reason.fate() {
        answer @ (Fate::Reset | Fate::Notify) => answer,
        Fate::Pass | Fate::Transmit | Fate::Deliver | Fate::Drop => Fate::Transmit,
    }
}
