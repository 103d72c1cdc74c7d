//! A larger SLOTS, where an agent adopts one that is too small for its
//! configuration.
//!
//! The program of before reads the smaller one until it is swapped out. Both
//! say the same until then: nobody else may write, for the pins are locked.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Map, MapData};

use super::OpenError;
use crate::shell::slots::Slots;

const PIN: &str = "SLOTS";
/// Where the smaller one is pinned until the larger one is filled.
const ASIDE: &str = "SLOTS_BEFORE";

/// A table that was set aside, so that loading the program makes a new one.
pub(super) struct Growth {
    before: MapData,
    aside: PathBuf,
}

/// Sets the pinned SLOTS aside where it has less than `entries`.
pub(super) fn begin(pins: &Path, entries: u32) -> Result<Option<Growth>, OpenError> {
    let (pin, aside) = (pins.join(PIN), pins.join(ASIDE));
    let failed = |source| OpenError::PinDirectory {
        path: pin.clone(),
        source,
    };
    if aside.exists() {
        // An agent died over it. What it had made by then has no use yet.
        fs::rename(&aside, &pin).map_err(failed)?;
    }
    if !pin.exists() {
        return Ok(None);
    }
    let before = MapData::from_pin(&pin).map_err(aya::EbpfError::from)?;
    let info = before.info().map_err(aya::EbpfError::from)?;
    if info.max_entries() >= entries {
        return Ok(None);
    }
    fs::rename(&pin, &aside).map_err(failed)?;
    Ok(Some(Growth { before, aside }))
}

impl Growth {
    /// Fills the new SLOTS of `ebpf` with what is in the one that was set
    /// aside, and forgets that.
    pub(super) fn finish(self, ebpf: &Ebpf) -> Result<(), OpenError> {
        let failed = |source| OpenError::PinDirectory {
            path: self.aside.clone(),
            source,
        };
        let Some(Map::Array(now)) = ebpf.map(PIN) else {
            return Err(OpenError::Missing(PIN));
        };
        let before = Slots::map(&self.before).map_err(OpenError::Slots)?;
        let targets = before.load(0, before.count());
        let mut now = Slots::map(now).map_err(OpenError::Slots)?;
        now.store(0, &targets).ok_or(OpenError::Missing(PIN))?;
        fs::remove_file(&self.aside).map_err(failed)
    }
}
