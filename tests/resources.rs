//! What connections cost: threads, memory, descriptors. One after the other: all of it is the process's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/wire.rs"]
mod wire;

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rbee_hive::http::{Options, Ticket};
use rbee_hive::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wire::{Client, Rig, options, text};

static PROCESS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads of the server; the test harness has its own.
fn server_threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().map(|task| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default() // it may just have ended
    });
    names.filter(|name| name.starts_with("http-") || name.starts_with("request-")).count()
}

/// Anonymous memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Few descriptors, until it is dropped.
struct Scarce(Rlimit);

impl Scarce {
    /// As many more as `spare` can be opened.
    fn descriptors(spare: usize) -> Self {
        let usual = getrlimit(Resource::Nofile);
        // The limit is one on their numbers; the lowest free one is given first.
        let is_open = |n: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{n}")).is_ok();
        let last = (0..).filter(|n| !is_open(n)).nth(spare - 1);
        let current = last.map(|n| n + 1);
        setrlimit(Resource::Nofile, Rlimit { current, maximum: usual.maximum }).unwrap();
        Self(usual)
    }
}

impl Drop for Scarce {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

/// A connection that has had an answer and is kept.
fn kept(rig: &Rig) -> Client {
    let mut client = rig.connect();
    client.get("/echo");
    assert_eq!(client.reply().status, 200);
    client
}

/// Returns once no more than so many connections are left at the server.
fn until_open(rig: &Rig, connections: usize) {
    while rig.server.connections() > connections {
        std::thread::yield_now();
    }
}

#[test]
fn threads_do_not_grow_with_connections_requests_or_streams() {
    let _alone = alone();
    let rig = Rig::start();
    let mut clients: Vec<_> = (0..300).map(|_| rig.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        match n % 3 {
            0 => client.get("/park"),
            1 => client.get("/events"),
            _ => client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"),
        }
    }
    let tickets: Vec<Ticket> = (0..100).map(|_| rig.parked()).collect();
    (0..100).for_each(|_| drop(rig.feed()));
    assert_eq!(server_threads(), limits::EVENT_LOOPS + options().threads + 1, "one is for quick requests");
    drop(tickets);
}

#[test]
fn an_idle_connection_costs_less_than_a_kibibyte() {
    const CONNECTIONS: usize = 400;
    let _alone = alone();
    let rig = Rig::start();
    drop((0..8).map(|_| kept(&rig)).collect::<Vec<_>>()); // what is allocated once
    let before = resident_bytes();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| kept(&rig).socket).collect();
    let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
    assert!(each < 1024, "{each} bytes each");
    drop(clients);
}

#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let _alone = alone();
    let rig = Rig::start();
    let before = resident_bytes();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let client = rig.connect();
            client.socket.set_nonblocking(true).unwrap();
            // As many requests as the kernel takes: without a bound their answers would take gigabytes.
            let requests = "GET /big?100000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
            let mut socket = &client.socket;
            while std::io::Write::write(&mut socket, requests.as_bytes()).is_ok() {}
            client
        })
        .collect();
    assert_eq!(rig.get("/thread").status, 200);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    drop(clients);
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let _alone = alone();
    let rig = Rig::with(Options { max_connections: 60_000, ..options() });
    let address = rig.server.local_addr();

    // Idle connections make room: with three descriptors left, every caller is answered.
    let idle: Vec<_> = (0..10).map(|_| kept(&rig)).collect();
    let scarce = Scarce::descriptors(3);
    for _ in 0..30 {
        kept(&rig);
    }
    drop((scarce, idle));

    // Busy ones do not: who cannot be accepted waits until a descriptor is free.
    let mut busy: Vec<_> = (0..10).map(|_| rig.connect()).collect();
    busy.iter_mut().for_each(|client| client.get("/park"));
    let mut tickets: Vec<Ticket> = busy.iter().map(|_| rig.parked()).collect();
    until_open(&rig, busy.len());
    let scarce = Scarce::descriptors(4);
    let callers: Vec<TcpStream> = std::iter::from_fn(|| TcpStream::connect(address).ok()).take(10).collect();
    assert!(!callers.is_empty());
    while let Some(ticket) = tickets.pop() {
        ticket.answer(text("done".into()));
    }
    assert!(busy.iter_mut().all(|client| client.reply().body == "done"));
    drop((busy, callers, scarce));
    assert_eq!(rig.get("/thread").status, 200);
}

#[test]
fn the_last_descriptor_is_taken_at_nobodys_expense() {
    let _alone = alone();
    let rig = Rig::with(Options { max_connections: 60_000, ..options() });
    for _ in 0..20 {
        let mut clients: Vec<_> = (0..6).map(|_| kept(&rig)).collect();
        until_open(&rig, clients.len()); // those of the last round are closed
        let _scarce = Scarce::descriptors(2);
        clients.push(kept(&rig));
        for client in &mut clients {
            client.get("/echo");
            assert_eq!(client.reply().status, 200);
        }
    }
}
