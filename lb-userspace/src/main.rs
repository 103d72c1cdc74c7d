//! `lb`, the program: see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_userspace::cli::main()
}
