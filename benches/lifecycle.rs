//! How long the hive takes from a request, a callback or a death to what others see of it: the real daemon,
//! real processes, loopback. Times include those of the client. `cargo bench --bench lifecycle -- probed kill`
//! prints these parts alone.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbee_hive::api::State;
use rbee_hive::mock::hive::Callback;
use rbee_hive::mock::{hive, queen};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};
use support::daemon::{Builder, Hive, PATIENCE, descendants_of};
use support::{Changes, Kept, MOCK, Times, figure, heading};

const TOKEN: &str = "bench";
/// A native worker that does nothing by itself: the bench speaks for it.
const STILL: &str = r#"{"kind":"still","protocol":"native","program":"/bin/sh",
    "args":["-c","exec sleep 3600"],"backends":["cpu"]}"#;

fn main() {
    let parts: [(&str, fn()); 6] = [
        ("spawn", spawn_answer),
        ("ready", ready_and_change),
        ("probed", probed),
        ("kill", kill_seen),
        ("at_once", at_once),
        ("cascades", cascades),
    ];
    // cargo passes --bench; what else is said names the parts that are wanted.
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    heading("lifecycle: the hive against its own bounds");
    for (_, part) in parts.iter().filter(|(name, _)| only.is_empty() || only.iter().any(|one| one == name)) {
        part();
    }
}

fn builder() -> Builder {
    Hive::builder().token(TOKEN).arg("--restart-limit", 0).arg("--heartbeat-interval", "30s")
}

fn spawn_body(hive: &Hive, kind: &str, faults: &str) -> String {
    let mut body = json!({"model_ref": hive.model_ref(), "kind": kind});
    if !faults.is_empty() {
        body["env"] = json!({ "MOCK_FAULTS": faults });
    }
    body.to_string()
}

/// Asks for a worker; its id.
fn spawn(kept: &mut Kept, body: &str) -> String {
    let (status, answer) = kept.post("/v1/workers/spawn", body);
    assert_eq!(status, 202, "{answer}");
    id_of(answer)
}

fn id_of(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    answer["worker_id"].as_str().unwrap().to_owned()
}

/// Stops a worker by SIGKILL and waits for its end.
fn remove(kept: &mut Kept, changes: &Changes, id: &str) {
    kept.ask("DELETE", &format!("/v1/workers/{id}?force=true"), Some(TOKEN), "");
    changes.state(id, "gone");
}

fn spawn_answer() {
    let hive = builder().start();
    let (mut kept, changes) = (Kept::connect(hive.address, Some(TOKEN)), Changes::of(&hive));
    let body = spawn_body(&hive, "mock", "");
    let (mut answered, mut ready) = (Times::default(), Times::default());
    for _ in 0..200 {
        let began = Instant::now();
        let id = spawn(&mut kept, &body);
        answered.push(began.elapsed());
        ready.push(changes.state(&id, "ready").0 - began);
        remove(&mut kept, &changes, &id);
    }
    answered.row("POST spawn → 202", "wanted: median < 5");
    ready.row("POST spawn → ready event of a mock worker", "");
}

/// One hive with a queen: what a callback changes, as its sender, a follower and the queen see it.
fn ready_and_change() {
    let queen =
        queen::Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), queen::Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let still = folder.path().join("still.json");
    std::fs::write(&still, STILL).unwrap();
    let hive = builder()
        .arg("--kind-file", still.display())
        .arg("--queen-url", format!("http://{}", queen.addr()))
        .start();
    let (mut kept, changes) = (Kept::connect(hive.address, Some(TOKEN)), Changes::of(&hive));
    let mut callback = Kept::connect(hive.address, None);
    let body = spawn_body(&hive, "still", "");
    let [mut answered, mut seen, mut told] = [(); 3].map(|()| Times::default());
    for _ in 0..100 {
        let id = spawn(&mut kept, &body);
        let (_, worker) = changes.find(|worker| worker["worker_id"] == *id && worker["phase"] == "loading");
        let token = token_of(worker["pid"].as_u64().unwrap());
        let heard = |state| {
            let found = queen.heartbeats().find(PATIENCE, |heartbeat| {
                heartbeat
                    .workers
                    .iter()
                    .any(|worker| worker.worker_id.as_str() == id && worker.state == state)
            });
            assert!(found.is_some(), "the queen hears of {state:?}");
        };
        heard(State::Spawning); // what is measured is a change by itself
        let ready = json!({"worker_id": id, "url": worker["url"], "model_ref": worker["model_ref"],
            "backend": "cpu", "device": "cpu"});
        let began = Instant::now();
        let (status, answer) = callback.ask("POST", "/v1/workers/ready", Some(&token), &ready.to_string());
        assert_eq!(status, 200, "{answer}");
        answered.push(began.elapsed());
        heard(State::Ready);
        told.push(began.elapsed());
        seen.push(changes.state(&id, "ready").0 - began);
        remove(&mut kept, &changes, &id);
    }
    answered.row("ready callback → 200, from when on the list shows it", "wanted: median < 5");
    seen.row("ready callback → event read by a follower", "wanted: median < 5");
    told.row("ready callback → heartbeat at the queen", "wanted: < 150");
}

/// A probed kind, asked twice a second once it is ready; its probes may take a minute.
const PROBED: &str = r#"{"kind":"probed","protocol":"probe","program":"MOCK","backends":["cpu"],
    "args":["worker","--protocol","probe","--model","{model_path}","--host","{host}","--port","{port}"],
    "args_allow":["--load-ms"],
    "probe":{"path":"/health","interval":"500ms","timeout":"60s","busy":{"path":"/slots","count":"is_processing"}}}"#;

/// How late the hive sees that a probed worker is ready, and that it is busy; and with 64 others that are deaf.
fn probed() {
    const DEAF: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let kind = folder.path().join("probed.json");
    std::fs::write(&kind, PROBED.replace("MOCK", MOCK)).unwrap();
    let hive = builder().ports(100).arg("--kind-file", kind.display()).start();
    let (mut kept, changes) = (Kept::connect(hive.address, Some(TOKEN)), Changes::of(&hive));
    let [mut ready, mut busy, mut beside_deaf] = [(); 3].map(|()| Times::default());
    for _ in 0..30 {
        let (id, address, late) = ready_late(&hive, &mut kept, &changes);
        ready.push(late);
        let mut work = Kept::connect(address, None);
        let began = Instant::now();
        let working = std::thread::spawn(move || work.post("/v1/completions", r#"{"ms":800}"#).0);
        busy.push(changes.state(&id, "busy").0 - began);
        assert_eq!(working.join().unwrap(), 200);
        remove(&mut kept, &changes, &id);
    }
    for _ in 0..DEAF {
        spawn(&mut kept, &spawn_body(&hive, "probed", "deaf"));
    }
    for _ in 0..DEAF {
        changes.find(|worker| worker["phase"] == "loading");
    }
    for _ in 0..30 {
        let (id, _, late) = ready_late(&hive, &mut kept, &changes);
        beside_deaf.push(late);
        remove(&mut kept, &changes, &id);
    }
    ready.row("the engine's own 200 → ready event (probed)", "wanted: median < 150");
    beside_deaf.row("  the same beside 64 whose probes are never answered", "wanted: median < 150");
    busy.row("last slot taken → busy event (asked every 500 ms)", "wanted: < 600");
}

/// A probed worker that loads for a while, its address, and how long after its first 200 the hive said so.
fn ready_late(hive: &Hive, kept: &mut Kept, changes: &Changes) -> (String, SocketAddr, Duration) {
    let body = json!({"model_ref": hive.model_ref(), "kind": "probed", "extra_args": ["--load-ms", "300"]});
    let id = spawn(kept, &body.to_string());
    let (_, worker) = changes.find(|worker| worker["worker_id"] == *id && worker["phase"] == "loading");
    let address = worker["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < PATIENCE, "the worker listens");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut engine = Kept::connect(address, None);
    while engine.get("/health").0 != 200 {
        // Often enough to know the moment, and not so often that the hive has no processor.
        std::thread::sleep(Duration::from_millis(1));
    }
    let said = Instant::now();
    let seen = changes.state(&id, "ready").0;
    (id, address, seen.saturating_duration_since(said))
}

/// The token of a worker's process.
fn token_of(pid: u64) -> String {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        // Empty in the middle of an exec.
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let token = environ.split(|byte| *byte == 0).find_map(|v| v.strip_prefix(b"RBEE_WORKER_TOKEN="));
        if let Some(token) = token {
            return String::from_utf8(token.to_vec()).unwrap();
        }
    }
    panic!("the worker has no token");
}

fn kill_seen() {
    let hive = builder().start();
    let (mut kept, changes) = (Kept::connect(hive.address, Some(TOKEN)), Changes::of(&hive));
    let body = spawn_body(&hive, "mock", "");
    let [mut listed, mut told, mut bare] = [(); 3].map(|()| Times::default());
    for round in 0..300 {
        let id = spawn(&mut kept, &body);
        let (_, worker) = changes.state(&id, "ready");
        let pid = i32::try_from(worker["pid"].as_u64().unwrap()).unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(kept.get("/v1/workers/list").1.contains("\"state\":\"ready\""));
        let began = Instant::now();
        kill_process(pid, Signal::KILL).unwrap();
        if round % 3 == 0 {
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
            bare.push(began.elapsed());
            told.push(changes.find(|worker| worker["worker_id"] == *id).0 - began);
        } else {
            while kept.get("/v1/workers/list").1.contains("\"state\":\"ready\"") {}
            listed.push(began.elapsed());
        }
        changes.state(&id, "gone");
    }
    listed.row("kill -9 → the list shows it (asked in a loop)", "wanted: median < 5, p99 < 20");
    told.row("kill -9 → event read by a follower", "");
    bare.row("  compared with: kill -9 → the kernel says so (pidfd)", "");
}

/// 64 workers at once, and the same 64 processes without a hive, which call back to a bare desk.
fn at_once() {
    const WORKERS: usize = 64;
    let (mut hived, mut answers, mut bare) = (Times::default(), Times::default(), Times::default());
    for _ in 0..5 {
        let hive = builder().ports(128).start();
        let changes = Changes::of(&hive);
        let body = spawn_body(&hive, "mock", "");
        let connections: Vec<Kept> = (0..WORKERS).map(|_| Kept::connect(hive.address, Some(TOKEN))).collect();
        let began = Instant::now();
        let mut ids: Vec<String> = std::thread::scope(|scope| {
            let body = &body;
            let ask = |mut kept: Kept| scope.spawn(move || spawn(&mut kept, body));
            let asked: Vec<_> = connections.into_iter().map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        answers.push(began.elapsed());
        let mut last = began;
        for _ in 0..WORKERS {
            last = changes.find(|worker| worker["state"] == "ready").0;
        }
        hived.push(last - began);
        let mut ports: Vec<u64> =
            hive.workers().iter().map(|worker| worker["port"].as_u64().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), ports.len()), (WORKERS, WORKERS), "each has its own id and port");
        bare.push(without_a_hive(&hive, WORKERS));
    }
    answers.row("64 spawns at once → all answered", "");
    hived.row("64 spawns at once → all ready", "");
    bare.row("  compared with: 64 bare processes → all have called back", "");
}

fn without_a_hive(hive: &Hive, count: usize) -> Duration {
    let desk = hive::Hive::start(TcpListener::bind("127.0.0.1:0").unwrap(), None, false).unwrap();
    let url = format!("http://{}", desk.addr());
    let began = Instant::now();
    let mut children: Vec<_> = (0..count)
        .map(|n| {
            let mut command = Command::new(MOCK);
            command
                .args(["worker", "--worker-id", &format!("w{n}"), "--model"])
                .arg(hive.models.join("tiny.gguf"));
            command.args(["--model-ref", "file:/m", "--backend", "cpu", "--device", "cpu", "--port", "0"]);
            command
                .args(["--hive-url", &url])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for _ in 0..count {
        let ready = desk.callbacks().find(PATIENCE, |callback| matches!(callback, Callback::Ready(_)));
        assert!(ready.is_some(), "every worker calls");
    }
    let took = began.elapsed();
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    took
}

/// 16 workers, 4 of which ignore everything; some have children of their own.
fn cascades() {
    println!();
    for round in 1..=3 {
        let mut hive = builder().ports(32).arg("--shutdown-timeout", "2s").start();
        let changes = Changes::of(&hive);
        let mut kept = Kept::connect(hive.address, Some(TOKEN));
        for n in 0..16 {
            let faults = match n {
                0..4 => "ignore-term,ignore-shutdown,grandchild",
                4..6 => "grandchild",
                6..8 => "daemon",
                _ => "",
            };
            let id = spawn(&mut kept, &spawn_body(&hive, "mock", faults));
            changes.state(&id, "ready");
        }
        let folder = hive.folder.path().to_owned();
        let before = descendants_of(&folder).len() - 1;
        let began = Instant::now();
        hive.signal(15);
        let status = hive.wait_exit();
        let (took, left) = (began.elapsed(), descendants_of(&folder).len());
        let what = format!("cascade {round}: 16 workers ({before} processes), 4 deaf, grace 2 s");
        figure(&what, format!("{:.3}", took.as_secs_f64()), "s", "wanted: < 2.5 s, code 0, none left");
        figure("  exit code", status.code().map_or("none".into(), |code| code.to_string()), "", "");
        figure("  processes left", left, "", "");
    }
}
