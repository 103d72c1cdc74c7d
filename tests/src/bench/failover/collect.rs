//! Threads that hear of things, and note when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lab::Namespace;

/// How long a listener may sit in a system call before it looks whether it is
/// still wanted.
pub const LOOK_UP: Duration = Duration::from_millis(200);

/// What was heard, and the listeners. They end when this is dropped.
#[derive(Debug)]
pub struct Collection<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    heard: Mutex<Vec<(Instant, T)>>,
    stop: AtomicBool,
}

impl<T> Shared<T> {
    fn heard(&self) -> MutexGuard<'_, Vec<(Instant, T)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Send + 'static> Collection<T> {
    /// One without listeners.
    pub fn empty() -> Self {
        let shared = Shared {
            heard: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        }
    }

    /// Lets `listen` run in `namespace` until it returns, which it must as
    /// soon as it is not [`wanted`](Listener::wanted) any more.
    pub fn listen(
        &mut self,
        namespace: &Namespace,
        listen: impl FnOnce(&Listener<T>) + Send + 'static,
    ) {
        let listener = Listener(Arc::clone(&self.shared));
        self.threads
            .push(namespace.background(move || listen(&listener)));
    }

    /// What was heard since `moment`.
    pub fn since(&self, moment: Instant) -> Vec<(Instant, T)> {
        let heard = self.shared.heard();
        let first = heard.partition_point(|(at, _)| *at < moment);
        heard[first..].to_vec()
    }

    /// What was heard, but for the first `known`.
    pub fn beyond(&self, known: usize) -> Vec<(Instant, T)> {
        self.shared
            .heard()
            .get(known..)
            .unwrap_or_default()
            .to_vec()
    }
}

impl<T> Drop for Collection<T> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// A listener's end of a [`Collection`].
#[derive(Debug)]
pub struct Listener<T>(Arc<Shared<T>>);

impl<T> Listener<T> {
    /// Whether anybody still wants to know.
    pub fn wanted(&self) -> bool {
        !self.0.stop.load(Ordering::Relaxed)
    }

    /// Notes what was heard just now.
    pub fn note(&self, what: T) {
        let mut heard = self.0.heard();
        // Within the lock, so that the moments are in order.
        heard.push((Instant::now(), what));
    }
}
