//! Each way in which a worker can break its protocol: what the hive tells of it, and that nothing is left.

use crate::support;

use serde_json::{Value, json};
use support::{Builder, Hive, eventually, is_alive, kill, variable};

/// Short times, so that each fault shows soon.
fn impatient() -> Builder {
    Hive::builder()
        .arg("--ready-timeout", "1s")
        .arg("--worker-heartbeat-timeout", "1s")
        .arg("--restart-limit", 1)
}

/// A worker of `kind` with these faults from its spawn to its end: the words of its events, and the last.
fn life(hive: &Hive, kind: &str, faults: &str) -> (Vec<String>, Value) {
    let mut events = hive.events();
    let id = hive.spawn(kind, faults);
    hive.story(&mut events, &id)
}

/// Lines of the log that came with the end of a worker.
fn exit_log(worker: &Value) -> String {
    let lines = worker["exit"]["log"].as_array().unwrap();
    lines.iter().map(|line| line.as_str().unwrap().to_owned() + "\n").collect()
}

/// Nothing of an ended worker is left: neither a process, nor a place in the list, nor the right to its port.
fn assert_nothing_left(hive: &Hive, worker: &Value) {
    assert_eq!(hive.processes(), Vec::<u32>::new());
    assert_eq!(hive.workers(), Vec::<Value>::new());
    let id = worker["worker_id"].as_str().unwrap();
    let reply = hive.get(&format!("/v1/workers/{id}"));
    assert_eq!((reply.status, reply.code().as_str()), (404, "WORKER_NOT_FOUND"));
    assert_eq!(&reply.json()["error"]["details"]["last"], worker, "its last picture is its last event");
    assert!(worker["pid"].is_null());
}

/// Cases that mostly wait, all at once.
fn at_once<T: Send>(cases: impl IntoIterator<Item = T>, show: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let show = &show;
            scope.spawn(move || show(case));
        }
    });
}

fn pid(worker: &Value) -> u32 {
    u32::try_from(worker["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn a_crash_at_start_is_tried_again_and_then_given_up() {
    let hive = impatient().start();
    let (story, last) = life(&hive, "mock", "crash-at-start=3");
    assert_eq!(story, ["spawning", "backoff", "spawning", "stopping", "gone"]);
    assert_eq!((&last["exit"]["code"], &last["exit"]["reason"]), (&json!(3), &json!("exited")));
    assert_eq!(last["restart_count"], 1);
    assert!(exit_log(&last).contains("crashing at start, on request code=3\n"), "{last}");
    assert_nothing_left(&hive, &last);
}

#[test]
fn a_crash_is_mended_until_the_restarts_are_used_up() {
    let hive = Hive::builder().arg("--restart-limit", 1).start();
    let (story, last) = life(&hive, "mock", "crash-after=1500ms");
    assert_eq!(story, ["spawning", "ready", "backoff", "spawning", "ready", "stopping", "gone"]);
    assert_eq!((&last["exit"]["signal"], &last["exit"]["reason"]), (&json!("SIGABRT"), &json!("signaled")));
    assert!(exit_log(&last).contains("crashing, on request"), "{last}");
    assert_nothing_left(&hive, &last);
}

#[test]
fn an_exit_that_nobody_asked_for_is_a_crash_also_with_code_0() {
    let hive = Hive::builder().arg("--restart-limit", 1).start();
    let (story, last) = life(&hive, "mock-probe", "exit-after=1500ms");
    assert_eq!(story, ["spawning", "ready", "backoff", "spawning", "ready", "stopping", "gone"]);
    assert_eq!((&last["exit"]["code"], &last["exit"]["reason"]), (&json!(0), &json!("exited")));
    assert!(exit_log(&last).contains("exiting, on request"), "{last}");
    assert_nothing_left(&hive, &last);
}

#[test]
fn without_restarts_the_first_crash_is_the_last() {
    let hive = impatient().arg("--restart-limit", 0).start();
    let (story, last) = life(&hive, "mock", "crash-at-start");
    assert_eq!(story, ["spawning", "stopping", "gone"]);
    assert_eq!((&last["restart_count"], &last["exit"]["code"]), (&json!(0), &json!(1)));
}

#[test]
fn a_worker_that_never_becomes_ready_is_given_up() {
    at_once(
        [
            ("mock", "never-ready"),
            ("mock-probe", "never-ready"),
            ("mock-probe", "unready-health"),
            ("mock-probe", "deaf"),
        ],
        |(kind, faults)| {
            let hive = impatient().arg("--restart-limit", 0).start();
            let (story, last) = life(&hive, kind, faults);
            assert_eq!(story, ["spawning", "backoff", "stopping", "gone"], "{kind} {faults}");
            let exit = &last["exit"];
            assert_eq!(
                (&exit["signal"], &exit["reason"]),
                (&json!("SIGKILL"), &json!("ready_timeout")),
                "{faults}"
            );
            assert!(last["health"].is_null());
            assert_nothing_left(&hive, &last);
        },
    );
}

#[test]
fn silence_is_staleness_and_an_answer_to_the_probe_keeps_it_alive() {
    let hive = impatient().start();
    let mut events = hive.events();
    let id = hive.spawn("mock", "silent");
    let stale = hive.wait(&id, "stale", |worker| worker["health"] == "stale");
    assert_eq!(stale["state"], "ready");
    // It answers its probes: only a stop ends it.
    let seen = stale["pid"].clone();
    assert!(is_alive(pid(&stale)));
    assert_eq!(hive.delete(&format!("/v1/workers/{id}")).status, 202);
    let (story, last) = hive.story(&mut events, &id);
    assert_eq!(story, ["spawning", "ready", "stale", "stopping", "gone"]);
    assert_eq!((&last["exit"]["code"], &last["exit"]["reason"]), (&json!(0), &json!("stopped")));
    assert_eq!(last["restart_count"], 0, "{seen} was never restarted");
    assert_nothing_left(&hive, &last);
}

#[test]
fn a_worker_that_is_silent_and_deaf_is_killed() {
    at_once(["silent,unready-health", "silent,deaf"], |faults| {
        let hive = impatient().arg("--restart-limit", 0).start();
        let (story, last) = life(&hive, "mock", faults);
        assert_eq!(story, ["spawning", "ready", "stale", "backoff", "stopping", "gone"], "{faults}");
        let exit = &last["exit"];
        assert_eq!((&exit["signal"], &exit["reason"]), (&json!("SIGKILL"), &json!("deaf")), "{faults}");
        assert!(exit_log(&last).contains("falling silent, on request"), "{last}");
        assert_nothing_left(&hive, &last);
    });
}

/// A ready worker with these faults that is then asked to stop.
fn stopped(hive: &Hive, kind: &str, faults: &str, query: &str) -> Value {
    let mut events = hive.events();
    let id = hive.spawn(kind, faults);
    hive.wait_state(&id, "ready");
    assert_eq!(hive.delete(&format!("/v1/workers/{id}{query}")).status, 202);
    let (story, last) = hive.story(&mut events, &id);
    assert_eq!(story, ["spawning", "ready", "stopping", "gone"], "{faults}");
    assert_eq!(last["exit"]["reason"], "stopped");
    assert_nothing_left(hive, &last);
    last
}

#[test]
fn a_stop_asks_first_then_terminates_then_kills() {
    let cases = [
        ("mock", "", "", json!(0), json!(null), "exiting on=POST /v1/shutdown\n"),
        ("mock", "ignore-shutdown", "", json!(0), json!(null), "exiting on=SIGTERM\n"),
        ("mock", "deaf", "", json!(0), json!(null), "exiting on=SIGTERM\n"),
        ("mock", "slow-exit=300ms", "", json!(0), json!(null), "exiting on=POST /v1/shutdown\n"),
        ("mock", "ignore-term", "", json!(0), json!(null), "exiting on=POST /v1/shutdown\n"),
        (
            "mock",
            "ignore-term,ignore-shutdown",
            "",
            json!(null),
            json!("SIGKILL"),
            "ignoring SIGTERM, on request\n",
        ),
        ("mock", "slow-exit=1h", "", json!(null), json!("SIGKILL"), "exiting on=POST /v1/shutdown\n"),
        ("mock", "", "?force=true", json!(null), json!("SIGKILL"), "listening"),
        ("mock-probe", "", "", json!(0), json!(null), "exiting on=SIGTERM\n"),
        ("mock-probe", "ignore-term", "", json!(null), json!("SIGKILL"), "ignoring SIGTERM, on request\n"),
        ("mock-probe", "", "?force=true", json!(null), json!("SIGKILL"), "listening"),
    ];
    at_once(cases, |(kind, faults, query, code, signal, line)| {
        let hive = Hive::builder().arg("--shutdown-timeout", "6s").start();
        let last = stopped(&hive, kind, faults, query);
        let exit = &last["exit"];
        assert_eq!((&exit["code"], &exit["signal"]), (&code, &signal), "{kind} {faults}: {last}");
        assert!(exit_log(&last).contains(line), "{kind} {faults}: {last}");
    });
}

#[test]
fn what_a_worker_leaves_behind_is_killed_with_it() {
    let hive = Hive::start();
    for faults in ["grandchild", "daemon", "hold-port", "grandchild,daemon,hold-port"] {
        // Asked to leave, it goes, and its children do not: `stopped` looks for them.
        stopped(&hive, "mock", faults, "");
        stopped(&hive, "mock-probe", faults, "?force=true");
    }
}

#[test]
fn a_killed_worker_is_the_same_worker_again_without_what_the_old_run_left() {
    let hive = Hive::start();
    for (kind, faults) in [("mock", ""), ("mock", "grandchild,daemon,hold-port"), ("mock-probe", "hold-port")]
    {
        let mut events = hive.events();
        let id = hive.spawn(kind, faults);
        let before = hive.wait_state(&id, "ready");
        let old = hive.processes();
        let token = variable(u64::from(pid(&before)), "RBEE_WORKER_TOKEN").unwrap();
        kill(pid(&before), 9);
        let after =
            hive.wait(&id, "again", |worker| worker["state"] == "ready" && worker["pid"] != before["pid"]);
        assert_eq!((&after["port"], &after["url"]), (&before["port"], &before["url"]));
        assert_eq!(after["restart_count"], 1);
        assert_ne!(after["started_at"], before["started_at"]);
        assert_eq!(
            (&after["exit"]["signal"], &after["exit"]["reason"]),
            (&json!("SIGKILL"), &json!("signaled"))
        );
        assert_ne!(variable(u64::from(pid(&after)), "RBEE_WORKER_TOKEN").unwrap(), token);
        assert!(!old.iter().any(|pid| is_alive(*pid)), "{faults}: of {old:?} some live");
        // Between two runs it has no process.
        while let Some((_, worker)) = events.next_event() {
            if worker["phase"] == "backoff" {
                assert!(worker["pid"].is_null() && worker["health"].is_null(), "{worker}");
                break;
            }
        }
        hive.delete(&format!("/v1/workers/{id}?force=true"));
        hive.wait_state(&id, "gone");
    }
    assert_eq!(hive.processes(), Vec::<u32>::new());
}

#[test]
fn a_killed_grandchild_is_the_workers_own_affair() {
    let hive = Hive::start();
    let id = hive.spawn("mock", "grandchild");
    let worker = hive.wait_state(&id, "ready");
    let child = hive.processes().into_iter().find(|other| *other != pid(&worker)).unwrap();
    kill(child, 9);
    eventually("the grandchild is dead", || !is_alive(child));
    assert_eq!(hive.worker(&id)["state"], "ready");
    assert_eq!(hive.worker(&id)["pid"], worker["pid"]);
}

#[test]
fn a_stopped_worker_can_be_stopped_again_only_faster() {
    let hive = Hive::builder().arg("--shutdown-timeout", "1h").start();
    let mut events = hive.events();
    let id = hive.spawn("mock", "ignore-term,ignore-shutdown");
    hive.wait_state(&id, "ready");
    for query in ["", "", "?force=true"] {
        assert_eq!(hive.delete(&format!("/v1/workers/{id}{query}")).status, 202);
    }
    let (story, last) = hive.story(&mut events, &id);
    assert_eq!(story, ["spawning", "ready", "stopping", "gone"]);
    assert_eq!(last["exit"]["signal"], "SIGKILL");
    let again = hive.delete(&format!("/v1/workers/{id}"));
    assert_eq!((again.status, again.code().as_str()), (404, "WORKER_NOT_FOUND"));
    assert_nothing_left(&hive, &last);
}

#[test]
fn a_worker_can_be_stopped_while_it_is_launched_loads_or_waits_for_its_restart() {
    let hive = Hive::start();
    for query in ["", "?force=true"] {
        let id = hive.spawn("mock", "");
        assert_eq!(hive.delete(&format!("/v1/workers/{id}{query}")).status, 202);
        hive.wait_state(&id, "gone");
        let id = hive.spawn("mock", "never-ready");
        hive.wait(&id, "loading", |worker| worker["phase"] == "loading");
        assert_eq!(hive.delete(&format!("/v1/workers/{id}{query}")).status, 202);
        hive.wait_state(&id, "gone");
        let id = hive.spawn("mock", "crash-at-start=7");
        hive.wait(&id, "in backoff", |worker| worker["phase"] == "backoff");
        assert_eq!(hive.delete(&format!("/v1/workers/{id}{query}")).status, 202);
        let last = hive.wait_state(&id, "gone");
        assert_eq!(last["exit"]["code"], 7, "{last}");
        assert_nothing_left(&hive, &last);
    }
}

#[test]
fn callbacks_are_refused_in_states_that_have_none() {
    let hive = Hive::builder().arg("--shutdown-timeout", "1h").start();
    let ready =
        |id: &str| json!({"worker_id": id, "url": "u", "model_ref": "m", "backend": "b", "device": "d"});
    let beat = |id: &str| json!({"worker_id": id, "timestamp": "t", "health_status": "healthy"});
    let refused = |path: &str, body: &Value| {
        let reply = hive.post(path, body);
        (reply.status, reply.code())
    };
    let state = (409, "WORKER_STATE".to_owned());
    let probed = hive.spawn("mock-probe", "");
    hive.wait_state(&probed, "ready");
    assert_eq!(refused("/v1/workers/ready", &ready(&probed)), state, "a probed worker is asked");
    assert_eq!(refused("/v1/heartbeat", &beat(&probed)), state);
    let stopping = hive.spawn("mock", "ignore-term,ignore-shutdown");
    hive.wait_state(&stopping, "ready");
    hive.delete(&format!("/v1/workers/{stopping}"));
    assert_eq!(refused("/v1/workers/ready", &ready(&stopping)), state);
    assert_eq!(hive.worker(&stopping)["state"], "stopping");
    hive.delete(&format!("/v1/workers/{stopping}?force=true"));
    hive.wait_state(&stopping, "gone");
    assert_eq!(refused("/v1/workers/ready", &ready(&stopping)), (404, "WORKER_NOT_FOUND".into()));
    assert_eq!(refused("/v1/heartbeat", &beat(&stopping)), (404, "WORKER_NOT_FOUND".into()));
}

#[test]
fn work_makes_a_worker_busy_and_idleness_ends_it() {
    let hive = Hive::builder().arg("--idle-timeout", "2s").start();
    for kind in ["mock", "mock-probe"] {
        let mut events = hive.events();
        let id = hive.spawn(kind, "");
        let url = hive.wait_state(&id, "ready")["url"].as_str().unwrap().to_owned();
        let answer = ureq::post(format!("{url}/v1/completions")).send(r#"{"prompt":"a b","ms":2500}"#);
        assert_eq!(answer.unwrap().status(), 200, "a busy worker is not idle");
        let (story, last) = hive.story(&mut events, &id);
        assert_eq!(story, ["spawning", "ready", "busy", "ready", "stopping", "gone"], "{kind}");
        assert_eq!(last["exit"]["reason"], "idle");
        assert!(!last["last_activity"].is_null());
        assert_nothing_left(&hive, &last);
    }
}

#[test]
fn a_log_that_is_flooded_is_bounded_and_its_end_is_served() {
    let hive = Hive::start();
    let id = hive.spawn("mock-probe", "flood");
    hive.wait_state(&id, "ready");
    let (log, older) = (hive.log_file(&format!("{id}.log")), hive.log_file(&format!("{id}.log.1")));
    eventually("the log is moved aside", || {
        older.exists() && std::fs::metadata(&log).unwrap().len() < 10 << 20
    });
    assert!(std::fs::metadata(&older).unwrap().len() <= 10 << 20);
    let tail = hive.get(&format!("/v1/workers/{id}/logs?tail=3"));
    assert_eq!(tail.text.lines().count(), 3, "{}", tail.text);
    assert!(tail.text.contains("flood line=149999 of=150000"), "{}", tail.text);
    assert_eq!(hive.worker(&id)["state"], "ready");
}

#[test]
fn an_orphan_that_a_living_worker_left_is_reaped_when_it_dies() {
    let script = "sh -c 'sleep 0.2 & echo orphan $!'; exec sleep 1000";
    let kind = json!({"kind": "parent", "protocol": "native", "program": "/bin/sh", "args": ["-c", script],
        "backends": ["cpu"]});
    let hive = Hive::builder().kind(kind).start();
    let id = hive.spawn("parent", "");
    let mut pid = String::new();
    eventually("the orphan is known", || {
        let log = hive.get(&format!("/v1/workers/{id}/logs")).text;
        pid = log.split_whitespace().nth(1).unwrap_or_default().to_owned();
        !pid.is_empty()
    });
    eventually("it is reaped", || !std::path::Path::new("/proc").join(&pid).exists());
    assert_eq!(hive.worker(&id)["state"], "spawning", "its worker lives on");
}
