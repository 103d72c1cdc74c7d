//! Why the data path could not be brought up, and what an operator can do.

use std::io;
use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use thiserror::Error;

use crate::config::Hook;

/// Why the data path could not be brought up.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No NIC is named.
    #[error("no interface is named; write interface = \"…\", or use --interface")]
    NoInterface,
    /// There is no such NIC.
    #[error("there is no interface {name}; there are: {known}")]
    UnknownInterface {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The place for pins is no BPF file system, and could not be made one.
    #[error(
        "{path} is no BPF file system and cannot be made one: try `mount -t bpf bpf {path}` as root"
    )]
    Bpffs {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something about the pins' directory.
    #[error("cannot use {path}")]
    PinDirectory {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent is alive.
    #[error("another agent already serves {interface}: it holds {path}; stop it first")]
    Taken {
        /// The NIC.
        interface: String,
        /// What the other agent has locked.
        path: PathBuf,
    },
    /// An agent of another version was killed, or runs still.
    #[error(
        "{path} holds the data path of another version: its tables have layout {found}, this version's have \
         layout {ours}, and its connections cannot be taken over. It goes on steering. End it when you can do \
         without them: start that version and stop it by SIGTERM, or `rm -r {path}`; then start this one"
    )]
    OtherLayout {
        /// Its pins.
        path: PathBuf,
        /// The layout of its maps.
        found: u32,
        /// The layout of ours.
        ours: u32,
    },
    /// What is pinned has our layout's number, but is something else.
    #[error(
        "{path} holds maps that are not this version's: {found}. They cannot be adopted, nor the connections \
         in them. What is attached goes on steering. End it when you can do without them: start the version \
         that made them and stop it by SIGTERM, or `rm -r {path}`; then start this one"
    )]
    OtherMaps {
        /// The pins.
        path: PathBuf,
        /// Which maps, and what of them differs.
        found: String,
    },
    /// Another XDP program is attached.
    #[error(
        "another XDP program is attached to {interface}, and it is not one that this agent pinned; see it \
         with `ip link show {interface}` and stop whoever owns it, or remove it with \
         `ip link set {interface} xdp off`"
    )]
    Busy {
        /// The NIC.
        interface: String,
    },
    /// The driver cannot do it.
    #[error(
        "{interface} does not take the program as {hook}: its driver has no native XDP, or its MTU (of a \
         veth: its peer's) is too large for it; lower the MTU, or say hook = \"xdp-generic\" if that is \
         acceptable"
    )]
    Unsupported {
        /// The NIC.
        interface: String,
        /// How it was to be attached.
        hook: Hook,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The kernel does not let us.
    #[error("loading the kernel program needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW")]
    Privilege,
    /// The object was not taken.
    #[error("the kernel refused the maps or the program")]
    Load(#[from] aya::EbpfError),
    /// The program was not taken.
    #[error("the kernel refused the program")]
    Program(#[from] ProgramError),
    /// The link could not be kept.
    #[error("cannot pin the link to the interface at {path}")]
    Pin {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: aya::pin::PinError,
    },
    /// The link that is pinned cannot be used.
    #[error("cannot adopt the link that is pinned at {path}")]
    Adopt {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: LinkError,
    },
    /// The table of slots cannot be reached.
    #[error("cannot map SLOTS")]
    Slots(#[source] io::Error),
    /// The object is not the one that this agent was built for.
    #[error("the kernel object has no map or program {0}: it belongs to another version")]
    Missing(&'static str),
}
