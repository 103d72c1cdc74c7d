//! The data path's life: loading the program, pinning its maps, attaching it
//! to the NIC, adopting what a dead agent left, detaching.
//!
//! What is pinned, and so outlives the agent: the link (the program goes on
//! steering) and every map but the event buffer. What is never pinned is the
//! program: a restarted agent always brings its own and swaps it in at once.

mod attach;
mod error;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::MAPS_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use tracing::{info, warn};

use attach::attach;
pub use error::OpenError;

use crate::config::{Hook, Limits};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LB_OBJECT"));

/// The maps that outlive the agent.
const PINNED: &[&str] = &[
    "FLOWS",
    "PENDING",
    "SERVICES",
    "SLOTS",
    "TARGETS",
    "GENERATIONS",
    "VERDICTS",
    "SERVICE_VERDICTS",
    "TARGET_TRAFFIC",
    "TARGET_COUNTERS",
];

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
}

impl Interface {
    /// The NIC called `name`.
    ///
    /// # Errors
    /// There is none; the error lists those that there are.
    pub fn named(name: &str) -> Result<Self, OpenError> {
        match nix::net::if_::if_nametoindex(name) {
            Ok(index) => Ok(Self {
                name: name.to_owned(),
                index,
            }),
            Err(_) => {
                let all = nix::net::if_::if_nameindex();
                let names = all
                    .iter()
                    .flatten()
                    .map(|i| i.name().to_string_lossy().into_owned());
                Err(OpenError::UnknownInterface {
                    name: name.to_owned(),
                    known: names.collect::<Vec<_>>().join(", "),
                })
            }
        }
    }

    /// Whether the NIC is still there: not removed, not moved to another
    /// network namespace, not made anew under the same name.
    #[must_use]
    pub fn exists(&self) -> bool {
        // nix takes the null pointer that says "none" for a success, and
        // gives the empty name.
        nix::net::if_::if_indextoname(self.index).is_ok_and(|name| !name.is_empty())
    }
}

/// The kernel's half, up and attached.
#[derive(Debug)]
pub struct Datapath {
    /// Where it is attached.
    pub interface: Interface,
    /// Whether a former agent's maps were found and kept.
    pub adopted: bool,
    /// How many flows FLOWS has room for, two a connection.
    pub flows_max: u32,
    /// How many PENDING has room for.
    pub pending_max: u32,
    ebpf: Ebpf,
    pins: PathBuf,
    _lock: Flock<File>,
}

impl Datapath {
    /// Loads the program, with the maps that a former agent pinned where
    /// there are any, and attaches it or swaps it in.
    ///
    /// # Errors
    /// See [`OpenError`]; what was attached before stays attached.
    pub fn open(
        interface: Interface,
        hook: Hook,
        limits: Limits,
        bpffs: &Path,
    ) -> Result<Self, OpenError> {
        mount_bpffs(bpffs)?;
        let pins = bpffs
            .join("lb")
            .join(format!("{}-v{MAPS_VERSION}", interface.name));
        create_directory(&pins)?;
        let lock = lock(&pins, &interface)?;
        let adopted = pins.join("FLOWS").exists();
        let brought_up = load(&pins, hook, limits).and_then(|mut ebpf| {
            let program: &mut Xdp = ebpf
                .program_mut("lb")
                .ok_or(OpenError::Missing("lb"))?
                .try_into()?;
            program.load().map_err(privilege)?;
            attach(program, &interface, hook, &pins)?;
            Ok(ebpf)
        });
        let ebpf = match brought_up {
            Ok(ebpf) => ebpf,
            Err(error) => {
                Abandonment((!adopted).then_some(pins)).carry_out();
                return Err(error);
            }
        };
        Ok(Self {
            interface,
            adopted,
            flows_max: map_size(&ebpf, "FLOWS")?,
            pending_max: map_size(&ebpf, "PENDING")?,
            ebpf,
            pins,
            _lock: lock,
        })
    }

    /// The map called `name`, out of the object's hands.
    ///
    /// # Errors
    /// It is not there, or was taken before.
    pub fn take_map(&mut self, name: &'static str) -> Result<Map, OpenError> {
        self.ebpf.take_map(name).ok_or(OpenError::Missing(name))
    }

    /// The loaded object, for whoever has to look at all of it.
    #[cfg(feature = "kernel-log")]
    pub const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// One more handle of the pinned map called `name`.
    ///
    /// # Errors
    /// It is not there.
    pub fn reopen_map(&self, name: &'static str) -> Result<MapData, OpenError> {
        MapData::from_pin(self.pins.join(name)).map_err(|_| OpenError::Missing(name))
    }

    /// The same, as a map of the kind `M`.
    ///
    /// # Errors
    /// It is not there, or of another kind.
    pub fn reopen<M: TryFrom<Map>>(&self, name: &'static str) -> Result<M, OpenError> {
        let map = Map::from_map_data(self.reopen_map(name)?);
        let map = map.map_err(|_| OpenError::Missing(name))?;
        map.try_into().map_err(|_| OpenError::Missing(name))
    }

    /// What to do where the start fails after this.
    #[must_use]
    pub fn abandonment(&self) -> Abandonment {
        Abandonment((!self.adopted).then(|| self.pins.clone()))
    }

    /// Detaches the program and forgets all maps.
    ///
    /// # Errors
    /// A pin could not be removed; the others are gone all the same.
    pub fn detach(self) -> io::Result<()> {
        remove_pins(&self.pins)
    }
}

/// Takes a start back that failed: what it attached is detached, but what a
/// former agent left goes on steering.
#[derive(Debug)]
pub struct Abandonment(Option<PathBuf>);

impl Abandonment {
    /// Takes the start back.
    pub fn carry_out(self) {
        if let Some(pins) = self.0
            && let Err(error) = remove_pins(&pins)
        {
            warn!(pins = %pins.display(), %error, "cannot remove the new pins");
        }
    }
}

/// Makes sure that `path` is a BPF file system.
fn mount_bpffs(path: &Path) -> Result<(), OpenError> {
    let failed = |source: io::Error| OpenError::Bpffs {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(failed)?;
    let kind = nix::sys::statfs::statfs(path)
        .map_err(|e| failed(e.into()))?
        .filesystem_type();
    if kind == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), none)
        .map_err(|e| failed(e.into()))?;
    info!(path = %path.display(), "mounted a BPF file system");
    Ok(())
}

fn create_directory(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(|source| OpenError::PinDirectory {
        path: path.to_owned(),
        source,
    })
}

/// Removes the pins' directory with all that is in it: without its pin the
/// link is gone, and the program detached.
fn remove_pins(pins: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for name in fs::read_dir(pins)?.flatten().map(|entry| entry.path()) {
        if let Err(error) = fs::remove_file(&name) {
            outcome = Err(error);
        }
    }
    outcome.and(fs::remove_dir(pins))?;
    // Another interface's pins may be there.
    if let Some(parent) = pins.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// One agent per NIC: whoever has the pins' directory locked. The lock goes
/// with the process.
fn lock(pins: &Path, interface: &Interface) -> Result<Flock<File>, OpenError> {
    let failed = |source: io::Error| OpenError::PinDirectory {
        path: pins.to_owned(),
        source,
    };
    let directory = File::open(pins).map_err(failed)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => OpenError::Taken {
            interface: interface.name.clone(),
            path: pins.to_owned(),
        },
        other => failed(other.into()),
    })
}

fn load(pins: &Path, hook: Hook, limits: Limits) -> Result<Ebpf, OpenError> {
    let keep_partial: u8 = match hook {
        Hook::XdpNative => 0,
        Hook::XdpGeneric => 1,
    };
    // Two flows a connection.
    let flows = limits.connections.saturating_mul(2);
    let pending = limits.half_open.saturating_mul(2);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("KEEP_PARTIAL_CHECKSUMS", &keep_partial, true)
        .map_max_entries("FLOWS", flows)
        .map_max_entries("PENDING", pending);
    for name in PINNED {
        loader.map_pin_path(name, pins.join(name));
    }
    let ebpf = loader.load(OBJECT).map_err(|error| match error {
        aya::EbpfError::MapError(ref cause) if denied(cause) => OpenError::Privilege,
        other => OpenError::Load(other),
    })?;
    for (name, wanted) in [("FLOWS", flows), ("PENDING", pending)] {
        let size = map_size(&ebpf, name)?;
        if size != wanted {
            warn!(
                map = name,
                entries = size,
                configured = wanted,
                "the adopted map keeps its size until the agent was stopped by SIGTERM once"
            );
        }
    }
    Ok(ebpf)
}

/// How many entries the map called `name` has room for.
fn map_size(ebpf: &Ebpf, name: &'static str) -> Result<u32, OpenError> {
    let data = match ebpf.map(name).ok_or(OpenError::Missing(name))? {
        Map::HashMap(data) | Map::LruHashMap(data) => data,
        _ => return Err(OpenError::Missing(name)),
    };
    let info = data.info().map_err(aya::EbpfError::from)?;
    Ok(info.max_entries())
}

fn privilege(error: ProgramError) -> OpenError {
    match &error {
        ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            OpenError::Privilege
        }
        _ => OpenError::Program(error),
    }
}

/// Whether somewhere down its chain of causes `error` is EPERM.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.raw_os_error() == Some(libc::EPERM)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
