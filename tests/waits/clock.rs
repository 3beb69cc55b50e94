//! A wall clock that somebody sets while the hive runs: it is for people, and moves nothing.

use crate::support;

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use rbee_hive::api::{Heartbeat, State, WorkerHealth};
use rbee_hive::mock::queen::{Options, Queen};
use serde_json::{Value, json};
use support::{Hive, MOCK, PATIENCE, build_library};

const INTERVAL: Duration = Duration::from_millis(200);
const DAY: i64 = 86_400;

/// Days of a text like `2026-01-01T00:00:00.000Z` since 1970.
fn day(text: &Value) -> i64 {
    let at: jiff::Timestamp = text.as_str().expect("a time").parse().expect("as RFC 3339 has it");
    at.as_second().div_euclid(DAY)
}

#[test]
fn a_wall_clock_that_jumps_moves_no_deadline_and_shows_in_all_times() {
    let folder = tempfile::tempdir().unwrap();
    let (library, clock) = (folder.path().join("clock.so"), folder.path().join("clock"));
    build_library("clock_stub.c", &library);
    let set = |seconds: i64| {
        let next = clock.with_extension("next");
        std::fs::write(&next, seconds.to_string()).unwrap();
        std::fs::rename(&next, &clock).unwrap();
    };
    set(0);
    let ticking = json!({"kind": "ticking", "protocol": "native", "program": MOCK, "backends": ["cpu"],
        "args": ["worker", "--slots", "{parallel}", "--heartbeat-interval", "200ms"]});
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    // Nobody is started again, so that one kill shows for ever. All times are shorter than the jumps.
    let mut hive = Hive::builder()
        .kind(ticking)
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("CLOCK_STUB", clock.to_str().unwrap())
        .arg("--queen-url", format!("http://{}", queen.addr()))
        .arg("--heartbeat-interval", "200ms")
        .arg("--worker-heartbeat-timeout", "2s")
        .arg("--idle-timeout", "1h")
        .arg("--restart-limit", 0)
        .start();
    let mut events = hive.events();
    let order = json!({"model_ref": hive.model_ref(), "kind": "ticking"}).to_string();
    let keyed =
        || hive.request("POST", "/v1/workers/spawn", &[("Idempotency-Key", "one")], Some(&order)).json();
    let native = keyed()["worker_id"].as_str().unwrap().to_owned();
    let (probed, loading) = (hive.spawn("mock-probe", ""), hive.spawn("mock", "never-ready"));
    let pids = [&native, &probed].map(|id| hive.wait_state(id, "ready")["pid"].clone());
    hive.wait(&loading, "loading", |worker| worker["phase"] == "loading");
    let gone = hive.spawn("mock", "");
    hive.delete(&format!("/v1/workers/{gone}"));
    hive.wait_state(&gone, "gone");

    let today = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap() / DAY;
    let jumps = [1, -1, -today, 47_482 - today, -today - 365, 0]; // in days: also to 1970, 2100 and 1969
    for days in jumps {
        set(days * DAY);
        let then = today + days;
        let is_then = |beat: &Heartbeat| (then..=then + 1).contains(&day(&json!(beat.timestamp)));
        let mut last = queen.heartbeats().find(PATIENCE, &is_then).expect("it goes on, in the new time");
        // One whose silence is to be noticed: deadlines come, too.
        let silent = hive.spawn("mock", "silent");
        let began = Instant::now();
        for _ in 0..12 {
            let beat = queen.heartbeats().next(PATIENCE).expect("the heartbeats go on");
            assert_eq!(beat.sequence, last.sequence + 1);
            assert!(is_then(&beat), "{}", beat.timestamp);
            let others = [loading.as_str(), silent.as_str()];
            for worker in beat.workers.iter().filter(|worker| !others.contains(&worker.worker_id.as_str())) {
                assert_eq!((worker.state, worker.health_status), (State::Ready, WorkerHealth::Healthy));
            }
            last = beat;
        }
        assert!(began.elapsed() >= 6 * INTERVAL, "they do not hurry");
        // Longer than they may be silent: who lives has been heard in the new time.
        for (id, pid) in [&native, &probed].into_iter().zip(&pids) {
            let worker = hive.worker(id);
            assert_eq!((&worker["pid"], &worker["restart_count"]), (pid, &json!(0)), "{worker}");
            assert!((then..=then + 1).contains(&day(&worker["last_heartbeat"])), "{days}: {worker}");
            day(&worker["started_at"]);
        }
        assert_eq!(hive.worker(&loading)["phase"], "loading");
        assert_eq!(hive.worker(&gone)["state"], "gone", "it is known as long as it would have been");
        assert_eq!(keyed()["worker_id"], native.as_str(), "so is the key");
        let stale = hive.wait(&silent, "stale", |worker| worker["health"] == "stale");
        assert!((then..=then + 1).contains(&day(&stale["started_at"])), "{days}: {stale}");
        hive.delete(&format!("/v1/workers/{silent}"));
        let (story, _) = hive.story(&mut events, &silent);
        assert_eq!(story, ["spawning", "ready", "stale", "stopping", "gone"]);
    }
    hive.signal(15);
    assert!(hive.wait_exit().success());
    let log = hive.log();
    assert!(!log.contains("panicked") && !log.contains("stood still"), "{log}");
}
