//! Silence, and what only looks like it: a hive that stood still for longer than all its times (a stopped process, a
//! machine that was suspended) concludes nothing about its workers from that, and its clients lose nothing.

use crate::support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rbee_hive::api::{Heartbeat, State, WorkerHealth};
use rbee_hive::mock::hub::{self, Hub, Repository};
use rbee_hive::mock::queen::{Options, Queen};
use serde_json::{Value, json};
use support::{Builder, Hive, MOCK, PATIENCE, eventually, kill};

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// The hive stands still alone, or all its workers with it; then it wakes before them, or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Night {
    Alone,
    WakesFirst,
    WakesLast,
}

const NIGHTS: [Night; 3] = [Night::Alone, Night::WakesFirst, Night::WakesLast];

/// A native kind whose heartbeats come this often.
fn ticking(interval: &str) -> Value {
    json!({"kind": "ticking", "protocol": "native", "program": MOCK, "backends": ["cpu"],
        "args": ["worker", "--slots", "{parallel}", "--heartbeat-interval", interval], "args_allow": ["--load-ms"]})
}

/// All times are shorter than any night. Nobody is started again: one kill shows for ever.
fn short_times() -> Builder {
    Hive::builder()
        .kind(ticking("200ms"))
        .arg("--worker-heartbeat-timeout", "1s")
        .arg("--ready-timeout", "2s")
        .arg("--heartbeat-interval", "200ms")
        .arg("--restart-limit", 0)
}

/// A connection with a part of a request behind it.
fn send(hive: &Hive, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(hive.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: &TcpStream, until: &str) -> String {
    let mut text = String::new();
    while !text.contains(until) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).expect("an answer");
        assert!(count > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    text
}

/// Plays a night of so many seconds, and looks on for so many heartbeats to the queen.
fn sleep(night: Night, seconds: u64, builder: Builder, later: u64) {
    let queen = Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), Options::default()).unwrap();
    let hive = builder.arg("--queen-url", format!("http://{}", queen.addr())).start();
    let ids: Vec<String> =
        ["ticking", "ticking", "mock-probe", "mock-probe"].iter().map(|kind| hive.spawn(kind, "")).collect();
    let before: BTreeMap<&String, Value> =
        ids.iter().map(|id| (id, hive.wait_state(id, "ready")["pid"].clone())).collect();
    let silent = hive.spawn("mock", "silent");
    let silent_pid = hive.wait_state(&silent, "ready")["pid"].clone();
    let mut events = hive.events();

    // Things under way: requests to workers, a start, a kept connection, half a head.
    let work = |n: usize| {
        let url = hive.worker(&ids[n])["url"].as_str().unwrap().to_owned();
        std::thread::spawn(move || {
            ureq::post(format!("{url}/v1/completions")).send(r#"{"prompt":"a b","ms":1500}"#)
        })
    };
    let at_work = [work(0), work(2)];
    hive.wait_state(&ids[0], "busy");
    hive.wait_state(&ids[2], "busy");
    let order = json!({"model_ref": hive.model_ref(), "kind": "ticking", "extra_args": ["--load-ms", "900"]});
    let loading = hive.post("/v1/workers/spawn", &order).json()["worker_id"].as_str().unwrap().to_owned();
    hive.wait(&loading, "loading", |worker| worker["phase"] == "loading");
    let mut kept = send(&hive, "GET /health HTTP/1.1\r\nHost: h\r\n\r\n");
    answer(&kept, "alive");
    let mut half = send(&hive, "GET /v1/workers HTTP/1.1\r\nHost: h\r\n");

    // Requests that change something are at whatever step they are in.
    let asking = Arc::new(AtomicBool::new(true));
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (asking, url) = (Arc::clone(&asking), format!("{}/v1/drain", hive.url));
            std::thread::spawn(move || {
                while asking.load(Ordering::Relaxed) {
                    let answer = ureq::post(&url).send(r#"{"drain":false}"#);
                    assert!(answer.is_ok(), "{night:?}: {answer:?}");
                }
            })
        })
        .collect();

    let workers = if night == Night::Alone { Vec::new() } else { hive.processes() };
    hive.signal(SIGSTOP);
    workers.iter().for_each(|pid| kill(*pid, SIGSTOP));
    // What is asked meanwhile waits in the sockets.
    kept.write_all(b"GET /v1/workers HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    half.write_all(b"Connection: close\r\n\r\n").unwrap();
    let new = send(&hive, "GET /v1/workers HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    std::thread::sleep(Duration::from_secs(seconds)); // this is the night
    let heard = queen.hives()[0].sequence;
    if night == Night::WakesLast {
        workers.iter().for_each(|pid| kill(*pid, SIGCONT));
    }
    let woken = Instant::now();
    hive.signal(SIGCONT);
    if night == Night::WakesFirst {
        assert_eq!(hive.get("/health").status, 200);
        workers.iter().for_each(|pid| kill(*pid, SIGCONT));
    }

    asking.store(false, Ordering::Relaxed);
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    for stream in [&kept, &half, &new] {
        assert!(answer(stream, "]}").starts_with("HTTP/1.1 200 "), "{night:?}");
    }
    for work in at_work {
        assert_eq!(work.join().unwrap().unwrap().status(), 200, "{night:?}");
    }
    let is_well = |beat: &Heartbeat| {
        beat.workers.len() == 6
            && beat.workers.iter().all(|worker| {
                worker.state == State::Ready
                    && (worker.health_status == WorkerHealth::Healthy || worker.worker_id.as_str() == silent)
            })
    };
    let well = queen.heartbeats().find(PATIENCE, &|beat: &Heartbeat| beat.sequence > heard && is_well(beat));
    let well = well.unwrap_or_else(|| panic!("{night:?}: not well\n{:#?}\n{}", hive.workers(), hive.log()));
    let took = woken.elapsed();
    let later = well.sequence + later;
    queen
        .heartbeats()
        .find(PATIENCE, &|beat: &Heartbeat| beat.sequence >= later)
        .expect("the heartbeats go on");

    for (id, pid) in before.into_iter().chain([(&silent, silent_pid)]) {
        let worker = hive.worker(id);
        assert_eq!((&worker["pid"], &worker["restart_count"]), (&pid, &json!(0)), "{night:?}: {worker}");
    }
    assert_eq!(hive.worker(&loading)["restart_count"], 0);
    hive.delete(&format!("/v1/workers/{loading}"));
    let mut stale = BTreeMap::<String, u32>::new();
    loop {
        let (event, worker) = events.next_event().expect("the events go on");
        if event != "worker" {
            continue;
        }
        if worker["worker_id"] == loading.as_str() && worker["state"] == "stopping" {
            break;
        }
        let lives = matches!(worker["state"].as_str(), Some("spawning" | "ready" | "busy"))
            && worker["exit"].is_null();
        assert!(lives, "{night:?}: {worker}\n{}", hive.log());
        let id = worker["worker_id"].as_str().unwrap();
        if id != silent && worker["health"] == "stale" {
            *stale.entry(id.to_owned()).or_default() += 1;
        }
    }
    assert!(
        stale.values().all(|times| *times <= 1),
        "{night:?}: {stale:?} were stale longer\n{}",
        hive.log()
    );
    let log = hive.log();
    let gap_ms =
        log.split("gap_ms=").skip(1).filter_map(|rest| rest.lines().next()?.parse::<u64>().ok()).max();
    assert!(gap_ms.is_some_and(|ms| ms + 1000 >= seconds * 1000), "it slept for {gap_ms:?} ms\n{log}");
    println!("{night:?}: {seconds} s, well after {} ms, stale events {stale:?}", took.as_millis());
}

#[test]
fn a_hive_that_stood_still_takes_nobodys_silence_for_illness() {
    // Longer than what a head, a post to the queen or an answer may take.
    std::thread::scope(|scope| {
        for night in NIGHTS {
            scope.spawn(move || sleep(night, 33, short_times(), 12));
        }
    });
}

/// `RBEE_SLEEP_S` says how long, 300 seconds if it does not; with the times of an ordinary hive, and with short ones.
#[test]
#[ignore = "stands still for minutes"]
fn a_hive_that_stood_still_for_minutes_takes_nobodys_silence_for_illness() {
    let seconds = std::env::var("RBEE_SLEEP_S").ok().map_or(300, |text| text.parse().unwrap());
    std::thread::scope(|scope| {
        for night in NIGHTS {
            scope.spawn(move || sleep(night, seconds, short_times(), 12));
            let ordinary = Hive::builder().kind(ticking("30s"));
            scope.spawn(move || sleep(night, seconds, ordinary, 50));
        }
    });
}

#[test]
fn whoever_calls_a_hive_that_stands_still_is_answered_when_it_goes_on() {
    let hive = Hive::start();
    hive.signal(SIGSTOP);
    let request = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let callers: Vec<TcpStream> = (0..400)
        .map(|_| {
            // Whom the kernel does not let in tries for minutes.
            let mut caller = TcpStream::connect_timeout(&hive.address, PATIENCE).expect("it is let in");
            caller.set_read_timeout(Some(PATIENCE)).unwrap();
            caller.write_all(request).unwrap();
            caller
        })
        .collect();
    hive.signal(SIGCONT);
    for caller in &callers {
        assert!(answer(caller, "}").starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn a_worker_that_hangs_is_killed_and_started_again() {
    std::thread::scope(|scope| {
        for kind in ["ticking", "mock-probe"] {
            scope.spawn(move || {
                let hive = short_times().arg("--restart-limit", 1).start();
                let mut events = hive.events();
                let id = hive.spawn(kind, "");
                let before = hive.wait_state(&id, "ready")["pid"].clone();
                kill(u32::try_from(before.as_u64().unwrap()).unwrap(), SIGSTOP);
                let again =
                    hive.wait(&id, "again", |worker| worker["state"] == "ready" && worker["pid"] != before);
                assert_eq!((&again["restart_count"], &again["exit"]["reason"]), (&json!(1), &json!("deaf")));
                hive.delete(&format!("/v1/workers/{id}"));
                let (story, _) = hive.story(&mut events, &id);
                assert_eq!(
                    story,
                    ["spawning", "ready", "stale", "backoff", "spawning", "ready", "stopping", "gone"],
                    "{kind}"
                );
            });
        }
    });
}

#[test]
fn a_worker_that_is_deaf_and_not_silent_lives_on() {
    let hive = short_times().start();
    let id = hive.spawn("ticking", "deaf");
    let first = hive.wait_state(&id, "ready");
    // Long enough for it to become stale, and to be found deaf three times.
    let mut beats = std::collections::BTreeSet::new();
    eventually("fifty heartbeats", || {
        beats.insert(hive.worker(&id)["last_heartbeat"].as_str().unwrap().to_owned());
        beats.len() >= 50
    });
    let worker = hive.worker(&id);
    assert_eq!((&worker["state"], &worker["pid"]), (&json!("ready"), &first["pid"]));
    assert_eq!(worker["restart_count"], 0);
}

#[test]
fn a_download_goes_on_after_the_hive_stood_still() {
    let rate = Some(512 * 1024);
    let hub = Hub::start(hub::Options { rate, ..hub::Options::default() }).unwrap();
    hub.add("org/tiny", Repository::new().with("m-Q8_0.gguf", vec![7; 4 * 1024 * 1024]));
    let hive = Hive::builder()
        .env("HF_ENDPOINT", hub.url())
        .env("HF_HUB_OFFLINE", "0")
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        .start();
    let begun = hive.post("/v1/models/download", &json!({"model_ref": "hf:org/tiny"})).json();
    let id = begun["download_id"].as_str().unwrap();
    let mut progress = hive.stream(&format!("/v1/models/download/progress?id={id}"), "");
    let mut attempts = 0;
    let mut slept = false;
    loop {
        let (_, told) = progress.next_event().expect("the stream ends with its end");
        attempts = told["attempt"].as_u64().unwrap_or(attempts);
        match told["stage"].as_str() {
            Some("downloading") if !slept && told["bytes_downloaded"].as_u64() > Some(0) => {
                hive.signal(SIGSTOP);
                std::thread::sleep(Duration::from_secs(4)); // longer than a transfer may stall
                hive.signal(SIGCONT);
                slept = true;
            }
            Some("complete") => break,
            stage => assert_ne!(stage, Some("error"), "{told}\n{}", hive.log()),
        }
    }
    assert!(slept && attempts <= 2, "one attempt at most was lost: {attempts}");
}
