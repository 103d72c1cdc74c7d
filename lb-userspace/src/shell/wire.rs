//! Frames of our own, put on the wire past the host's stack: the ACKs that
//! provoke a reset, and gratuitous ARP.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// How long a frame waits for room in the queue, in microseconds.
const SEND_TIMEOUT_US: libc::suseconds_t = 100_000;

/// A socket that sends frames and receives none.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// A socket.
    ///
    /// # Errors
    /// What the kernel says: EPERM without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 receives nothing.
        // SAFETY: no pointer is involved.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours alone.
        let this = Self(unsafe { OwnedFd::from_raw_fd(socket) });
        this.limit_waiting()?;
        Ok(this)
    }

    /// A full queue is waited for, but not for ever.
    fn limit_waiting(&self) -> io::Result<()> {
        let limit = libc::timeval {
            tv_sec: 0,
            tv_usec: SEND_TIMEOUT_US,
        };
        // SAFETY: the option takes a `timeval` of the length that we say.
        let status = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDTIMEO,
                std::ptr::from_ref(&limit).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if status < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Sends one frame, from its Ethernet header on, by the NIC with number
    /// `index`.
    ///
    /// # Errors
    /// What the kernel says; the frame was not sent.
    pub fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: the frame's pointer and length are those of a live slice; the
        // address is a `sockaddr_ll` of the length that we say.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
