//! The daemon: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    rbee_hive::program::main(std::env::args_os().skip(1))
}
