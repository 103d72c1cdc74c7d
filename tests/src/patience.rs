//! Waiting for something to become true, unless the user has had enough.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Set it, in a signal handler for instance, and all waiting in this process
/// ends.
pub fn interruption() -> &'static Arc<AtomicBool> {
    static INTERRUPTION: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    INTERRUPTION.get_or_init(Arc::default)
}

/// Whether [`interruption`] was set.
pub fn interrupted() -> bool {
    interruption().load(Ordering::Relaxed)
}

/// Looks until `look` finds something; `None` after `patience`, or when
/// interrupted.
pub fn wait_for<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    insist(patience, || match look() {
        Some(found) => Some(Some(found)),
        None => interrupted().then_some(None),
    })
    .flatten()
}

/// As [`wait_for`], but goes on when interrupted: for cleaning up.
pub fn insist<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Looks until `holds` does; whether it did within `patience`.
pub fn wait_until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    wait_for(patience, || holds().then_some(())).is_some()
}

/// Waits for `duration`, or until interrupted.
pub fn pause(duration: Duration) {
    wait_until(duration, || false);
}
