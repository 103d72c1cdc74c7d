//! What an agent of another version left, whose maps have another layout.

use std::fs;
use std::path::Path;

use lb_common::layout::MAPS_VERSION;

use super::{Interface, OpenError};

/// Refuses where an agent of another version left the NIC's data path: its tables
/// cannot be taken over, and two programs would steer the same packets.
pub(super) fn refuse_others(pins: &Path, interface: &Interface) -> Result<(), OpenError> {
    let siblings = pins.parent().map(fs::read_dir);
    for sibling in siblings.into_iter().flatten().flatten().flatten() {
        let (name, path) = (sibling.file_name(), sibling.path());
        let name = name.to_string_lossy();
        let version = name
            .strip_prefix(&interface.name)
            .and_then(|rest| rest.strip_prefix("-v"))
            .and_then(|version| version.parse::<u32>().ok());
        let is_empty = || fs::read_dir(&path).is_ok_and(|mut pins| pins.next().is_none());
        if let Some(found) = version
            && path != *pins
            && !is_empty()
        {
            // What this start made is gone again, if nothing else is in it.
            let _ = fs::remove_dir(pins);
            return Err(OpenError::OtherLayout {
                path,
                found,
                ours: MAPS_VERSION,
            });
        }
    }
    Ok(())
}
