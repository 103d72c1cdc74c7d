//! Who may run the tests that need root, and what becomes of them otherwise.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time: the labs share the machine's cores, and some tests measure.
static TURN: Mutex<()> = Mutex::new(());

/// A privileged test's turn; the next one starts when this is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'static, ()>);

/// Waits for the calling test's turn; `None` if it cannot run here, which it
/// says aloud.
///
/// # Panics
/// Where `CI` is set: there a test that cannot run has failed.
pub fn turn() -> Option<Turn> {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "this test needs root, and in CI it may not be skipped"
        );
        eprintln!("SKIPPED: this test needs root");
        return None;
    }
    // A test that panicked in its turn says so itself.
    Some(Turn(TURN.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Whether these programs are here, which a test needs beside root. It says
/// aloud which are missing.
///
/// # Panics
/// Where `CI` is set and one of them is missing.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| !is_here(program))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        std::env::var_os("CI").is_none(),
        "this test needs {missing}, and in CI it may not be skipped; run: cargo xtask test"
    );
    eprintln!("SKIPPED: this test needs {missing}; `cargo xtask test` says how to get them");
    false
}

/// In PATH, or where Debian keeps the programs of PostgreSQL.
fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = versions.flatten().map(|version| version.path().join("bin"));
    std::env::split_paths(&path)
        .chain(versions)
        .any(|directory| directory.join(program).is_file())
}

/// Begins a test that needs root: waits for its turn, or skips it aloud (fails
/// where `CI` is set).
#[macro_export]
macro_rules! privileged {
    () => {
        let Some(_turn) = $crate::privilege::turn() else {
            return;
        };
    };
}
