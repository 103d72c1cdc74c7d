//! Finds the kernel object that `cargo xtask build` made, to embed it.

use std::path::Path;

fn main() {
    // At run time, not by `env!`: two checkouts may share a target directory, and
    // with it this program.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let object = Path::new(&here).join("../target/bpf/lb.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.exists() {
        println!("cargo::rustc-env=LB_OBJECT={}", object.display());
    } else {
        println!("cargo::error=the kernel object is missing; run: cargo xtask build");
    }
}
