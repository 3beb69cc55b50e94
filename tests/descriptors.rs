//! The hive takes the descriptors that its connections need; its workers get what it was started with.

mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Hive;

/// The soft limit of another process; `None` is none.
fn soft_limit(pid: u64) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().ok()
}

#[test]
fn the_usual_soft_limit_is_raised_for_the_hive_and_kept_for_its_workers() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let usual = maximum.map_or(512, |most| most.min(512));
    setrlimit(Resource::Nofile, Rlimit { current: Some(usual), maximum }).unwrap();
    let hive = Hive::builder().arg("--max-connections", 1000).start();
    let worker = hive.spawn("mock", "");
    let worker = hive.wait_state(&worker, "ready");
    let own = soft_limit(hive.pid().into());
    assert!(own.is_none_or(|own| own > 1000 || Some(own) == maximum), "{own:?}");
    assert_eq!(soft_limit(worker["pid"].as_u64().unwrap()), Some(usual));
}
