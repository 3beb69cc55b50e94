//! The stand-ins, each alone: a worker process against a hive that only listens, its faults one by one,
//! a queen process and a hub process.

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use rbee_hive::api::{ReportedState, WorkerHeartbeat};
use rbee_hive::id::{Token, WorkerId};
use rbee_hive::mock::hive::{Callback, Hive};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, test_kill_process,
};
use serde_json::{Value, json};

/// Against hanging; no test gets near it.
const LONG: Duration = Duration::from_secs(60);
const SECRET: &str = "s3cret";

/// A `rbee-mock` in a group of its own, which dies with the test.
struct Mock {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
    url: String,
    _model: tempfile::NamedTempFile,
}

fn model(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-mock"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.env_remove("MOCK_FAULTS").env_remove("RBEE_WORKER_TOKEN");
    command
}

impl Mock {
    fn start(mut command: Command, model: tempfile::NamedTempFile) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (_, url) = first.split_once(" listening on ").unwrap();
        Self { url: url.to_owned(), child, lines, log, _model: model }
    }

    fn worker(args: &[&str]) -> Self {
        let model = model(b"GGUF and more");
        let mut command = command(&["worker", "--port", "0", "--model"]);
        command.arg(model.path()).args(args).env("RBEE_WORKER_TOKEN", SECRET);
        Self::start(command, model)
    }

    /// A worker that is probed, so that no hive is needed.
    fn probed(args: &[&str]) -> Self {
        Self::worker(&[&["--protocol", "probe"], args].concat())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn term(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Waits for a line of its log.
    fn logs(&mut self, text: &str) {
        assert!(self.log.any(|line| line.unwrap().contains(text)), "it never says {text:?}");
    }

    fn exits(&mut self) -> ExitStatus {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let timeout = LONG.try_into().unwrap();
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ended, 1, "it does not exit");
        self.child.wait().unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = agent().get(format!("{}{path}", self.url)).call().unwrap();
        (answer.status().as_u16(), answer.into_body().read_to_string().unwrap())
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> (u16, String) {
        let request =
            agent().post(format!("{}{path}", self.url)).header("Authorization", format!("Bearer {token}"));
        let answer = request.send(body.to_string()).unwrap();
        (answer.status().as_u16(), answer.into_body().read_to_string().unwrap())
    }

    /// Asks until `path` answers with `status`.
    fn waits_for(&self, path: &str, status: u16) {
        let deadline = Instant::now() + LONG;
        while self.get(path).0 != status {
            assert!(Instant::now() < deadline, "{path} never answers {status}");
        }
    }

    fn is_reached(&self) -> bool {
        TcpStream::connect(self.url.trim_start_matches("http://")).is_ok()
    }

    /// Processes of its group that live.
    fn group(&self) -> usize {
        let group = self.child.id().to_string();
        processes().iter().filter(|stat| stat.group == group && stat.state != "Z").count()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

struct Stat {
    pid: i32,
    state: String,
    parent: String,
    group: String,
}

fn processes() -> Vec<Stat> {
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
        Some(Stat { pid, state: fields.next()?, parent: fields.next()?, group: fields.next()? })
    };
    std::fs::read_dir("/proc").unwrap().filter_map(stat).collect()
}

fn agent() -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG)).proxy(None);
    config.build().new_agent()
}

fn local() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

fn hive() -> Hive {
    Hive::start(local(), Token::parse(SECRET), false).unwrap()
}

/// A native worker called `w-1` of `hive`.
fn native(hive_url: &str, args: &[&str]) -> Mock {
    let fixed = [
        "--worker-id",
        "w-1",
        "--model-ref",
        "file:m.gguf",
        "--backend",
        "cpu",
        "--device",
        "cpu",
        "--hive-url",
        hive_url,
    ];
    Mock::worker(&[&fixed, args].concat())
}

fn next_beat(hive: &Hive) -> WorkerHeartbeat {
    match hive.callbacks().find(LONG, |callback| matches!(callback, Callback::Heartbeat(_))) {
        Some(Callback::Heartbeat(beat)) => beat,
        _ => panic!("no heartbeat"),
    }
}

#[test]
fn a_native_worker_says_that_it_is_ready_and_that_it_lives() {
    let hive = hive();
    let mut worker = native(&format!("http://{}", hive.addr()), &["--heartbeat-interval", "100ms"]);
    let Some(Callback::Ready(ready)) = hive.callbacks().next(LONG) else { panic!("not ready first") };
    assert_eq!(
        (ready.url.as_str(), ready.model_ref.as_str(), ready.slots_total),
        (worker.url.as_str(), "file:m.gguf", Some(1))
    );
    for _ in 0..3 {
        let beat = next_beat(&hive);
        assert_eq!((beat.state, beat.slots_available), (Some(ReportedState::Ready), Some(1)));
    }
    assert_eq!(hive.count(&"w-1".parse::<WorkerId>().unwrap()).ready, 1);
    assert_eq!(worker.get("/health").0, 200);
    worker.term();
    assert_eq!(worker.exits().code(), Some(0));
}

#[test]
fn a_hive_that_is_not_there_yet_is_called_until_it_is() {
    let listener = local();
    let addr = listener.local_addr().unwrap();
    let _worker = native(&format!("http://{addr}"), &[]);
    // The first call is answered 503, as by a hive that starts.
    let (mut early, _) = listener.accept().unwrap();
    early.read_exact(&mut [0]).unwrap();
    let _ = early.write_all(b"HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    drop(early);
    let hive = Hive::start(listener, Token::parse(SECRET), false).unwrap();
    assert!(matches!(hive.callbacks().next(LONG), Some(Callback::Ready(_))));
}

#[test]
fn work_holds_the_slot_and_the_hive_hears_of_it_at_once() {
    let hive = hive();
    // An interval that no test waits for: what comes, comes for the change.
    let worker = native(&format!("http://{}", hive.addr()), &["--heartbeat-interval", "1h"]);
    assert_eq!(next_beat(&hive).state, Some(ReportedState::Ready));
    std::thread::scope(|scope| {
        let work =
            scope.spawn(|| worker.post("/v1/completions", "", &json!({"prompt": "one two", "ms": 3000})));
        let busy = next_beat(&hive);
        assert_eq!((busy.state, busy.slots_available), (Some(ReportedState::Busy), Some(0)));
        assert_eq!(worker.post("/v1/completions", "", &json!({})).0, 503);
        assert_eq!(worker.get("/health").0, 200, "busy is not ill");
        assert_eq!(worker.get("/slots").1, r#"[{"id":0,"is_processing":true}]"#);
        assert!(worker.get("/metrics").1.contains("\nmock:requests_running 1\n"));
        assert_eq!(work.join().unwrap(), (200, r#"{"text":"two one","words":2}"#.into()));
    });
    assert_eq!(next_beat(&hive).state, Some(ReportedState::Ready));
}

#[test]
fn a_probed_worker_is_loading_until_it_is_ready() {
    let worker = Mock::probed(&["--load-ms", "1500", "--slots", "2"]);
    assert_eq!(worker.get("/health").0, 503);
    worker.waits_for("/health", 200);
    assert_eq!(worker.get("/slots").1, r#"[{"id":0,"is_processing":false},{"id":1,"is_processing":false}]"#);
}

#[test]
fn only_its_own_token_shuts_a_worker_down() {
    let mut worker = Mock::probed(&[]);
    assert_eq!(worker.post("/v1/shutdown", "wrong", &json!({})).0, 401);
    assert_eq!(worker.post("/v1/shutdown", SECRET, &json!({})).0, 200);
    assert_eq!(worker.exits().code(), Some(0));
}

#[test]
fn what_is_no_model_is_refused_with_a_reason() {
    for (content, reason) in [(&b"GG"[..], "too short"), (b"<html>", "does not begin with GGUF")] {
        let model = model(content);
        let mut command = command(&["worker", "--protocol", "probe", "--port", "0", "--model"]);
        let output = command.arg(model.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("error: ") && said.contains(reason) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn usage_errors_are_2_and_help_is_0_on_every_level() {
    for (args, code) in [
        (&["--help"][..], 0),
        (&["-V"], 0),
        (&["worker", "--help"], 0),
        (&["queen", "-h"], 0),
        (&["hive", "--help"], 0),
        (&[], 2),
        (&["drone"], 2),
        (&["--what"], 2),
        (&["worker"], 2),
        (&["queen", "--fault", "sulk"], 2),
        (&["hive", "x"], 2),
    ] {
        assert_eq!(command(args).output().unwrap().status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn fault_crash_at_start_comes_from_the_environment_too() {
    let native =
        "--worker-id w --model none --model-ref r --backend cpu --device cpu --port 0 --hive-url http://h";
    for args in ["worker --protocol probe --port 0 --model none", native] {
        let args: Vec<_> = args.split(' ').collect();
        let output = command(&args).env("MOCK_FAULTS", "crash-at-start=42").output().unwrap();
        assert_eq!(output.status.code(), Some(42), "{args:?}");
    }
}

#[test]
fn fault_crash_after_is_a_signal_and_exit_after_is_not() {
    assert_eq!(Mock::probed(&["--fault", "crash-after=10ms"]).exits().signal(), Some(6));
    assert_eq!(Mock::probed(&["--fault", "exit-after=10ms"]).exits().code(), Some(0));
}

#[test]
fn fault_ignore_term_leaves_shutdown() {
    let mut worker = Mock::probed(&["--fault", "ignore-term"]);
    worker.term();
    worker.logs("ignoring SIGTERM");
    assert_eq!(worker.post("/v1/shutdown", SECRET, &json!({})).0, 200);
    assert_eq!(worker.exits().code(), Some(0));
}

#[test]
fn fault_ignore_shutdown_leaves_sigterm() {
    let mut worker = Mock::probed(&["--fault", "ignore-shutdown"]);
    assert_eq!(worker.post("/v1/shutdown", SECRET, &json!({})).0, 200);
    assert_eq!(worker.get("/health").0, 200, "still there");
    worker.term();
    assert_eq!(worker.exits().code(), Some(0));
}

#[test]
fn fault_unready_health_is_500_and_never_ready_is_503() {
    assert_eq!(Mock::probed(&["--fault", "unready-health"]).get("/health").0, 500);
    let worker = Mock::probed(&["--fault", "never-ready"]);
    assert_eq!(worker.get("/health").0, 503);
    assert_eq!(worker.post("/v1/completions", "", &json!({})).0, 503);
}

#[test]
fn fault_silent_is_one_heartbeat() {
    let hive = hive();
    let worker =
        native(&format!("http://{}", hive.addr()), &["--heartbeat-interval", "100ms", "--fault", "silent"]);
    next_beat(&hive);
    // Work would make another one.
    assert_eq!(worker.post("/v1/completions", "", &json!({"ms": 1})).0, 200);
    assert_eq!(hive.count(&"w-1".parse::<WorkerId>().unwrap()).heartbeats, 1);
}

#[test]
fn fault_deaf_accepts_and_says_nothing() {
    let mut worker = Mock::probed(&["--fault", "deaf"]);
    let mut stream = TcpStream::connect(worker.url.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n").unwrap();
    worker.term();
    assert_eq!(worker.exits().code(), Some(0));
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert_eq!(said, b"");
}

#[test]
fn fault_slow_exit_serves_on_for_a_while() {
    let mut worker = Mock::probed(&["--fault", "slow-exit=1h"]);
    worker.term();
    worker.logs("exiting on=SIGTERM");
    assert_eq!(worker.get("/health").0, 200);
    let mut worker = Mock::probed(&["--fault", "slow-exit=10ms"]);
    worker.term();
    assert_eq!(worker.exits().code(), Some(0));
}

#[test]
fn fault_grandchild_outlives_sigterm_to_the_group() {
    let mut worker = Mock::probed(&["--fault", "grandchild"]);
    assert_eq!(worker.group(), 2);
    kill_process_group(worker.pid(), Signal::TERM).unwrap();
    assert_eq!(worker.exits().code(), Some(0));
    assert_eq!(worker.group(), 1);
}

#[test]
fn fault_daemon_is_in_another_group() {
    let worker = Mock::probed(&["--fault", "daemon"]);
    assert_eq!(worker.group(), 1);
    let parent = worker.child.id().to_string();
    let daemon = processes().into_iter().find(|stat| stat.parent == parent).unwrap();
    assert_eq!(daemon.group, daemon.pid.to_string());
    let daemon = Pid::from_raw(daemon.pid).unwrap();
    assert!(test_kill_process(daemon).is_ok());
    kill_process(daemon, Signal::KILL).unwrap();
}

#[test]
fn fault_hold_port_keeps_the_port_after_the_exit() {
    let mut worker = Mock::probed(&["--fault", "hold-port"]);
    worker.term();
    assert_eq!(worker.exits().code(), Some(0));
    assert!(worker.is_reached(), "somebody still listens");
}

#[test]
fn fault_flood_fills_the_log() {
    let model = model(b"GGUF");
    let mut command = command(&[
        "worker",
        "--protocol",
        "probe",
        "--port",
        "0",
        "--fault",
        "flood=1000",
        "--fault",
        "exit-after=0s",
    ]);
    let output = command.arg("--model").arg(model.path()).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().lines().count() >= 1000);
}

#[test]
fn a_queen_process_prints_each_heartbeat_and_keeps_the_last() {
    let mut queen = Mock::start(command(&["queen", "--bind", "127.0.0.1:0", "--token", SECRET]), model(b""));
    let beat = |sequence: u64| {
        json!({"hive_id": "h", "timestamp": "2026-01-01T00:00:00.000Z", "status": "ready", "url": "http://h:1",
            "version": "0", "boot_id": "b", "sequence": sequence, "workers": [{"worker_id": "w-1", "state": "busy",
            "health_status": "healthy", "last_heartbeat": null, "url": "http://h:2", "model_ref": "hf:o/r",
            "backend": "cpu", "device": "cpu", "slots_total": 2, "slots_available": 0, "pid": 7, "restart_count": 0}]})
    };
    assert_eq!(queen.post("/heartbeat", "wrong", &beat(1)).0, 401);
    assert_eq!(queen.post("/heartbeat", SECRET, &json!({"hive_id": 1})).0, 400);
    for sequence in [1, 3, 2] {
        assert_eq!(queen.post("/heartbeat", SECRET, &beat(sequence)).0, 200);
    }
    let mut line = || queen.lines.next().unwrap().unwrap();
    assert_eq!(
        line(),
        "heartbeat hive=h status=ready boot=b seq=1 url=http://h:1 workers=1 [w-1 busy cpu hf:o/r 0/2 http://h:2]"
    );
    assert!(line().contains(" seq=3 url="));
    assert!(line().contains(" seq=2 ignored url="));
    let request =
        agent().get(format!("{}/hives", queen.url)).header("Authorization", format!("Bearer {SECRET}"));
    let hives: Value =
        serde_json::from_str(&request.call().unwrap().into_body().read_to_string().unwrap()).unwrap();
    assert_eq!(hives["hives"][0], beat(3));
    queen.term();
    assert_eq!(queen.exits().code(), Some(0));
}

#[test]
fn a_queens_faults_are_seen_from_outside() {
    let queen =
        |fault: &str| Mock::start(command(&["queen", "--bind", "127.0.0.1:0", "--fault", fault]), model(b""));
    let heartbeat = json!({"hive_id": "h", "timestamp": "", "status": "ready", "url": "http://h:1", "version": "",
        "boot_id": "b", "sequence": 1, "workers": []});
    assert_eq!(queen("status=503").post("/heartbeat", "", &heartbeat).0, 503);
    for fault in ["garbage", "reset"] {
        let queen = queen(fault);
        assert!(
            agent().post(format!("{}/heartbeat", queen.url)).send(heartbeat.to_string()).is_err(),
            "{fault}"
        );
    }
    let queen = queen("hang");
    let url = format!("{}/heartbeat", queen.url);
    let (done, answer) = bounded(1);
    std::thread::spawn(move || done.send(agent().post(url).send("{}").is_err()));
    queen.term();
    assert_eq!(answer.recv_timeout(LONG), Ok(true), "it hangs until she ends");
}

#[test]
fn a_hive_process_counts_what_its_workers_say() {
    let mut hive = Mock::start(command(&["hive", "--bind", "127.0.0.1:0"]), model(b""));
    let _worker = native(&hive.url, &["--heartbeat-interval", "100ms"]);
    let mut line = || hive.lines.next().unwrap().unwrap();
    assert!(line().starts_with("ready worker=w-1 n=1 url=\"http://127.0.0.1:"));
    assert_eq!(line(), "heartbeat worker=w-1 n=1 health=Healthy state=ready slots=1/1");
    assert_eq!(line(), "heartbeat worker=w-1 n=2 health=Healthy state=ready slots=1/1");
}

#[test]
fn a_hub_process_serves_folders_and_prints_each_request() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("o/r")).unwrap();
    std::fs::write(folder.path().join("o/r/m.gguf"), b"GGUF").unwrap();
    let mut command = command(&["hub", "--bind", "127.0.0.1:0", "--token", SECRET, "--fault", "cut=2*1"]);
    command.arg(folder.path());
    let mut hub = Mock::start(command, model(b""));
    let ask = |token: &str| {
        let url = format!("{}/o/r/resolve/main/m.gguf", hub.url);
        let answer = agent().get(url).header("Authorization", format!("Bearer {token}")).call().unwrap();
        (answer.status().as_u16(), answer.into_body().read_to_string())
    };
    assert_eq!(ask("wrong").0, 401);
    assert!(ask(SECRET).1.is_err(), "it is cut");
    let (status, body) = ask(SECRET);
    assert_eq!((status, body.unwrap().as_str()), (200, "GGUF"));
    // A line is printed when its request has ended, which another thread's may do meanwhile.
    for (begin, end) in [
        (r#"hub "GET" "/o/r/resolve/main/m.gguf" status=401 "#, " token=yes"),
        (r#"cdn "GET" "/o/r/"#, " status=200 sent=2 token=no"),
        (r#"cdn "GET" "/o/r/"#, " status=200 sent=4 token=no"),
    ] {
        let is_it = |line: &str| line.starts_with(begin) && line.ends_with(end);
        assert!(hub.lines.any(|line| is_it(&line.unwrap())), "{begin} {end}");
    }
    hub.term();
    assert_eq!(hub.exits().code(), Some(0));
}
