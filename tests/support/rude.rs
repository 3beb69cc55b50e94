//! Clients as no client should be, in numbers; and what they cost the daemon.
#![allow(dead_code, reason = "each user takes a part")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// Who connects waits so long at most: a hive without descriptors lets callers wait.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Threads that connect.
const CALLERS: usize = 4;

/// What a client does that is up to no good.
#[derive(Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    pub clients: usize,
    pub manner: Manner,
}

#[derive(Clone, Copy)]
pub enum Manner {
    /// Sends this, and then nothing, and reads nothing.
    Stall(&'static str),
    /// Sends a request and resets the connection.
    Reset,
    /// Sends so many requests and reads no answer.
    Pipeline(usize),
    /// Sends a request and shuts its side.
    HalfClose,
}

pub const HALF_HEAD: &str = "GET /v1/health HTTP/1.1\r\nHost: hive\r\nX-";
pub const STALLED_BODY: &str =
    "POST /v1/workers/spawn HTTP/1.1\r\nHost: hive\r\nContent-Length: 1000\r\n\r\n{\"model_ref\":";
pub const SLOW_CHUNKS: &str =
    "POST /v1/workers/spawn HTTP/1.1\r\nHost: hive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mo";
pub const STREAM: &str = "GET /v1/events HTTP/1.1\r\nHost: hive\r\n\r\n";
pub const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub const HEALTH: &str = "GET /v1/health HTTP/1.1\r\nHost: hive\r\n\r\n";

impl Attack {
    /// Begins; it goes on until what it gives is dropped.
    pub fn begin(&self, hive: SocketAddr) -> Vec<TcpStream> {
        let held = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for caller in 0..CALLERS.min(self.clients) {
                let held = &held;
                scope.spawn(move || {
                    for _ in (caller..self.clients).step_by(CALLERS) {
                        let client = self.client(hive);
                        held.lock().expect("no caller panics").extend(client);
                    }
                });
            }
        });
        held.into_inner().expect("no caller panics")
    }

    /// One client; `None` if it is over already, or was not let in.
    fn client(&self, hive: SocketAddr) -> Option<TcpStream> {
        let mut client = TcpStream::connect_timeout(&hive, CONNECT_MAX).ok()?;
        match self.manner {
            Manner::Stall(bytes) => client.write_all(bytes.as_bytes()).ok()?,
            Manner::Reset => {
                client.write_all(HEALTH.as_bytes()).ok()?;
                set_socket_linger(&client, Some(Duration::ZERO)).ok()?;
                return None;
            }
            Manner::HalfClose => {
                client.write_all(HEALTH.as_bytes()).ok()?;
                client.shutdown(std::net::Shutdown::Write).ok()?;
            }
            Manner::Pipeline(requests) => {
                // As many as the kernel takes before the hive must wait for a reader.
                client.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
                let batch = HEALTH.repeat(1000);
                for _ in 0..requests / 1000 {
                    if client.write_all(batch.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        }
        Some(client)
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    pub threads: usize,
    pub descriptors: usize,
    /// Anonymous memory.
    pub kib: usize,
}

impl Holds {
    pub fn of(pid: u32) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.trim().parse().ok());
        Self { threads: count("task"), descriptors: count("fd"), kib: kib.unwrap_or(0) }
    }

    /// The most of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
            kib: self.kib.max(other.kib),
        }
    }
}

/// Somebody who asks for the hive's health again and again, and connects anew whenever he is cut off.
pub struct Patient {
    hive: SocketAddr,
    kept: Option<TcpStream>,
    /// How long each answer took, connecting again included.
    pub times: Vec<Duration>,
    /// How often he was cut off, or not answered 200.
    pub cut_off: usize,
}

impl Patient {
    pub fn new(hive: SocketAddr) -> Self {
        Self { hive, kept: None, times: Vec::new(), cut_off: 0 }
    }

    /// Asks until there is an answer, or for half a minute.
    pub fn ask(&mut self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if self.try_once().is_some() {
                break;
            }
            self.kept = None;
            self.cut_off += 1;
        }
        self.times.push(began.elapsed());
    }

    fn try_once(&mut self) -> Option<()> {
        if self.kept.is_none() {
            let stream = TcpStream::connect_timeout(&self.hive, CONNECT_MAX).ok()?;
            stream.set_read_timeout(Some(CONNECT_MAX)).ok()?;
            stream.set_nodelay(true).ok()?;
            self.kept = Some(stream);
        }
        let stream = self.kept.as_mut()?;
        stream.write_all(HEALTH.as_bytes()).ok()?;
        let mut answer = [0; 2048];
        let count = stream.read(&mut answer).ok()?;
        answer[..count].starts_with(b"HTTP/1.1 200 ").then_some(())
    }
}
