//! How fast the command line answers: help, and a hive with 64 workers.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::process::{Command, Stdio};
use std::time::Instant;

use support::daemon::Hive;
use support::{Changes, Times, heading};

const ROUNDS: usize = 100;
const WORKERS: u16 = 64;

fn main() {
    heading("commands: from the start of the process to its end");
    let hive = Hive::builder().ports(WORKERS).start();
    row(&hive, "rbee-hive --help", "wanted: < 3 ms", &["--help"]);
    row(&hive, "rbee-hive status, no workers", "", &["status"]);
    let changes = Changes::of(&hive);
    for _ in 0..WORKERS {
        let id = hive.spawn("mock", "");
        changes.state(&id, "ready");
    }
    row(&hive, "rbee-hive status, 64 workers", "wanted: < 15 ms", &["status"]);
    row(&hive, "rbee-hive ps, 64 workers", "", &["ps"]);
    row(&hive, "rbee-hive ps --json, 64 workers", "", &["ps", "--json"]);
}

fn row(hive: &Hive, what: &str, wanted: &str, args: &[&str]) {
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
        command.env_clear().env("RBEE_HIVE_URL", &hive.url).args(args).stdout(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().unwrap().success(), "{args:?}");
        times.push(begun.elapsed());
    }
    times.row(what, wanted);
}
