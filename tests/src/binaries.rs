//! Where the project's binaries are: `lb`, `raft-node`, `lab`.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// The path of a binary of this workspace: in `LB_BIN_DIR` if that is set,
/// else beside the running executable, or one directory up, since test
/// binaries lie in `target/release/deps`.
pub fn find(name: &str) -> Result<PathBuf> {
    let directories: Vec<PathBuf> = match env::var_os("LB_BIN_DIR") {
        Some(directory) => vec![directory.into()],
        None => {
            let executable = env::current_exe()?;
            executable
                .ancestors()
                .skip(1)
                .take(2)
                .map(PathBuf::from)
                .collect()
        }
    };
    for directory in &directories {
        let candidate = directory.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no binary `{name}` in {directories:?}; run: cargo xtask build")
}

/// The lab's kernel object. Its place is fixed: `<workspace>/target/bpf`.
pub fn lab_object() -> Result<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/lab.o"));
    if !path.is_file() {
        bail!("there is no {}; run: cargo xtask build", path.display());
    }
    Ok(path)
}
