//! Batched access to maps, which aya does not offer: one system call for
//! thousands of entries (`BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_DELETE_BATCH`), and
//! calls of a program that works on many entries (`BPF_PROG_RUN`).
//!
//! A walk sees every entry that is there for all of its time, and may or may
//! not see those that come or go meanwhile.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _};

use lb_common::layout::Plain;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

const BPF_PROG_RUN: libc::c_long = 10;

/// `bpf_attr.test` of linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// `bpf_attr.batch` of linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A walk over a hash map's entries, in slices.
#[derive(Debug)]
pub struct Walk<'a, M, K, V> {
    map: &'a M,
    keys: Vec<K>,
    values: Vec<V>,
    slice: usize,
    /// Where the kernel is: a bucket's number, opaque to us.
    position: Option<u32>,
    done: bool,
    entry: PhantomData<(K, V)>,
}

impl<'a, M: AsFd, K: Plain, V: Plain> Walk<'a, M, K, V> {
    /// A walk over the hash map `map`, whose keys and values have the layout
    /// of `K` and `V`, by about `slice` entries at a time.
    pub fn new(map: &'a M, slice: usize) -> Self {
        Self {
            map,
            keys: Vec::new(),
            values: Vec::new(),
            slice,
            position: None,
            done: false,
            entry: PhantomData,
        }
    }

    /// The next entries; `None` when all were seen.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn next_slice(&mut self) -> io::Result<Option<impl Iterator<Item = (&K, &V)>>> {
        if self.done {
            return Ok(None);
        }
        let count = self.look_up()?;
        Ok(Some(self.keys.iter().zip(&self.values).take(count)))
    }

    fn look_up(&mut self) -> io::Result<usize> {
        loop {
            self.keys.reserve(self.slice);
            self.values.reserve(self.slice);
            let mut next = 0_u32;
            let mut attr = BatchAttr {
                in_batch: self
                    .position
                    .as_ref()
                    .map_or(0, |p| std::ptr::from_ref(p) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(self.slice).unwrap_or(u32::MAX),
                map_fd: self.map.as_fd().as_raw_fd() as u32,
                ..BatchAttr::default()
            };
            let outcome = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
            match outcome {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // One bucket alone is longer than the slice.
                    self.slice *= 2;
                    continue;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.done = true,
                Err(error) => return Err(error),
                Ok(()) => self.position = Some(next),
            }
            let count = attr.count as usize;
            // SAFETY: the kernel wrote `count` keys and values, at most
            // `slice`, into memory reserved for them; `Plain` takes any bytes.
            unsafe {
                self.keys.set_len(count);
                self.values.set_len(count);
            }
            return Ok(count);
        }
    }
}

/// Takes entries out of the hash map `map`, whose keys have the layout of `K`.
/// One that is gone already is as good.
///
/// # Errors
/// What the kernel says.
pub fn delete<K: Plain>(map: &impl AsFd, mut keys: &[K]) -> io::Result<()> {
    while !keys.is_empty() {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map_fd: map.as_fd().as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        let done = match bpf(BPF_MAP_DELETE_BATCH, &mut attr) {
            Ok(()) => attr.count as usize,
            // The kernel stops at a key that is not there, having counted
            // those before it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => attr.count as usize + 1,
            Err(error) => return Err(error),
        };
        keys = keys.get(done..).unwrap_or_default();
    }
    Ok(())
}

/// Calls an XDP program on `input`, which takes the place of a packet: longer
/// than an Ethernet header, shorter than a page. Gives what it returns.
///
/// # Errors
/// What the kernel says.
pub fn call(program: &impl AsFd, input: &[u8]) -> io::Result<u32> {
    let mut attr = RunAttr {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: u32::try_from(input.len()).map_err(io::Error::other)?,
        data_in: input.as_ptr() as u64,
        repeat: 1,
        ..RunAttr::default()
    };
    bpf(BPF_PROG_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// The system call; `T` is the part of `bpf_attr` that the command takes.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: the attribute is of the layout and size that we say; the
    // pointers in it are either 0 or point to memory that the callers own,
    // of the size that they say.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
