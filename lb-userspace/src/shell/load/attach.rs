//! Attaching programs to the NICs: into the links that are pinned, or anew.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use tracing::{info, warn};

use super::{Interface, OpenError, privilege};
use crate::config::Hook;

/// A place in the kernel where one of the programs is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where clients' packets, and servers', come in.
    Ingress(Hook),
    /// Where answers of servers on this host leave.
    Egress,
}

impl Place {
    /// The program that belongs there.
    const fn program(self) -> &'static str {
        match self {
            Self::Ingress(Hook::Tc) => "lb_tc",
            Self::Ingress(_) => "lb",
            Self::Egress => "lb_egress",
        }
    }

    /// The place that must be free before this one is taken: a NIC has no
    /// generic and no native XDP program at the same time.
    const fn in_its_way(self) -> Option<Self> {
        match self {
            Self::Ingress(Hook::XdpNative) => Some(Self::Ingress(Hook::XdpGeneric)),
            Self::Ingress(Hook::XdpGeneric) => Some(Self::Ingress(Hook::XdpNative)),
            Self::Ingress(Hook::Tc | Hook::Auto) | Self::Egress => None,
        }
    }

    fn pin(self, pins: &Path, interface: &Interface) -> PathBuf {
        let place = match self {
            Self::Ingress(hook) => hook.to_string(),
            Self::Egress => "egress".to_owned(),
        };
        pins.join(format!("{PIN_PREFIX}{place}-{}", interface.name))
    }
}

/// What the names of pinned links begin with.
const PIN_PREFIX: &str = "link-";

/// Attaches the programs at `places` of each of `interfaces`: swaps them into
/// the links that are pinned, and makes and pins the others.
///
/// What was attached elsewhere goes afterwards: until then both steer by the
/// same tables, and what the one has sent on, the other does not see.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interfaces: &[Interface],
    places: &[Place],
    pins: &Path,
) -> Result<(), OpenError> {
    let all_pins =
        |place: &Place| -> Vec<PathBuf> { interfaces.iter().map(|i| place.pin(pins, i)).collect() };
    for &place in places {
        let name = place.program();
        let program = ebpf.program_mut(name).ok_or(OpenError::Missing(name))?;
        let mut program = match place {
            Place::Ingress(hook @ (Hook::XdpNative | Hook::XdpGeneric)) => {
                let program: &mut Xdp = program.try_into()?;
                program.load().map_err(privilege)?;
                Program::Xdp(program, hook)
            }
            Place::Ingress(_) => classifier(program, TcAttachType::Ingress)?,
            Place::Egress => classifier(program, TcAttachType::Egress)?,
        };
        for in_the_way in place.in_its_way().iter().flat_map(all_pins) {
            if in_the_way.exists() {
                remove_link(&in_the_way);
            }
        }
        for interface in interfaces {
            program.attach(interface, place.pin(pins, interface))?;
        }
    }
    remove_other_links(pins, &places.iter().flat_map(all_pins).collect::<Vec<_>>());
    Ok(())
}

fn classifier(
    program: &mut aya::programs::Program,
    side: TcAttachType,
) -> Result<Program<'_>, OpenError> {
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().map_err(privilege)?;
    Ok(Program::Tc(program, side))
}

/// A loaded program.
enum Program<'a> {
    Xdp(&'a mut Xdp, Hook),
    Tc(&'a mut SchedClassifier, TcAttachType),
}

impl Program<'_> {
    fn attach(&mut self, interface: &Interface, pin: PathBuf) -> Result<(), OpenError> {
        if pin.exists() {
            match self.adopt(&pin) {
                Ok(()) => return Ok(()),
                // The NIC is gone, and with it what the link was attached to;
                // one of the same name may have taken its place.
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the pinned link is dead, attaching anew"
                ),
            }
            fs::remove_file(&pin).map_err(|source| OpenError::PinDirectory {
                path: pin.clone(),
                source,
            })?;
        }
        let link = self
            .attach_anew(interface)
            .map_err(|error| refused(error, interface, self.hook()))?;
        link.pin(&pin)
            .map_err(|source| OpenError::Pin { path: pin, source })?;
        Ok(())
    }

    const fn hook(&self) -> Hook {
        match self {
            Self::Xdp(_, hook) => *hook,
            Self::Tc(..) => Hook::Tc,
        }
    }

    fn adopt(&mut self, pin: &Path) -> Result<(), OpenError> {
        let adopt = |source| OpenError::Adopt {
            path: pin.to_owned(),
            source,
        };
        let pinned = FdLink::from(PinnedLink::from_pin(pin).map_err(adopt)?);
        // The pin holds the link; our own handle may go with the program.
        match self {
            Self::Xdp(program, _) => {
                let id = program.attach_to_link(XdpLink::try_from(pinned).map_err(adopt)?)?;
                drop(program.take_link(id)?);
            }
            Self::Tc(program, _) => {
                let link = SchedClassifierLink::try_from(pinned).map_err(adopt)?;
                let id = program.attach_to_link(link)?;
                drop(program.take_link(id)?);
            }
        }
        Ok(())
    }

    fn attach_anew(&mut self, interface: &Interface) -> Result<FdLink, ProgramError> {
        let no_link = |_| ProgramError::UnexpectedProgramType;
        match self {
            Self::Xdp(program, hook) => {
                let mode = match hook {
                    Hook::XdpGeneric => XdpMode::Skb,
                    _ => XdpMode::Driver,
                };
                let id = program.attach_to_if_index(interface.index, mode)?;
                FdLink::try_from(program.take_link(id)?).map_err(no_link)
            }
            Self::Tc(program, side) => {
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program.attach_with_options(&interface.name, *side, order)?;
                FdLink::try_from(program.take_link(id)?).map_err(no_link)
            }
        }
    }
}

/// A link that is pinned for another hook or another NIC would go on steering.
fn remove_other_links(pins: &Path, keep: &[PathBuf]) {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_link = entry.file_name().to_string_lossy().starts_with(PIN_PREFIX);
        if is_link && !keep.contains(&path) {
            remove_link(&path);
        }
    }
}

fn remove_link(path: &Path) {
    info!(link = %path.display(), "the hook or the interface has changed, detaching the program from the old one");
    if let Err(error) = fs::remove_file(path) {
        warn!(link = %path.display(), %error, "cannot remove the old link");
    }
}

/// What it means that the kernel did not attach the program.
fn refused(error: ProgramError, interface: &Interface, hook: Hook) -> OpenError {
    let ProgramError::SyscallError(call) = &error else {
        return OpenError::Unsupported {
            interface: interface.name.clone(),
            hook,
            source: error,
        };
    };
    match call.io_error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => OpenError::Busy {
            interface: interface.name.clone(),
        },
        Some(libc::EPERM) => OpenError::Privilege,
        _ => OpenError::Unsupported {
            interface: interface.name.clone(),
            hook,
            source: error,
        },
    }
}
