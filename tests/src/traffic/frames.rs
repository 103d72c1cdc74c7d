//! Frames as they are, past the kernel's stack: what no honest sender sends.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::netdevice::name_to_index;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketType, bind, send, sendmmsg,
    socket,
};

use crate::lab::{NIC, Namespace};
use crate::patience::insist;
use crate::rows::frame::MacAddress;

/// Sends frames through a link of a namespace; receives none.
#[derive(Debug)]
pub struct FrameSender(OwnedFd);

/// Linux's `sockaddr_ll` (packet(7)): all that matters for sending.
#[repr(C)]
struct LinkAddress {
    family: u16,
    /// 0: receive nothing.
    protocol: u16,
    interface: i32,
    unused: [u8; 12],
}

// SAFETY: a `LinkAddress` has the layout of the `sockaddr_ll` that its family
// announces, and lives until the call that borrows it is over.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(
            std::ptr::from_ref(self).cast(),
            size_of::<Self>() as SocketAddrLen,
        )
    }
}

impl FrameSender {
    /// A sender on `link` of `namespace`. What is sent on a port of the switch
    /// arrives at the other end as it is; on the way through the switch, the
    /// kernel would look at it, and not let everything pass.
    pub fn open(namespace: &Namespace, link: &str) -> Result<Self> {
        namespace
            .enter(|| -> io::Result<Self> {
                let socket = socket(AddressFamily::PACKET, SocketType::RAW, None)?;
                let interface = name_to_index(&socket, link)?;
                let address = LinkAddress {
                    family: AddressFamily::PACKET.as_raw(),
                    protocol: 0,
                    interface: i32::try_from(interface).map_err(io::Error::other)?,
                    unused: [0; 12],
                };
                bind(&socket, &address)?;
                Ok(Self(socket))
            })
            .with_context(|| format!("cannot open a packet socket in {}", namespace.name()))
    }

    /// Sends a frame, from its Ethernet header on. Where the receiver has no
    /// room for it just now, tries again for a second.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = insist(Duration::from_secs(1), || {
            match send(&self.0, frame, SendFlags::empty()) {
                Err(Errno::NOBUFS) => None,
                outcome => Some(outcome.map(drop)),
            }
        });
        Ok(sent.unwrap_or(Err(Errno::NOBUFS))?)
    }

    /// Sends frames as [`send`](Self::send) does, with one system call if
    /// there is room for all of them; how many were sent, from the first on.
    pub fn send_many(&self, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let parts: Vec<[IoSlice<'_>; 1]> = frames
            .iter()
            .map(|frame| [IoSlice::new(frame.as_ref())])
            .collect();
        let mut nothing: Vec<SendAncillaryBuffer<'_, '_, '_>> = frames
            .iter()
            .map(|_| SendAncillaryBuffer::default())
            .collect();
        let mut messages: Vec<MMsgHdr<'_>> = parts
            .iter()
            .zip(&mut nothing)
            .map(|(part, nothing)| MMsgHdr::new(part, nothing))
            .collect();
        match sendmmsg(&self.0, &mut messages, SendFlags::empty()) {
            Err(Errno::NOBUFS) => Ok(0),
            outcome => Ok(outcome?),
        }
    }
}

/// The Ethernet address of the NIC of `namespace`.
pub fn mac_address(namespace: &Namespace) -> Result<MacAddress> {
    let shown = Command::new("ip")
        .args(["-n", namespace.name(), "-oneline", "link", "show", NIC])
        .output()
        .context("cannot start `ip` (package iproute2)")?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "link/ether");
    let octets = words.next().unwrap_or_default().split(':');
    let octets: Vec<u8> = octets
        .filter_map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect();
    let address = MacAddress::try_from(octets).ok();
    address.with_context(|| format!("no Ethernet address in {shown:?}"))
}
