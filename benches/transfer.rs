//! How fast a gibibyte comes over loopback, what it costs, and how others do the same: the real daemon, which
//! verifies and syncs what it fetches, beside `curl -o`, which does neither, `aria2c` and `hf_hub_download`.
//! The hub is a process of its own, and each time is one of a fresh process with nothing on its disk.
//!
//! `RBEE_PYTHON` is a python that has `huggingface_hub`; `RBEE_BENCH_MIB` and `RBEE_BENCH_ROUNDS` are what they
//! say, `RBEE_BENCH_FOLDER` is where the files lie. A peer that is not installed is said to be missing.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use support::daemon::{Hive, kill};
use support::{MOCK, installed, kib, median};
use tempfile::TempDir;

/// Bytes a second of each connection to the slow hub.
const CAP: u64 = 20_000_000;

fn main() {
    let setup = Setup::new();
    let hub = Hub::start(&setup.repositories, None);
    let slow = Hub::start(&setup.repositories, Some(CAP));
    let peers = Peers::find();

    let mut fast = vec![Contender::new("rbee-hive, verified", |to| hive(&hub.url, to, setup.bytes))];
    if let Some(curl) = &peers.curl {
        fast.push(Contender::new("curl -o", |to| run(curl_of(curl, &hub.url, to))));
    }
    if let (Some(curl), Some((sum, args))) = (&peers.curl, &peers.sha256) {
        let name = format!("curl -o, then {}", sum.file_name().unwrap().display());
        fast.push(Contender::new(&name, |to| {
            let fetched = run(curl_of(curl, &hub.url, to));
            let mut command = Command::new(sum.as_path());
            command.args(*args).arg(to.join("m.gguf"));
            fetched.then(&run(command))
        }));
    }
    if let Some(aria2c) = &peers.aria2c {
        fast.push(Contender::new("aria2c -x8 -s8", |to| run(aria2c_of(aria2c, &hub.url, to))));
    }
    if let Some(python) = &peers.python {
        fast.push(Contender::new("hf_hub_download", |to| hf_hub_download(python, &hub.url, to)));
    }
    let wanted =
        "at least 0.9 × curl -o and 2 × hf_hub_download, no more CPU than curl and the SHA-256, below 24 MiB";
    table("one hub, as fast as it can", wanted, &setup, fast);

    let mut capped = vec![Contender::new("rbee-hive, verified", |to| hive(&slow.url, to, setup.bytes))];
    if let Some(aria2c) = &peers.aria2c {
        capped.push(Contender::new("aria2c -x8 -s8", |to| run(aria2c_of(aria2c, &slow.url, to))));
    }
    let title = format!("each connection capped at {} MB/s", CAP / 1_000_000);
    table(&title, "at least 0.95 × aria2c -x8, below 24 MiB", &setup, capped);
    println!("\nload after: {}", load());
}

// ---- The table ----

/// Who fetches the file into an empty folder.
struct Contender<'a> {
    name: String,
    fetch: Box<dyn Fn(&Path) -> Cost + 'a>,
}

impl<'a> Contender<'a> {
    fn new(name: &str, fetch: impl Fn(&Path) -> Cost + 'a) -> Self {
        Self { name: name.to_owned(), fetch: Box::new(fetch) }
    }
}

/// What it took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

impl Cost {
    fn then(&self, next: &Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            cpu_seconds: self.cpu_seconds + next.cpu_seconds,
            peak_mib: self.peak_mib.max(next.peak_mib),
        }
    }
}

/// Each in turn, round after round, a different one first; medians, and ratios to the first within a round.
fn table(title: &str, wanted: &str, setup: &Setup, contenders: Vec<Contender>) {
    let mut costs = vec![Vec::new(); contenders.len()];
    for round in 0..setup.rounds {
        for turn in 0..contenders.len() {
            let who = (round + turn) % contenders.len();
            let to = TempDir::new_in(setup.folder.path()).unwrap();
            costs[who].push((contenders[who].fetch)(to.path()));
        }
    }
    println!("\n{title}: {} MiB, medians of {} rounds in turn", setup.bytes >> 20, setup.rounds);
    println!("wanted of the hive: {wanted}");
    println!(
        "{:<32} {:>8} {:>7} {:>7} {:>7} {:>9} {:>14} {:>13}",
        "", "seconds", "best", "GB/s", "CPU s", "peak MiB", "hive's speed ×", "hive's CPU ×"
    );
    for (contender, own) in contenders.iter().zip(&costs) {
        let of = |figure: fn(&Cost) -> f64| median(own.iter().map(figure).collect());
        let ratio = |figure: fn(&Cost, &Cost) -> f64| {
            median(own.iter().zip(&costs[0]).map(|(own, hive)| figure(own, hive)).collect())
        };
        println!(
            "{:<32} {:>8.2} {:>7.2} {:>7.2} {:>7.2} {:>9.1} {:>14.2} {:>13.2}",
            contender.name,
            of(|cost| cost.seconds),
            own.iter().map(|cost| cost.seconds).fold(f64::INFINITY, f64::min),
            setup.bytes as f64 / 1e9 / of(|cost| cost.seconds),
            of(|cost| cost.cpu_seconds),
            of(|cost| cost.peak_mib),
            ratio(|own, hive| own.seconds / hive.seconds),
            ratio(|own, hive| hive.cpu_seconds / own.cpu_seconds),
        );
    }
}

// ---- What is fetched ----

struct Setup {
    folder: TempDir,
    repositories: PathBuf,
    bytes: u64,
    rounds: usize,
}

impl Setup {
    fn new() -> Self {
        let number =
            |name: &str, default| std::env::var(name).map_or(default, |text| text.parse::<usize>().unwrap());
        let mib = number("RBEE_BENCH_MIB", 1024);
        let rounds = number("RBEE_BENCH_ROUNDS", 5);
        let folder = match std::env::var_os("RBEE_BENCH_FOLDER") {
            Some(folder) => TempDir::new_in(folder).unwrap(),
            None => TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap(),
        };
        let repositories = folder.path().join("hub");
        let file = repositories.join("bench/one/m.gguf");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        write_noise(&file, mib);
        println!("transfer: a file of {mib} MiB over loopback");
        println!("files in {}: {}", folder.path().display(), file_system(folder.path()));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("{cores} cores, shared by the hub and whoever fetches; load before: {}", load());
        Self { folder, repositories, bytes: (mib as u64) << 20, rounds }
    }
}

/// Bytes that nobody can guess, so that nobody compresses them.
fn write_noise(path: &Path, mib: usize) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            // xorshift64: Marsaglia, 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
}

/// How busy the machine was in the last 1, 5 and 15 minutes.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The kind of file system that a folder is on: the longest mount point above it.
fn file_system(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.len());
    above.map_or("unknown", |(_, kind)| kind).to_owned()
}

/// The hub's process.
struct Hub {
    child: Child,
    url: String,
}

impl Hub {
    fn start(folder: &Path, rate: Option<u64>) -> Self {
        let mut command = Command::new(MOCK);
        command.args(["hub", "--bind", "127.0.0.1:0"]).arg(folder);
        if let Some(rate) = rate {
            command.arg("--rate").arg(rate.to_string());
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // Nobody reads what it prints later, and it does not mind.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("hub listening on ").unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        kill(self.child.id(), 15);
        let _ = self.child.wait();
    }
}

// ---- Who fetches ----

/// From the request to the event that says it is there: found on the hub, fetched, verified, synced, named.
fn hive(endpoint: &str, to: &Path, bytes: u64) -> Cost {
    let hive = Hive::builder().arg("--model-dir", to.display());
    let hive = hive.env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", "0").start();
    let cpu_before = cpu_seconds(hive.pid());
    let began = Instant::now();
    let reply = hive.post("/v1/models/download", &json!({ "model_ref": "hf:bench/one" }));
    assert_eq!(reply.status, 202, "{}\n{}", reply.text, hive.log());
    let id = reply.json()["download_id"].as_str().unwrap().to_owned();
    let mut events = hive.stream(&format!("/v1/models/download/progress?id={id}"), "");
    let path = loop {
        let event = events.next_raw().expect("the stream says how it ended");
        let event: Value = serde_json::from_str(&event.data).unwrap();
        match event["stage"].as_str() {
            Some("complete") => break event["local_path"].as_str().unwrap().to_owned(),
            Some("error") => panic!("{event}\n{}", hive.log()),
            _ => {}
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(hive.pid()) - cpu_before;
    let peak_mib = kib(hive.pid(), "status", "VmHWM") as f64 / 1024.0;
    assert_eq!(std::fs::metadata(path).unwrap().len(), bytes);
    Cost { seconds, cpu_seconds, peak_mib }
}

/// Where the others are.
struct Peers {
    curl: Option<PathBuf>,
    /// With its arguments: the fastest there is.
    sha256: Option<(PathBuf, &'static [&'static str])>,
    aria2c: Option<PathBuf>,
    python: Option<PathBuf>,
}

impl Peers {
    fn find() -> Self {
        let missing =
            |what: &str| println!("MISSING: {what} is not installed, so that it is not compared with");
        let look = |program: &str| {
            let found = installed(program);
            match &found {
                Some(path) => println!("{}", version(Command::new(path).arg("--version"))),
                None => missing(program),
            }
            found
        };
        let (curl, aria2c) = (look("curl"), look("aria2c"));
        let openssl = installed("openssl").map(|path| (path, ["dgst", "-sha256"].as_slice()));
        let sha256 = openssl.or_else(|| Some((installed("sha256sum")?, [].as_slice())));
        if sha256.is_none() {
            missing("openssl or sha256sum");
        }
        let python = std::env::var_os("RBEE_PYTHON").map(PathBuf::from);
        match &python {
            Some(python) => {
                let say = "import huggingface_hub as h; print('huggingface_hub', h.__version__)";
                println!("{}", version(Command::new(python).args(["-c", say])));
            }
            None => missing("huggingface_hub (RBEE_PYTHON is not set)"),
        }
        Self { curl, sha256, aria2c, python }
    }
}

fn version(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

fn url(endpoint: &str) -> String {
    format!("{endpoint}/bench/one/resolve/main/m.gguf")
}

fn curl_of(curl: &Path, endpoint: &str, to: &Path) -> Command {
    let mut command = Command::new(curl);
    command.args(["-q", "-sSfL", "-o"]).arg(to.join("m.gguf")).arg(url(endpoint));
    command
}

fn aria2c_of(aria2c: &Path, endpoint: &str, to: &Path) -> Command {
    let mut command = Command::new(aria2c);
    command.args(["--no-conf", "-q", "-x8", "-s8", "--file-allocation=none", "-o", "m.gguf", "-d"]);
    command.arg(to).arg(url(endpoint));
    command
}

/// The time is that of the call: neither python's start nor its imports count.
fn hf_hub_download(python: &Path, endpoint: &str, to: &Path) -> Cost {
    let code = "import time, huggingface_hub as h; t, c = time.monotonic(), time.process_time(); \
                h.hf_hub_download('bench/one', 'm.gguf'); \
                print(time.monotonic() - t, time.process_time() - c)";
    let mut command = Command::new(python);
    command.args(["-c", code]).env("HF_ENDPOINT", endpoint).env("HF_HOME", to).env("HF_HUB_CACHE", to);
    command.env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
    command.env("HF_HUB_DISABLE_TELEMETRY", "1").env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
    let (cost, said) = run_and_hear(command);
    let mut figures = said.split_whitespace().map(|figure| figure.parse::<f64>().unwrap());
    let (seconds, cpu_seconds) = (figures.next().unwrap(), figures.next().unwrap());
    Cost { seconds, cpu_seconds, ..cost }
}

fn run(command: Command) -> Cost {
    run_and_hear(command).0
}

/// Runs a program to its end; what it cost, and the little that it said.
fn run_and_hear(mut command: Command) -> (Cost, String) {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    // Its peak is gone when it has ended, and is looked at until then.
    let (look, mut peak) = (Duration::from_millis(10).try_into().unwrap(), 0);
    while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&look)).unwrap() == 0 {
        peak = kib(child.id(), "status", "VmHWM").max(peak);
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(child.id());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?} failed");
    (Cost { seconds, cpu_seconds, peak_mib: peak as f64 / 1024.0 }, said)
}

/// Processor time of a process and of its threads, ended ones too; also of one that was not waited for yet.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc(5): utime and stime are the 14th and 15th field, the name is the second.
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
