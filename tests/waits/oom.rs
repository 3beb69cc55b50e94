//! Memory that runs out: the kernel takes a worker before the hive, and the hive says what happened.

use crate::support;

use std::path::Path;

use serde_json::Value;
use support::{Hive, kill};

fn pid(worker: &Value) -> u32 {
    u32::try_from(worker["pid"].as_u64().unwrap()).unwrap()
}

/// A container with a cgroup of its own, which counts kills in `memory.events`.
struct Container(tempfile::TempDir);

impl Container {
    fn new() -> Self {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/container-v2");
        let container = Self(tempfile::tempdir().unwrap());
        copy(&fixture, container.0.path());
        container.has_killed(3);
        container
    }

    fn root(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn has_killed(&self, times: u32) {
        let events = self.0.path().join("sys/fs/cgroup/memory.events");
        std::fs::write(events, format!("low 0\nhigh 0\nmax 9\noom {times}\noom_kill {times}\n")).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if path.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

#[test]
fn a_worker_that_the_kernel_killed_for_want_of_memory_says_so_and_is_a_crash() {
    let container = Container::new();
    let hive = Hive::builder()
        .arg("--restart-limit", 2)
        .env("RBEE_HIVE_PROCFS", &container.root("proc"))
        .env("RBEE_HIVE_SYSFS", &container.root("sys"))
        .start();
    let id = hive.spawn("mock", "");
    let ready_in_run = |run: u64| {
        hive.wait(&id, "ready", |worker| worker["state"] == "ready" && worker["restart_count"] == run - 1)
    };
    let first = ready_in_run(1);
    container.has_killed(4);
    kill(pid(&first), 9);
    let second = ready_in_run(2);
    assert_eq!((&second["exit"]["reason"], &second["exit"]["signal"]), (&"oom".into(), &"SIGKILL".into()));
    let message = second["exit"]["message"].as_str().unwrap();
    let promised = first["reserved_bytes"].as_u64().unwrap().div_ceil(1 << 20);
    let begin = format!(
        "the kernel killed it for want of memory: it was promised {promised} MiB of the host's and was "
    );
    assert!(message.starts_with(&begin), "{message}");
    // Killed by somebody else.
    kill(pid(&second), 9);
    let third = ready_in_run(3);
    assert_eq!(third["exit"]["reason"], "signaled");
    // It had all its restarts.
    container.has_killed(5);
    kill(pid(&third), 9);
    assert_eq!(hive.wait_state(&id, "gone")["exit"]["reason"], "oom");
}

#[test]
fn a_worker_dies_before_the_hive() {
    let score = |pid: u32| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let hive = Hive::start();
    let id = hive.spawn("mock", "");
    let worker = hive.wait_state(&id, "ready");
    assert_eq!(score(pid(&worker)), score(hive.pid()) + rbee_hive::limits::WORKER_OOM_SCORE_RAISE);
}

/// Needs a machine whose memory may run out: a virtual one, or a cgroup with a limit and without swap that the test
/// is started in.
#[test]
#[ignore = "takes all memory that it can get"]
fn a_worker_that_takes_all_memory_is_killed_and_the_hive_is_not() {
    let eater = "sleep 1; exec awk 'BEGIN { for (;;) held[n++] = sprintf(\"%1000d\", n) }'";
    let kind = serde_json::json!({
        "kind": "eater", "protocol": "probe", "program": "/bin/sh", "args": ["-c", eater], "backends": ["cpu"],
        "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}});
    let hive = Hive::builder().arg("--restart-limit", 1).kind(kind).start();
    let beside = hive.spawn("mock", "");
    hive.wait_state(&beside, "ready");
    let id = hive.spawn("eater", "");
    let last = hive.wait_state(&id, "gone");
    println!("{}", last["exit"]);
    assert_eq!(last["exit"]["reason"], "oom");
    assert_eq!(hive.worker(&beside)["state"], "ready");
}
