//! `rbee-mock`: stand-ins for workers, the queen and the hive. See [`rbee_hive::mock`].

use std::process::ExitCode;

fn main() -> ExitCode {
    rbee_hive::mock::main()
}
