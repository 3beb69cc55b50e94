//! Workers of all manners are talked to at once.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use rbee_hive::id::{Pgid, Run, Token};
use rbee_hive::kinds::{Busy, Probe, Protocol};
use rbee_hive::lifecycle::event::{Event, ProbeJob, Probed};
use rbee_hive::process::Jobs;
use rbee_hive::process::log::Logs;
use rbee_hive::process::worker_io::{self, Config, Job};
use rbee_hive::thread::Joined;

use crate::support::{PATIENCE, id, kind};

struct Io {
    jobs: Jobs<Job>,
    events: Receiver<Event>,
    thread: Joined,
    logs: tempfile::TempDir,
}

fn io() -> Io {
    let (to_us, events) = crossbeam_channel::unbounded();
    let logs = tempfile::tempdir().unwrap();
    let config = Config { host: "127.0.0.1".parse().unwrap(), logs: Arc::new(Logs::new(logs.path())) };
    let (thread, jobs) = worker_io::start(config, move |event| to_us.send(event).unwrap_or(())).unwrap();
    Io { jobs, events, thread, logs }
}

impl Io {
    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }

    fn probed(&self, job: ProbeJob) -> Probed {
        self.jobs.send(Job::Probe(job));
        match self.next() {
            Event::Probed { probed, .. } => probed,
            other => panic!("{other:?}"),
        }
    }
}

/// A worker that answers each question with the same bytes, then closes; gives its port.
fn worker(answer: &'static [u8]) -> u16 {
    serve(move |mut stream| {
        read_head(&mut stream);
        stream.write_all(answer).unwrap_or(());
    })
}

fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    port
}

fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
        head.push(byte[0]);
    }
    head
}

fn job(port: u16, timeout: Duration, busy: Option<Busy>) -> ProbeJob {
    let probe = Probe { path: "/health".into(), interval: timeout, timeout, busy };
    let pgid = Pgid(rustix::process::getpgrp().as_raw_nonzero().get().cast_unsigned());
    ProbeJob { id: id("w"), run: Run(1), kind: kind(Protocol::Probe(probe)), port, pgid, check_owner: false }
}

fn patient(port: u16) -> ProbeJob {
    job(port, PATIENCE, None)
}

#[test]
fn a_status_says_whether_a_worker_is_ready() {
    let io = io();
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..], Probed::Ready),
        (b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Probed::Ready),
        (b"HTTP/1.1 503 Loading\r\n\r\n", Probed::Loading),
        (b"HTTP/1.1 500 No\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 204 Empty\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 206 Part\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 301 Elsewhere\r\nLocation: /ready\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 401 Who\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 404 Nothing\r\n\r\n", Probed::NotReady),
        (b"HTTP/1.1 429 Later\r\nRetry-After: 1\r\n\r\n", Probed::NotReady),
        // The head says all: the body may be cut, or of any length.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", Probed::Ready),
        (b"HTTP/1.1 503 Loading\r\nContent-Length: 5\r\n\r\nhi", Probed::Loading),
        // Half a head is no answer.
        (b"HTTP/1.1 200 OK\r\nContent-", Probed::NotReady),
        (b"HTTP/1.1 200", Probed::NotReady),
        (b"garbage\r\n\r\n", Probed::NotReady),
        (b"", Probed::NotReady),
    ] {
        assert_eq!(io.probed(patient(worker(answer))), expected, "{}", String::from_utf8_lossy(answer));
    }
    let endless_body = serve(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    assert_eq!(io.probed(patient(endless_body)), Probed::Ready);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(io.probed(patient(nobody)), Probed::Loading);
}

#[test]
fn sixty_four_deaf_workers_do_not_delay_another_nor_the_end() {
    let io = io();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    for _ in 0..64 {
        io.jobs.send(Job::Probe(patient(deaf.local_addr().unwrap().port())));
    }
    let well = worker(b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(io.probed(patient(well)), Probed::Ready);
    drop(io.jobs);
    io.thread.join();
    assert!(io.events.try_recv().is_err());
}

#[test]
fn a_deaf_and_a_trickling_worker_are_given_up_in_time() {
    let io = io();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let short = Duration::from_millis(30);
    assert_eq!(io.probed(job(deaf.local_addr().unwrap().port(), short, None)), Probed::NotReady);
    let endless_head = serve(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        while stream.write_all(b"X: y\r\n").is_ok() {}
    });
    assert_eq!(io.probed(patient(endless_head)), Probed::NotReady);
}

#[test]
fn an_answer_from_somebody_elses_process_is_told_apart() {
    let io = io();
    let port = worker(b"HTTP/1.1 200 OK\r\n\r\n");
    let ours = ProbeJob { check_owner: true, ..patient(port) };
    assert_eq!(io.probed(ours.clone()), Probed::Ready);
    let mut other = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
    let foreign = ProbeJob { pgid: Pgid(other.id()), ..ours };
    assert_eq!(io.probed(foreign), Probed::Foreign);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn running_requests_are_counted_or_unknown() {
    let io = io();
    let slots = || Some(Busy::Count { path: "/slots".into(), field: "busy".into() });
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n[{\"busy\":true}]"[..], Some(1)),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", Some(0)),
        (b"HTTP/1.1 501 No\r\n\r\n[]", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]", None),
    ] {
        io.jobs.send(Job::Count(job(worker(answer), PATIENCE, slots())));
        assert_eq!(io.next(), Event::Counted { id: id("w"), run: Run(1), running: expected });
    }
    let endless = serve(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    });
    io.jobs.send(Job::Count(job(endless, PATIENCE, slots())));
    assert_eq!(io.next(), Event::Counted { id: id("w"), run: Run(1), running: None });
    io.jobs.send(Job::Count(patient(endless)));
    assert_eq!(io.next(), Event::Counted { id: id("w"), run: Run(1), running: None });
}

#[test]
fn a_worker_is_asked_to_exit_with_its_own_token() {
    let io = io();
    let (to_us, heads) = crossbeam_channel::unbounded();
    let port = serve(move |mut stream| {
        to_us.send(String::from_utf8(read_head(&mut stream)).unwrap()).unwrap();
        stream.write_all(b"HTTP/1.1 202 Yes\r\n\r\n").unwrap();
    });
    let ask = |port| {
        let token = Token::parse("secret").unwrap();
        io.jobs.send(Job::AskToExit { id: id("w"), run: Run(1), port, token });
        io.next()
    };
    assert_eq!(ask(port), Event::AskedToExit { id: id("w"), run: Run(1), accepted: true });
    let head = heads.recv().unwrap();
    assert!(head.starts_with("POST /v1/shutdown HTTP/1.1\r\n"));
    assert!(
        head.contains("\r\nAuthorization: Bearer secret\r\n") && head.contains("\r\nContent-Length: 2\r\n")
    );
    let refused = ask(worker(b"HTTP/1.1 401 No\r\n\r\n"));
    assert_eq!(refused, Event::AskedToExit { id: id("w"), run: Run(1), accepted: false });
}

#[test]
fn a_tree_is_measured_with_its_log() {
    let io = io();
    std::fs::write(io.logs.path().join("w.log"), "twelve bytes").unwrap();
    let pgid = patient(0).pgid;
    io.jobs.send(Job::Measure { id: id("w"), run: Run(1), pgid });
    let Event::Measured { usage, .. } = io.next() else { panic!("not measured") };
    assert!(usage.rss_bytes > 100_000 && usage.read_bytes > 0);
    assert_eq!(usage.log_bytes, 12);
}
