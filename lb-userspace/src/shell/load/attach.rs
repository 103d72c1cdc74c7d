//! Attaching the program to the NIC: into the link that is pinned, or anew.

use std::fs;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use tracing::{info, warn};

use super::{Interface, OpenError};
use crate::config::Hook;

/// Swaps the program into the pinned link, or attaches and pins a new one.
pub(super) fn attach(
    program: &mut Xdp,
    interface: &Interface,
    hook: Hook,
    pins: &Path,
) -> Result<(), OpenError> {
    let pin = pins.join(format!("link-{hook}"));
    remove_other_links(pins, &pin);
    if pin.exists() {
        match adopt(program, &pin) {
            Ok(()) => return Ok(()),
            // The NIC is gone, and with it what the link was attached to; one
            // of the same name may have taken its place.
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
    let mode = match hook {
        Hook::XdpNative => XdpMode::Driver,
        Hook::XdpGeneric => XdpMode::Skb,
    };
    let id = program
        .attach_to_if_index(interface.index, mode)
        .map_err(|error| refused(error, interface, hook))?;
    let link: FdLink = program
        .take_link(id)?
        .try_into()
        .map_err(|source| OpenError::Adopt {
            path: pin.clone(),
            source,
        })?;
    link.pin(&pin)
        .map_err(|source| OpenError::Pin { path: pin, source })?;
    Ok(())
}

fn adopt(program: &mut Xdp, pin: &Path) -> Result<(), OpenError> {
    let adopt = |source| OpenError::Adopt {
        path: pin.to_owned(),
        source,
    };
    let pinned = PinnedLink::from_pin(pin).map_err(adopt)?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(adopt)?;
    let id = program.attach_to_link(link)?;
    // The pin holds the link; our own handle may go with the program.
    drop(program.take_link(id)?);
    Ok(())
}

/// A link that is pinned for another hook would keep the NIC busy.
fn remove_other_links(pins: &Path, keep: &Path) {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let path = entry.path();
        if path != keep && entry.file_name().to_string_lossy().starts_with("link-") {
            info!(link = %path.display(), "the hook has changed, detaching the program from the old one");
            if let Err(error) = fs::remove_file(&path) {
                warn!(link = %path.display(), %error, "cannot remove the old link");
            }
        }
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
