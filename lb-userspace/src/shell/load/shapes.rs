//! Whether pinned maps are those that the kernel object means: aya adopts
//! whatever is pinned under a map's name.
//!
//! The number of the layout is to change with the maps. This notices where it
//! did not.

use std::path::Path;

use aya::EbpfError;
use aya::maps::{MapError, MapInfo, MapType};
use aya_obj::generated::bpf_map_type;
use aya_obj::{Map, Object};

use super::{OBJECT, OpenError, denied, pinned_names};

/// The maps whose sizes the configuration decides: an adopted one may have
/// that of another configuration.
const CONFIGURED: &[&str] = &["SLOTS", "FLOWS_V4", "FLOWS_V6", "PENDING_V4", "PENDING_V6"];

/// What two maps have in common that one program can use.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: MapType,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

impl Shape {
    fn wanted(map: &Map) -> Result<Self, MapError> {
        let kind = bpf_map_type::try_from(map.map_type())?;
        Ok(Self {
            kind: kind.try_into()?,
            key_size: map.key_size(),
            value_size: map.value_size(),
            entries: map.max_entries(),
            flags: map.map_flags(),
        })
    }

    fn pinned(at: &Path) -> Result<Self, MapError> {
        let info = MapInfo::from_pin(at)?;
        Ok(Self {
            kind: info.map_type()?,
            key_size: info.key_size(),
            value_size: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

/// Refuses where a pinned map is another than the object's of that name.
pub(super) fn refuse_others(pins: &Path) -> Result<(), OpenError> {
    let there: Vec<String> = pinned_names()
        .filter(|name| pins.join(name).exists())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let object = Object::parse(OBJECT).map_err(EbpfError::from)?;
    let failed = |error: MapError| match denied(&error) {
        true => OpenError::Privilege,
        false => OpenError::Load(error.into()),
    };
    let mut found = Vec::new();
    for name in there {
        // One that the object has no more is not adopted.
        let Some(map) = object.maps.get(&name) else {
            continue;
        };
        let wanted = Shape::wanted(map).map_err(failed)?;
        let pinned = Shape::pinned(&pins.join(&name)).map_err(failed)?;
        found.extend(difference(&name, wanted, pinned));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(OpenError::OtherMaps {
        path: pins.to_owned(),
        found: found.join(", "),
    })
}

/// In what the pinned map called `name` is another than the wanted one, in
/// words.
fn difference(name: &str, wanted: Shape, pinned: Shape) -> Option<String> {
    let differs = |what, wanted: u32, pinned: u32| {
        (wanted != pinned).then(|| format!("{what} {pinned} and not {wanted}"))
    };
    let kind = (wanted.kind != pinned.kind)
        .then(|| format!("type {:?} and not {:?}", pinned.kind, wanted.kind));
    let entries = if CONFIGURED.contains(&name) {
        None
    } else {
        differs("entries", wanted.entries, pinned.entries)
    };
    let all = [
        kind,
        differs("key size", wanted.key_size, pinned.key_size),
        differs("value size", wanted.value_size, pinned.value_size),
        entries,
        differs("flags", wanted.flags, pinned.flags),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| format!("{name} ({})", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        kind: MapType::Hash,
        key_size: 12,
        value_size: 36,
        entries: 1024,
        flags: 0,
    };

    #[test]
    fn a_map_of_the_same_shape_is_no_other() {
        assert_eq!(difference("SERVICES_V4", SHAPE, SHAPE), None);
    }

    #[test]
    fn every_part_of_a_shape_counts_and_is_named() {
        for (pinned, said) in [
            (
                Shape {
                    kind: MapType::LruHash,
                    ..SHAPE
                },
                "type LruHash and not Hash",
            ),
            (
                Shape {
                    key_size: 16,
                    ..SHAPE
                },
                "key size 16 and not 12",
            ),
            (
                Shape {
                    value_size: 40,
                    ..SHAPE
                },
                "value size 40 and not 36",
            ),
            (
                Shape {
                    entries: 512,
                    ..SHAPE
                },
                "entries 512 and not 1024",
            ),
            (Shape { flags: 1, ..SHAPE }, "flags 1 and not 0"),
        ] {
            let found = difference("SERVICES_V4", SHAPE, pinned);
            assert_eq!(found, Some(format!("SERVICES_V4 ({said})")));
        }
    }

    #[test]
    fn all_that_differs_is_named() {
        let pinned = Shape {
            key_size: 16,
            value_size: 40,
            ..SHAPE
        };
        assert_eq!(
            difference("SERVICES_V4", SHAPE, pinned).as_deref(),
            Some("SERVICES_V4 (key size 16 and not 12, value size 40 and not 36)")
        );
    }

    #[test]
    fn a_map_that_the_configuration_sizes_may_have_any_size() {
        let pinned = Shape {
            entries: 512,
            ..SHAPE
        };
        for name in CONFIGURED {
            assert_eq!(difference(name, SHAPE, pinned), None);
        }
    }

    #[test]
    fn the_object_has_every_map_that_is_pinned() {
        let object = Object::parse(OBJECT).unwrap();
        for name in pinned_names() {
            Shape::wanted(&object.maps[&name]).unwrap();
        }
    }
}
