//! The lab's own kernel programs, and where they are attached.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};

use super::namespace::Namespace;
use crate::binaries;

/// A program of the lab's kernel object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    /// For the far side of the balancer's veths. A frame that a native XDP
    /// program sends out of a veth (XDP_TX) is lost without a trace, and
    /// counted as sent, unless the peer device has an XDP program too. So the
    /// switch's port towards the balancer gets one that passes everything. A
    /// real NIC needs nothing of the kind.
    Pass,
    /// For a node that is to receive tunnelled packets: this kernel may have
    /// no tunnel driver. After the driver, on whole socket buffers: so it
    /// changes nothing about how the peer sends.
    Decapsulate,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "lab_pass",
            Self::Decapsulate => "lab_decap",
        }
    }

    fn mode(self) -> XdpMode {
        match self {
            Self::Pass => XdpMode::Driver,
            Self::Decapsulate => XdpMode::Skb,
        }
    }
}

/// An attached program; detached when dropped.
#[derive(Debug)]
pub struct AttachedProgram(#[expect(dead_code, reason = "held for its link")] Ebpf);

impl AttachedProgram {
    /// Attaches `program` to `link` of `namespace`.
    pub(super) fn new(program: Program, namespace: &Namespace, link: &str) -> Result<Self> {
        let (name, mode) = (program.name(), program.mode());
        let object = binaries::lab_object()?;
        let mut loaded = Ebpf::load_file(&object)
            .with_context(|| format!("cannot load {}", object.display()))?;
        let program: &mut Xdp = loaded
            .program_mut(name)
            .with_context(|| {
                format!(
                    "no program {name} in {}; run: cargo xtask build",
                    object.display()
                )
            })?
            .try_into()?;
        program
            .load()
            .with_context(|| format!("the kernel refuses {name}"))?;
        // The kernel looks the link up in the namespace of the caller.
        namespace
            .enter(|| program.attach(link, mode))
            .with_context(|| format!("cannot attach {name} to {link}"))?;
        Ok(Self(loaded))
    }
}
