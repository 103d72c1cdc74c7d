//! Looking again and again, in the background, and noting when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lab::{Namespace, joined};

/// No sampler goes on for longer, in case nobody stops it.
const DURATION_MAX: Duration = Duration::from_secs(180);

/// What was seen, and when.
#[derive(Debug, Clone)]
pub struct Sample<T> {
    /// Before the look.
    pub begun: Instant,
    /// After it.
    pub ended: Instant,
    /// What was seen between the two.
    pub seen: T,
}

/// A thread that looks until it is stopped or dropped.
#[derive(Debug)]
pub struct Sampler<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Sample<T>>>>,
}

impl<T: Send + 'static> Sampler<T> {
    /// Looks from `namespace`, with a `pause` between two looks.
    pub fn start(
        namespace: &Namespace,
        pause: Duration,
        mut look: impl FnMut() -> T + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = namespace.background(move || {
            let end = Instant::now() + DURATION_MAX;
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) && Instant::now() < end {
                let begun = Instant::now();
                let seen = look();
                samples.push(Sample {
                    begun,
                    ended: Instant::now(),
                    seen,
                });
                thread::sleep(pause);
            }
            samples
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops, and gives all samples in their order.
    pub fn stop(mut self) -> Vec<Sample<T>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.map_or(Vec::new(), |thread| joined(thread.join()))
    }
}

impl<T> Drop for Sampler<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
