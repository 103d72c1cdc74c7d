//! Bytes to an echo server and back, compared one by one: a certain number of
//! them, or as many as there is time for.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::steady::DURATION_MAX;
use crate::lab::{Namespace, joined};

/// How long a transfer may stand still.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Read and written at a time.
const CHUNK: usize = 64 * 1024;

/// Sends `bytes` bytes from `namespace` to the echo server at `target` and
/// compares what comes back; how long that took.
///
/// # Errors
/// If the connection fails, stands still for ten seconds, or a byte differs.
pub fn echo(
    namespace: &Namespace,
    target: impl Into<SocketAddr>,
    bytes: usize,
    seed: u64,
) -> Result<Duration> {
    let target = target.into();
    namespace.enter(|| {
        let begun = Instant::now();
        let mut left = bytes;
        let next = || {
            let part = left.min(CHUNK);
            left -= part;
            part
        };
        let received = AtomicUsize::new(0);
        exchange(&connect(target)?, seed, next, &received)?;
        let received = received.into_inner();
        ensure!(received == bytes, "{received} of {bytes} bytes came back");
        Ok(begun.elapsed())
    })
}

/// A transfer that goes on until it is stopped, [`DURATION_MAX`] at most.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
    work: JoinHandle<Result<()>>,
}

impl Transfer {
    /// Connects from `namespace` to the echo server at `target` and begins.
    pub fn start(namespace: &Namespace, target: impl Into<SocketAddr>, seed: u64) -> Self {
        let target = target.into();
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicUsize::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&received));
        let work = namespace.background(move || {
            let deadline = Instant::now() + DURATION_MAX;
            let next = || {
                let goes_on = !stopped.load(Ordering::Relaxed) && Instant::now() < deadline;
                if goes_on { CHUNK } else { 0 }
            };
            exchange(&connect(target)?, seed, next, &counter)
        });
        Self {
            stop,
            received,
            work,
        }
    }

    /// Bytes that came back so far, each as it was sent.
    pub fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending and waits for the last byte; how many came back.
    ///
    /// # Errors
    /// If the connection failed, stood still for ten seconds, or a byte
    /// differed.
    pub fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        joined(self.work.join())?;
        Ok(self.received.load(Ordering::Relaxed))
    }
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, TIMEOUT)
        .with_context(|| format!("cannot connect to {target}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends as many bytes as `next` says, until that is none, then ends its own
/// direction; compares all that comes back.
fn exchange(
    stream: &TcpStream,
    seed: u64,
    next: impl FnMut() -> usize + Send,
    received: &AtomicUsize,
) -> Result<()> {
    let mut sender = stream.try_clone()?;
    let mut receiver = stream.try_clone()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || send(&mut sender, seed, next));
        let compared = compare(&mut receiver, seed, received);
        if compared.is_err() {
            // The sender must not wait for a reader who has given up.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let sent = sending.join();
        compared?;
        let (sent, received) = (joined(sent)?, received.load(Ordering::Relaxed));
        ensure!(sent == received, "{received} of {sent} bytes came back");
        Ok(())
    })
}

/// How many bytes were sent.
fn send(stream: &mut TcpStream, seed: u64, mut next: impl FnMut() -> usize) -> Result<usize> {
    let mut noise = Noise(seed);
    let mut buffer = vec![0; CHUNK];
    let mut sent = 0;
    loop {
        let part = next();
        if part == 0 {
            break;
        }
        noise.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part]).context("while sending")?;
        sent += part;
    }
    stream.shutdown(Shutdown::Write).context("while closing")?;
    Ok(sent)
}

fn compare(stream: &mut TcpStream, seed: u64, received: &AtomicUsize) -> Result<()> {
    let mut noise = Noise(seed);
    let mut buffer = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let mut before = 0;
    loop {
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("after {before} bytes"))?;
        if length == 0 {
            return Ok(());
        }
        noise.fill(&mut expected[..length]);
        let differs = (0..length).find(|&at| buffer[at] != expected[at]);
        if let Some(at) = differs {
            anyhow::bail!("byte {} differs", before + at);
        }
        before += length;
        received.store(before, Ordering::Relaxed);
    }
}

/// Bytes that look random and are the same each time (SplitMix64), so that a
/// segment out of place cannot go unnoticed.
struct Noise(u64);

impl Noise {
    /// The next bytes. However they are asked for, the bytes are the same.
    fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (mixed >> 56) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 100];
        Noise(7).fill(&mut whole);
        let mut parts = [0; 100];
        let mut noise = Noise(7);
        for part in parts.chunks_mut(33) {
            noise.fill(part);
        }
        assert_eq!(whole, parts);
        let mut other = [0; 100];
        Noise(8).fill(&mut other);
        assert_ne!(whole, other);
    }
}
