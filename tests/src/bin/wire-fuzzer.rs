//! The coverage-guided fuzzer of the wire format, of what is done about ICMP
//! errors, and of the host's data path as a whole: libFuzzer, without a
//! sanitizer, because what it runs has no code that could corrupt memory.
//!
//! `cargo xtask fuzz` builds it, with the compiler's instrumentation, and runs it.

#![no_main]

use std::env;
use std::path::Path;

use lb_tests::rows::wire;

/// The directory that the seeds go into, where one is asked for.
const SEEDS: &str = "LB_FUZZ_SEEDS";

fn seed() {
    if let Some(directory) = env::var_os(SEEDS) {
        wire::write_seeds(Path::new(&directory)).expect("the seeds can be written");
    }
}

libfuzzer_sys::fuzz_target!(init: seed(), |input: &[u8]| {
    if let Err(error) = wire::check(input) {
        panic!("{error:?}");
    }
});
