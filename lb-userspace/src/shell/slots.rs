//! SLOTS as memory: the words that the kernel program reads, mapped.
//!
//! A system call takes 0.8 µs a slot, in a batch too, and a thousand services
//! of thirty-two servers have fifteen million slots to change when one server
//! leaves. Here each is one aligned store.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use aya::maps::MapData;
use lb_common::target::TargetId;

/// An entry of an array map: its value, rounded up to eight bytes.
#[repr(C)]
struct Entry {
    target: AtomicU32,
    padding: u32,
}

/// All of SLOTS, for as long as this lives.
pub struct Slots {
    first: NonNull<Entry>,
    count: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and its
// words are accessed atomically only.
unsafe impl Send for Slots {}

impl Slots {
    /// Maps the array `map`, which was made with BPF_F_MMAPABLE.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn map(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let count = info.max_entries() as usize;
        let fd = map.fd().as_fd().as_raw_fd();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses, of as
        // many bytes as the map's entries take.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<Entry>(),
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { first, count })
    }

    /// How many slots there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The targets of up to `count` slots from `first` on.
    #[must_use]
    pub fn load(&self, first: u32, count: usize) -> Vec<TargetId> {
        let entries = self.entries().iter().skip(first as usize).take(count);
        let targets = entries.map(|entry| entry.target.load(Ordering::Acquire));
        targets.map(TargetId).collect()
    }

    /// Stores targets from the slot `first` on, before whatever the caller
    /// does next. `None`, and no effect, where there are not so many slots.
    #[must_use]
    pub fn store(&mut self, first: u32, targets: &[TargetId]) -> Option<()> {
        let end = (first as usize).checked_add(targets.len())?;
        let entries = self.entries().get(first as usize..end)?;
        for (entry, target) in entries.iter().zip(targets) {
            entry.target.store(target.0, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        Some(())
    }

    fn entries(&self) -> &[Entry] {
        // SAFETY: the mapping has so many entries, and lives as long as `self`.
        // Only this process' owner of SLOTS writes to it, and atomically.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<Entry>();
        // SAFETY: the mapping is ours, and whole; nobody has a reference into it.
        unsafe { libc::munmap(self.first.as_ptr().cast(), bytes) };
    }
}
