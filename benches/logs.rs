//! What a worker costs that writes its log as fast as it can: room on the disk, the hive's time, other launches.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::daemon::Hive;
use support::{Changes, Times, cpu_ns, figure, heading};

const FLOOD: Duration = Duration::from_secs(5);
const LAUNCHES: usize = 20;

fn script(name: &str, script: &str) -> Value {
    json!({"kind": name, "protocol": "probe", "program": "/bin/sh", "args": ["-c", script], "backends": ["cpu"],
           "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}})
}

/// Lengths of all files in a folder together.
fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn launches(hive: &Hive, changes: &Changes) -> Times {
    let mut times = Times::default();
    for _ in 0..LAUNCHES {
        let began = Instant::now();
        let id = hive.spawn("mock", "");
        times.push(changes.state(&id, "ready").0 - began);
        hive.delete(&format!("/v1/workers/{id}?force=true"));
        changes.state(&id, "gone");
    }
    times
}

fn main() {
    heading("logs: spawn → ready of a mock worker");
    let cases = [
        ("without a flood", None),
        (
            "beside 8 MiB at a time",
            Some("while :; do dd if=/dev/zero bs=1M count=8 status=none; sleep 0.002; done"),
        ),
        ("beside as much as can be written", Some("exec dd if=/dev/zero bs=64k")),
    ];
    for (what, flood) in cases {
        let hive = Hive::builder().kind(script("flood", flood.unwrap_or_default())).start();
        let changes = Changes::of(&hive);
        let folder = hive.log_file("");
        let before = cpu_ns(&[hive.pid()]);
        let began = Instant::now();
        let flooder = flood.map(|_| {
            let id = hive.spawn("flood", "");
            changes.find(|worker| worker["worker_id"] == *id && worker["pid"].is_u64());
            hive.worker(&id)["pid"].as_u64().unwrap()
        });
        let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    most.fetch_max(bytes(&folder), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            launches(&hive, &changes).row(what, "");
            std::thread::sleep(FLOOD.saturating_sub(began.elapsed()));
            over.store(true, Ordering::Relaxed);
        });
        let Some(pid) = flooder else { continue };
        let seconds = began.elapsed().as_secs_f64();
        // What its children wrote is added when they have ended.
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        let written = written.parse::<f64>().unwrap() / f64::from(1 << 20);
        figure("written by the worker", format!("{:.0}", written / seconds), "MiB/s", "");
        figure(
            "largest size of its logs together",
            most.into_inner() >> 20,
            "MiB",
            "wanted: <= 64 at 1 GB/s",
        );
        let hive = (cpu_ns(&[hive.pid()]) - before) as f64 / 1e9;
        figure("processor time of the hive", format!("{:.1}", hive / seconds * 100.0), "%", "of one core");
        println!();
    }
}
