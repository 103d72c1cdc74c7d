//! The program on the far side of the balancer's veth.
//!
//! A frame that a native XDP program sends back out of a veth (XDP_TX) is lost
//! without a trace, and counted as sent, unless the peer device has an XDP
//! program too. So the switch's port towards the balancer gets one that passes
//! everything. A real NIC needs nothing of the kind.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};

use super::namespace::Namespace;
use crate::binaries;

/// The program's name in the lab's kernel object.
const PROGRAM: &str = "lab_pass";

/// An attached program; detached when dropped.
#[derive(Debug)]
pub(super) struct PeerProgram(#[expect(dead_code, reason = "held for its link")] Ebpf);

impl PeerProgram {
    /// Attaches the program natively to `port` of `switch`.
    pub fn attach(switch: &Namespace, port: &str) -> Result<Self> {
        let object = binaries::lab_object()?;
        let mut loaded = Ebpf::load_file(&object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        let program: &mut Xdp = loaded
            .program_mut(PROGRAM)
            .with_context(|| format!("no program {PROGRAM} in {}", object.display()))?
            .try_into()?;
        program
            .load()
            .with_context(|| format!("the kernel refuses {PROGRAM}"))?;
        // The kernel looks the port up in the namespace of the caller.
        switch
            .enter(|| program.attach(port, XdpMode::Driver))
            .with_context(|| format!("cannot attach {PROGRAM} to {port}"))?;
        Ok(Self(loaded))
    }
}
