//! The data path's life: loading the program, pinning its maps, attaching it
//! to the NIC, adopting what a dead agent left, detaching.
//!
//! What is pinned, and so outlives the agent: the link (the program goes on
//! steering) and every map but the event buffer. What is never pinned is the
//! program: a restarted agent always brings its own and swaps it in at once.

mod attach;
mod choice;
mod error;
mod growth;
mod layouts;
mod shapes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::MAPS_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::MsFlags;
use tracing::{info, warn};

use attach::{Place, attach};
use choice::{Candidate, candidates};
pub use error::OpenError;

use crate::config::{Config, Hook, Limits, Mode, room};
use crate::shell::tables::Family;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LB_OBJECT"));

/// The maps that outlive the agent, but for those of one family.
const PINNED: &[&str] = &[
    "ADDRESSES",
    "SLOTS",
    "GENERATIONS",
    "LOAD",
    "SERVICE_LOAD",
    "TURNS",
    "VERDICTS",
    "SERVICE_VERDICTS",
    "TARGET_TRAFFIC",
    "TARGET_COUNTERS",
];

/// The same, for each family.
const PINNED_BY_FAMILY: &[&str] = &[
    "FLOWS",
    "PENDING",
    "SERVICES",
    "TARGETS",
    "SNATS",
    "PREFIXES",
    "SOURCES",
    "AFFINITIES",
];

/// The names of all of them.
fn pinned_names() -> impl Iterator<Item = String> {
    let by_family = PINNED_BY_FAMILY.iter();
    let by_family =
        by_family.flat_map(|name| ["V4", "V6"].map(|family| format!("{name}_{family}")));
    PINNED.iter().map(|&name| name.to_owned()).chain(by_family)
}

/// How many flows there is room for in a family that no service has: the
/// least that a map may have.
const UNUSED: u32 = 16;

/// Which families the services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Those of the configured services.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut services = config.services.values();
        Self {
            v4: services.clone().any(|service| service.listen.is_ipv4()),
            v6: services.any(|service| service.listen.is_ipv6()),
        }
    }
}

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
    /// Where it is attached. Never empty; the first one has the VIPs.
    pub interfaces: Vec<Interface>,
    /// Where in the kernel: never [`Hook::Auto`].
    pub hook: Hook,
    /// Whether a former agent's maps were found and kept.
    pub adopted: bool,
    /// How many flows FLOWS has room for, two a connection: of the families
    /// that services have.
    pub flows_max: u32,
    /// How many PENDING has room for.
    pub pending_max: u32,
    ebpf: Ebpf,
    pins: PathBuf,
    _lock: Flock<File>,
}

impl Datapath {
    /// Loads the program, with the maps that a former agent pinned where
    /// there are any, and attaches it to every NIC of `config`, or swaps it in.
    ///
    /// # Errors
    /// See [`OpenError`]; what was attached before stays attached.
    pub fn open(
        config: &Config,
        virtual_links: &BTreeMap<String, String>,
        bpffs: &Path,
    ) -> Result<Self, OpenError> {
        let interfaces = config.interfaces.iter().map(|name| Interface::named(name));
        let interfaces = interfaces.collect::<Result<Vec<_>, _>>()?;
        let first = interfaces.first().ok_or(OpenError::NoInterface)?;
        mount_bpffs(bpffs)?;
        let pins = bpffs
            .join("lb")
            .join(format!("{}-v{MAPS_VERSION}", first.name));
        create_directory(&pins)?;
        layouts::refuse_others(&pins, first)?;
        let lock = lock(&pins, first)?;
        shapes::refuse_others(&pins)?;
        let adopted = pins.join("GENERATIONS").exists();
        let brought_up = bring_up(config, virtual_links, &interfaces, &pins);
        let (ebpf, hook) = match brought_up {
            Ok(up) => up,
            Err(error) => {
                Abandonment((!adopted).then_some(pins)).carry_out();
                return Err(error);
            }
        };
        let families = Families::of(config);
        let room = |v4, v6| {
            let v4 = if families.v4 { map_size(&ebpf, v4)? } else { 0 };
            let v6 = if families.v6 { map_size(&ebpf, v6)? } else { 0 };
            Ok::<_, OpenError>(v4 + v6)
        };
        Ok(Self {
            interfaces,
            hook,
            adopted,
            flows_max: room("FLOWS_V4", "FLOWS_V6")?,
            pending_max: room("PENDING_V4", "PENDING_V6")?,
            ebpf,
            pins,
            _lock: lock,
        })
    }

    /// The NIC that has the VIPs.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        // Never empty: `open` saw to that.
        &self.interfaces[0]
    }

    /// The program that takes connections of a family out of FLOWS; loaded by whoever
    /// asks first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reaper<A: Family>(&mut self) -> Result<ProgramFd, OpenError> {
        let missing = OpenError::Missing(A::REAPER);
        let program = self.ebpf.program_mut(A::REAPER).ok_or(missing)?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(privilege)?;
        }
        let fd = program.fd()?.try_clone();
        fd.map_err(|error| OpenError::Program(error.into()))
    }

    /// The map called `name`, as a map of the kind `M`, out of the object's
    /// hands.
    ///
    /// # Errors
    /// It is not there, or of another kind, or was taken before.
    pub fn take<M: TryFrom<Map>>(&mut self, name: &'static str) -> Result<M, OpenError> {
        let map = self.take_map(name)?;
        map.try_into().map_err(|_| OpenError::Missing(name))
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

/// Loads the programs and attaches them, by the first hook that works out.
fn bring_up(
    config: &Config,
    virtual_links: &BTreeMap<String, String>,
    interfaces: &[Interface],
    pins: &Path,
) -> Result<(Ebpf, Hook), OpenError> {
    let mut services = config.services.values();
    let local = services.any(|service| service.mode == Mode::Local);
    let mut candidates = candidates(config.hook, interfaces, virtual_links)
        .into_iter()
        .peekable();
    loop {
        // There is one at least.
        let Some(Candidate { hook, why }) = candidates.next() else {
            return Err(OpenError::Missing("hook"));
        };
        let mut places = vec![Place::Ingress(hook)];
        places.extend(local.then_some(Place::Egress));
        let mut ebpf = load(pins, hook, config)?;
        match attach(&mut ebpf, interfaces, &places, pins) {
            Ok(()) => {
                info!(%hook, why, "the data path is attached");
                return Ok((ebpf, hook));
            }
            Err(error @ OpenError::Unsupported { .. }) if candidates.peek().is_some() => {
                info!(%hook, error = format!("{error:#}"), "not by this hook");
            }
            Err(error) => return Err(error),
        }
    }
}

fn load(pins: &Path, hook: Hook, config: &Config) -> Result<Ebpf, OpenError> {
    let Limits {
        connections,
        half_open,
    } = config.limits;
    let keep_partial = u8::from(hook != Hook::XdpNative);
    let families = Families::of(config);
    // Two flows a connection.
    let size = |used: bool, entries: u32| {
        if used {
            entries.saturating_mul(2)
        } else {
            UNUSED
        }
    };
    let sizes = [
        ("FLOWS_V4", size(families.v4, connections)),
        ("FLOWS_V6", size(families.v6, connections)),
        ("PENDING_V4", size(families.v4, half_open)),
        ("PENDING_V6", size(families.v6, half_open)),
    ];
    let slots = room::slots(config);
    let growth = growth::begin(pins, slots)?;
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("SLOTS", slots)
        .override_global("KEEP_PARTIAL_CHECKSUMS", &keep_partial, true)
        .override_global("CONNECTIONS_MAX", &connections, true);
    for (name, entries) in sizes {
        loader.map_max_entries(name, entries);
    }
    let pinned: Vec<String> = pinned_names().collect();
    for name in &pinned {
        loader.map_pin_path(name, pins.join(name));
    }
    let ebpf = loader.load(OBJECT).map_err(|error| match error {
        aya::EbpfError::MapError(ref cause) if denied(cause) => OpenError::Privilege,
        other => OpenError::Load(other),
    })?;
    if let Some(growth) = growth {
        growth.finish(&ebpf)?;
    }
    for (name, wanted) in sizes {
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
