//! The real daemon with real processes: its own port, its own folder, ended with the test.
#![allow(dead_code)] // each test file uses another part

pub mod gguf;
pub mod nvml;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for any step on a loaded machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time without an event after which none will come: longer than any start that a test is told to play.
const SILENCE_MAX: Duration = Duration::from_secs(600);

const HIVE: &str = env!("CARGO_BIN_EXE_rbee-hive");
pub const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");

/// A range of ports that no other test uses at the moment.
pub struct Ports {
    range: RangeInclusive<u16>,
    /// Locked as long as they are in use.
    _file: File,
}

impl Ports {
    pub fn first(&self) -> u16 {
        *self.range.start()
    }
}

/// Claims `count` ports below the ephemeral range, by locking a file: two tests never have the same ones.
pub fn port_range(count: u16) -> Ports {
    let folder = std::env::temp_dir().join("rbee-hive-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    let block = 128;
    assert!(count <= block, "a test takes at most {block} ports");
    for first in (10_000..32_000).step_by(usize::from(block)) {
        let file = File::create(folder.join(first.to_string())).unwrap();
        if file.try_lock().is_ok() {
            return Ports { range: first..=first + count - 1, _file: file };
        }
    }
    panic!("no block of ports is free");
}

/// How a daemon is to be started.
pub struct Builder {
    args: Vec<String>,
    env: Vec<(String, String)>,
    kinds: Vec<Value>,
    ports: u16,
    token: Option<&'static str>,
    descriptors: Option<u64>,
}

impl Builder {
    /// A further kind, by its manifest.
    pub fn kind(mut self, manifest: Value) -> Self {
        self.kinds.push(manifest);
        self
    }

    pub fn arg(mut self, name: &str, value: impl ToString) -> Self {
        self.args.extend([name.to_owned(), value.to_string()]);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn ports(mut self, count: u16) -> Self {
        self.ports = count;
        self
    }

    /// Its limit of descriptors, the hard one too.
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    pub fn token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    pub fn start(self) -> Hive {
        let ports = port_range(self.ports);
        self.start_in(tempfile::tempdir().unwrap(), ports)
    }

    fn start_in(self, folder: TempDir, claimed: Ports) -> Hive {
        let (first, last) = (*claimed.range.start(), *claimed.range.end());
        let models = folder.path().join("models");
        std::fs::create_dir_all(&models).unwrap();
        gguf::TINY.write(&models.join("tiny.gguf"));
        let native = json!({"kind": "mock", "protocol": "native", "program": MOCK,
            "args": ["worker", "--slots", "{parallel}"], "backends": ["cpu"],
            "args_allow": ["--load-ms"]});
        let probed = json!({"kind": "mock-probe", "protocol": "probe", "program": MOCK, "backends": ["cpu"],
            "args": ["worker", "--protocol", "probe", "--model", "{model_path}", "--host", "{host}",
                     "--port", "{port}", "--slots", "{parallel}"],
            "args_allow": ["--load-ms"],
            "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms",
                      "busy": {"path": "/slots", "count": "is_processing"}}});
        let mut command = match self.descriptors {
            None => Command::new(HIVE),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string(), HIVE]);
                shell
            }
        };
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder.path());
        // The GPUs of this machine are none of a test's business.
        command.env("RBEE_HIVE_NVML_LIBRARY", "/nowhere").env("RBEE_HIVE_NVIDIA_SMI", "/nowhere");
        // Nor is the hub, unless a test stands in for it.
        command.env("HF_HUB_OFFLINE", "1");
        command.args(["serve", "--bind", "127.0.0.1:0", "--hive-id", "test"]);
        command.args(["--worker-ports", &format!("{first}-{last}")]);
        command.arg("--data-dir").arg(folder.path().join("data")).arg("--model-dir").arg(&models);
        for (n, kind) in [native, probed].into_iter().chain(self.kinds).enumerate() {
            let file = folder.path().join(format!("kind-{n}.json"));
            std::fs::write(&file, kind.to_string()).unwrap();
            command.arg("--kind-file").arg(file);
        }
        if let Some(token) = self.token {
            command.env("RBEE_HIVE_TOKEN", token);
        }
        command.args(&self.args).envs(self.env);
        // In memory and not on a disk: it has the same name in each hive's list of descriptors.
        let log = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("rbee-hive listening on ").map(str::to_owned);
        let Some(url) = url else {
            let status = child.wait().unwrap();
            panic!("the hive did not start: {status}\n{}", text_of(&log));
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        let ports = first..=last;
        Hive {
            claimed: Some(claimed),
            child,
            url,
            address,
            folder,
            models,
            ports,
            log,
            agent,
            token: self.token,
        }
    }
}

/// A running daemon.
pub struct Hive {
    child: Child,
    pub url: String,
    pub address: SocketAddr,
    pub folder: TempDir,
    pub models: PathBuf,
    /// Its `--worker-ports`.
    pub ports: RangeInclusive<u16>,
    /// Until it is dropped, which is after its workers have ended.
    claimed: Option<Ports>,
    log: File,
    agent: ureq::Agent,
    token: Option<&'static str>,
}

/// An answer of the daemon.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// An answer as it came.
#[derive(Debug)]
pub struct RawReply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Hive {
    pub fn builder() -> Builder {
        let quick = ["--heartbeat-interval", "1s", "--shutdown-timeout", "5s"];
        let args = quick.map(str::to_owned).to_vec();
        Builder { args, env: Vec::new(), kinds: Vec::new(), ports: 8, token: None, descriptors: None }
    }

    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written up to now.
    pub fn log(&self) -> String {
        text_of(&self.log)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Reply {
        let mut builder = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        let own = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let (Some(token), false) = (self.token, own) {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut answer = match body {
            Some(body) => self.agent.run(builder.body(body).unwrap()),
            None => self.agent.run(builder.body(()).unwrap()),
        }
        .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()));
        let text = answer.body_mut().read_to_string().unwrap();
        Reply { status: answer.status().as_u16(), headers: answer.headers().clone(), text }
    }

    /// Sends bytes as they are, and reads until the daemon closes: a head that asks for no other end must
    /// hold `Connection: close`.
    pub fn raw(&self, request: impl AsRef<[u8]>) -> RawReply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_ref()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawReply { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, &[], Some(&body.to_string()))
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, &[], None)
    }

    pub fn model_ref(&self) -> String {
        format!("file:{}", self.models.join("tiny.gguf").display())
    }

    /// Spawns a worker of `kind` with these faults; gives its id.
    pub fn spawn(&self, kind: &str, faults: &str) -> String {
        let mut body = json!({"model_ref": self.model_ref(), "kind": kind});
        if !faults.is_empty() {
            body["env"] = json!({ "MOCK_FAULTS": faults });
        }
        let reply = self.post("/v1/workers/spawn", &body);
        assert_eq!(reply.status, 202, "{}", reply.text);
        reply.json()["worker_id"].as_str().unwrap().to_owned()
    }

    /// The worker as listed, or as it last was.
    pub fn worker(&self, id: &str) -> Value {
        let reply = self.get(&format!("/v1/workers/{id}"));
        match reply.status {
            200 => reply.json(),
            _ => reply.json()["error"]["details"]["last"].clone(),
        }
    }

    pub fn workers(&self) -> Vec<Value> {
        self.get("/v1/workers/list").json()["workers"].as_array().unwrap().clone()
    }

    /// Follows the daemon's events from the present picture on.
    pub fn events(&self) -> Events {
        self.stream("/v1/events", "")
    }

    /// Follows the daemon's events as a follower does that has lost its connection after the event `last`.
    pub fn events_after(&self, last: u64) -> Events {
        self.stream("/v1/events", &format!("Last-Event-ID: {last}\r\n"))
    }

    /// Opens an event stream; `headers` are whole lines.
    pub fn stream(&self, path: &str, headers: &str) -> Events {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let auth = self.token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        // HTTP/1.0: no chunks to take apart.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: hive\r\n{auth}{headers}\r\n").unwrap();
        let mut events = Events { lines: BufReader::new(stream) };
        let status = events.line();
        assert!(status.ends_with(" 200 OK"), "{status}");
        while !events.line().is_empty() {}
        events
    }

    /// What the daemon's events tell of a worker until its end, one word for each step, and the last event.
    /// `events` were opened before the worker was spawned.
    pub fn story(&self, events: &mut Events, id: &str) -> (Vec<String>, Value) {
        let mut words: Vec<String> = Vec::new();
        while let Some((event, worker)) = events.next_event() {
            if event != "worker" || worker["worker_id"] != id {
                continue;
            }
            let word = if worker["phase"] == "backoff" {
                "backoff"
            } else if worker["health"] == "stale" {
                "stale"
            } else {
                worker["state"].as_str().unwrap()
            };
            if words.last().is_none_or(|last| last != word) {
                words.push(word.to_owned());
            }
            if word == "gone" {
                return (words, worker);
            }
        }
        panic!("the events ended after {words:?}\n{}", self.log());
    }

    /// Whether a file of this name lies in the folder of logs.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.folder.path().join("data/logs").join(name)
    }

    /// What this hive has started and what still lives, itself not counted.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = descendants_of(self.folder.path());
        found.retain(|pid| *pid != self.pid());
        found
    }

    /// Waits until the worker is as `wanted` says; gives it.
    pub fn wait(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut events = self.events();
        while let Some((event, worker)) = events.next_event() {
            if event == "worker" && worker["worker_id"] == id && wanted(&worker) {
                return worker;
            }
            // What ended before the picture is told by its last picture only.
            if event == "hive" {
                let last = self.worker(id);
                if wanted(&last) {
                    return last;
                }
            }
        }
        panic!("{id} was never {what}; now {}\n{}", self.worker(id), self.log());
    }

    pub fn wait_state(&self, id: &str, state: &str) -> Value {
        self.wait(id, state, |worker| worker["state"] == state)
    }

    /// Kills the daemon alone, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(9);
        self.wait_exit();
    }

    /// Where the records of its workers are.
    pub fn records(&self) -> Vec<String> {
        let folder = self.folder.path().join("data/workers");
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// What is written down of a worker; empty if nothing is.
    pub fn record(&self, id: &str) -> String {
        let file = self.folder.path().join(format!("data/workers/{id}.json"));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Waits for its end, and starts the next one in its place.
    pub fn restart(mut self, builder: Builder) -> Self {
        self.wait_exit();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let claimed = self.claimed.take().expect("it has its ports");
        builder.start_in(folder, claimed)
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// Waits for the end of the daemon.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the hive does not end\n{}", self.log());
    }
}

impl Drop for Hive {
    fn drop(&mut self) {
        // The second signal and all further ones kill what is left.
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            kill(self.pid(), if Instant::now() < until { 15 } else { 9 });
            std::thread::sleep(Duration::from_millis(5));
        }
        // What a test has orphaned would wait for a next hive.
        if std::thread::panicking() {
            self.processes().into_iter().for_each(|pid| kill(pid, 9));
        }
    }
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<u64>,
    pub name: String,
    pub data: String,
}

/// Server-sent events of a daemon.
pub struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The connection, for who ends it while another one reads.
    pub fn connection(&self) -> TcpStream {
        self.lines.get_ref().try_clone().unwrap()
    }

    /// The next event as it came; `None` at the end of the stream.
    pub fn next_raw(&mut self) -> Option<Event> {
        let mut event = Event { id: None, name: String::new(), data: String::new() };
        let until = Instant::now() + SILENCE_MAX;
        loop {
            // Comments keep the stream open for ever.
            assert!(Instant::now() < until, "no event came");
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => {
                    event.data = data.to_owned();
                    return Some(event);
                }
                _ => {}
            }
        }
    }

    /// The next event with its data; `None` at the end of the stream.
    pub fn next_event(&mut self) -> Option<(String, Value)> {
        let event = self.next_raw()?;
        Some((event.name, serde_json::from_str(&event.data).unwrap()))
    }
}

/// A variable of a process's environment.
pub fn variable(pid: u64, name: &str) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let line =
        environ.split(|b| *b == 0).find_map(|line| line.strip_prefix(format!("{name}=").as_bytes()))?;
    Some(String::from_utf8(line.to_vec()).unwrap())
}

/// The command line of a process that was just launched. Whoever started it goes on in the middle of its exec,
/// when the kernel shows nothing of it yet.
pub fn command_line(pid: u64) -> Vec<String> {
    let shown = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
    eventually("the process is there", || !shown("cmdline").is_empty() && !shown("environ").is_empty());
    let line = shown("cmdline");
    let args = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    args.map(|arg| String::from_utf8(arg.to_vec()).unwrap()).collect()
}

/// Signals one process that the test started, or that its daemon did.
pub fn kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Whether a process lives; zombies do not.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X'])
}

/// Living processes whose environment names this folder: all that a test's daemon has left.
pub fn descendants_of(folder: &Path) -> Vec<u32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.windows(needle.len()).any(|window| window == needle) && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

/// Builds a shared library from a file of this folder.
pub fn build_library(source: &str, library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(source);
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-Wall", "-O1", "-shared", "-fPIC", "-o"]).arg(library).arg(source).arg("-ldl");
    assert!(cc.status().expect("a C compiler").success());
}

/// What is in a file; where whoever writes it goes on is left alone.
fn text_of(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until `done`, or fails.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
