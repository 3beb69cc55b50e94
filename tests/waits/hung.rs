//! A disk that hangs: every request has its answer in time, what needs no disk goes on, and the hive can end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use rbee_hive::limits::QUEUE_MAX;

use crate::support;
use support::{Hive, PATIENCE, build_library, eventually, is_alive};

const THREADS: usize = 2;

/// A disk that hangs while a file is there.
struct Disk {
    folder: tempfile::TempDir,
    hangs: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        build_library("hang_stub.c", &folder.path().join("hang_stub.so"));
        let hangs = folder.path().join("hangs");
        Self { folder, hangs }
    }

    fn hive(&self) -> Hive {
        let library = self.folder.path().join("hang_stub.so");
        Hive::builder()
            .arg("--threads", THREADS)
            .env("LD_PRELOAD", library.to_str().unwrap())
            .env("HANG_STUB", self.hangs.to_str().unwrap())
            .start()
    }

    fn hang(&self) {
        std::fs::write(&self.hangs, "").unwrap();
    }

    /// Threads that have hung.
    fn hung(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count() - 1 - usize::from(self.hangs.exists())
    }

    fn is_back(&self) {
        std::fs::remove_file(&self.hangs).unwrap();
    }
}

fn send(hive: &Hive, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(hive.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn while_all_request_threads_hang_in_a_disk_the_rest_of_the_hive_lives_on() {
    let disk = Disk::new();
    let hive = disk.hive();
    let (id, other) = (hive.spawn("mock", ""), hive.spawn("mock-probe", ""));
    for id in [&id, &other] {
        hive.wait_state(id, "ready");
    }
    let mut events = hive.events();
    disk.hang();
    let logs = format!("/v1/workers/{id}/logs");
    let hanging: Vec<TcpStream> = (0..THREADS).map(|_| send(&hive, &logs)).collect();
    // One in the disk, the others behind it.
    eventually("a thread hangs", || disk.hung() == 1);
    let waiting: Vec<TcpStream> = (0..QUEUE_MAX).map(|_| send(&hive, &logs)).collect();

    // The queue is full once all of them were read; then whoever comes is told at once.
    eventually("the queue is full", || {
        let mut late = send(&hive, &logs);
        late.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let mut answer = [0; 12];
        late.read_exact(&mut answer).is_ok() && answer == *b"HTTP/1.1 503"
    });
    assert_eq!(hive.get("/v1/health").status, 200);
    assert!(hive.get("/metrics").text.contains("rbee_workers{state=\"ready\"} 2\n"));
    assert_eq!(hive.workers().len(), 2);
    assert_eq!(hive.delete(&format!("/v1/workers/{other}")).status, 202, "a worker can be stopped");
    while events.next_event().is_some_and(|(_, worker)| worker["state"] != "stopping") {}
    // Callbacks come through too: it beats every second.
    let before = hive.worker(&id)["last_heartbeat"].clone();
    eventually("the worker is heard", || hive.worker(&id)["last_heartbeat"] != before);

    for stream in hanging.into_iter().chain(waiting) {
        let answer = answer(stream);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"OVERLOADED\""), "{answer}");
    }
    let line = "request not answered in time route=logs ";
    eventually("it is logged", || hive.log().contains(line));
    assert!(hive.log().matches(line).count() < 20, "and does not fill the log");

    disk.is_back();
    eventually("the threads are back", || hive.get(&logs).status == 200);
    hive.wait_state(&other, "gone");
}

#[test]
fn a_hive_whose_request_thread_hangs_can_end() {
    let disk = Disk::new();
    let mut hive = disk.hive();
    let id = hive.spawn("mock", "crash-at-start");
    hive.wait_state(&id, "gone");
    disk.hang();
    let hanging = send(&hive, &format!("/v1/workers/{id}/logs"));
    eventually("a thread hangs", || disk.hung() == 1);
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0));
    assert!(hive.log().contains("a thread hangs and is left behind name=request-"), "{}", hive.log());
    drop(hanging);
}

#[test]
fn a_hive_whose_disk_hangs_stops_its_workers_and_ends() {
    let disk = Disk::new();
    let mut hive = disk.hive();
    let ids = [hive.spawn("mock", ""), hive.spawn("mock-probe", "")];
    for id in &ids {
        hive.wait_state(id, "ready");
    }
    let processes = hive.processes();
    disk.hang();
    let hanging = send(&hive, &format!("/v1/workers/{}/logs", ids[0]));
    eventually("a thread hangs", || disk.hung() == 1);
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(processes.iter().all(|pid| !is_alive(*pid)), "its workers are gone");
    assert!(hive.log().contains("a thread hangs and is left behind name=launch"), "{}", hive.log());
    drop(hanging);
}
