//! What the benches share: the real daemon, a kept connection, times in order, and what `/proc` tells.
#![allow(dead_code, reason = "each bench uses a part")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "../../tests/support/mod.rs"]
pub mod daemon;
pub mod nginx;

use daemon::{Hive, PATIENCE};

pub const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");

// ---- A connection ----

/// A connection that is kept from request to request.
pub struct Kept {
    socket: TcpStream,
    token: Option<&'static str>,
    answer: Vec<u8>,
}

impl Kept {
    pub fn connect(address: SocketAddr, token: Option<&'static str>) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, token, answer: Vec::new() }
    }

    pub fn get(&mut self, path: &str) -> (u16, &str) {
        self.ask("GET", path, self.token, "")
    }

    pub fn post(&mut self, path: &str, body: &str) -> (u16, &str) {
        self.ask("POST", path, self.token, body)
    }

    /// Status and body of the answer.
    pub fn ask(&mut self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, &str) {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: hive\r\n{token}Content-Length: {length}\r\n\r\n");
        self.socket.write_all((head + body).as_bytes()).unwrap();
        self.answer.clear();
        let end = loop {
            self.read();
            if let Some(at) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&self.answer[..end]).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().filter_map(|line| line.split_once(": "));
        let length = length.clone().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let whole = end + length.map_or(0, |(_, value)| value.parse::<usize>().unwrap());
        while self.answer.len() < whole {
            self.read();
        }
        (status, std::str::from_utf8(&self.answer[end..whole]).unwrap())
    }

    fn read(&mut self) {
        let mut piece = [0; 16 * 1024];
        let count = self.socket.read(&mut piece).unwrap();
        assert!(count > 0, "the connection was closed");
        self.answer.extend_from_slice(&piece[..count]);
    }
}

// ---- Changes ----

/// The changes of workers, each with the moment at which its event was read.
pub struct Changes(Receiver<(Instant, Value)>);

impl Changes {
    /// From now on. Ends with the daemon.
    pub fn of(hive: &Hive) -> Self {
        let (sender, receiver) = channel();
        let mut events = hive.events();
        // The present picture ends with the event of the hive itself.
        while events.next_event().is_some_and(|(event, _)| event != "hive") {}
        std::thread::spawn(move || {
            while let Some((event, worker)) = events.next_event() {
                if event == "worker" && sender.send((Instant::now(), worker)).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// The next change that is `wanted`; those before it are dropped.
    pub fn find(&self, wanted: impl Fn(&Value) -> bool) -> (Instant, Value) {
        loop {
            let (at, worker) = self.0.recv_timeout(PATIENCE).expect("the change comes");
            if wanted(&worker) {
                return (at, worker);
            }
        }
    }

    /// Waits until the worker is in `state`.
    pub fn state(&self, id: &str, state: &str) -> (Instant, Value) {
        self.find(|worker| worker["worker_id"] == id && worker["state"] == state)
    }
}

// ---- Figures ----

/// Times of the same thing, done again and again.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        let at = self.0.partition_point(|other| *other <= time);
        self.0.insert(at, time);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time in which `percent` of them were done, in milliseconds (nearest rank).
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1].as_secs_f64() * 1000.0
    }

    /// A row: median, p99, worst.
    pub fn row(&self, what: &str, wanted: &str) {
        let [median, p99, worst] = [50, 99, 100].map(|percent| self.percentile_ms(percent));
        println!("{what:<58} {median:>9.3} {p99:>9.3} {worst:>9.3}  n={:<4} {wanted}", self.count());
    }
}

/// The heading of a table of [`Times::row`]s.
pub fn heading(title: &str) {
    println!("\n{title}\n{:<58} {:>9} {:>9} {:>9}", "milliseconds", "median", "p99", "worst");
}

/// A row of one figure.
pub fn figure(what: &str, value: impl std::fmt::Display, unit: &str, wanted: &str) {
    println!("{what:<58} {value:>9} {unit:<8} {wanted}");
}

/// The median of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

// ---- What /proc tells ----

/// A line of a process's `file` under `/proc`, in kibibytes.
pub fn kib(pid: u32, file: &str, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A process and its children.
pub fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// The names of a process's threads, each with how often it went to sleep.
pub fn sleeps(pid: u32) -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let sleeps = tasks.map(|task| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (read("comm").trim().to_owned(), count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    });
    sleeps.collect()
}

/// Processor time that the threads of these processes have had, in nanoseconds.
pub fn cpu_ns(pids: &[u32]) -> u64 {
    let tasks = pids.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).unwrap()).flatten();
    let times = tasks.map(|task| {
        let times = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        times.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    });
    times.sum()
}

/// Where a program is, if it is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin"];
    folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}
