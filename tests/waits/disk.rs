//! What becomes of a hive whose data directory fails it, and of its workers: nothing, but that it says so.

use crate::support;

use std::path::{Path, PathBuf};
use std::process::Command;

use rbee_hive::limits::{LOG_BYTES_MAX, LOG_CUT_KEPT_BYTES};
use rustix::io::Errno;
use serde_json::{Value, json};
use support::{Builder, Hive, eventually, kill};

const MIB: u64 = 1 << 20;

/// A disk that fails on request.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        support::build_library("disk_stub.c", &folder.path().join("disk.so"));
        Self { folder }
    }

    fn under(&self, hive: Builder) -> Builder {
        let path = |name| self.folder.path().join(name).to_str().unwrap().to_owned();
        hive.env("LD_PRELOAD", &path("disk.so")).env("DISK_STUB_FAULT", &path("fault"))
    }

    /// From now on, changes of files with `part` in their paths fail.
    fn fail(&self, error: Errno, part: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{} {part}", error.raw_os_error())).unwrap();
        std::fs::rename(new, self.folder.path().join("fault")).unwrap(); // whole, or not there
    }

    fn mend(&self) {
        std::fs::remove_file(self.folder.path().join("fault")).unwrap();
    }
}

fn health(hive: &Hive) -> Value {
    let reply = hive.get("/health");
    assert_eq!(reply.status, 200, "whatever is wrong, the hive lives");
    reply.json()
}

/// Waits until `/health` gives this reason; gives it.
fn until_degraded(hive: &Hive, code: &str) -> Value {
    let mut found = Value::Null;
    eventually("the health says so", || {
        let health = health(hive);
        let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
        found = reasons.into_iter().find(|reason| reason["code"] == code).unwrap_or_default();
        assert!(found.is_null() || health["status"] == "degraded", "{health}");
        found.is_object()
    });
    found
}

fn until_well(hive: &Hive) {
    let well = || {
        health(hive) == json!({"status": "alive", "version": env!("CARGO_PKG_VERSION"), "api_version": "v1"})
    };
    eventually("all is well again", well);
}

/// Lines of the hive's own log that begin so, behind time and level.
fn lines(hive: &Hive, message: &str) -> usize {
    hive.log()
        .lines()
        .filter(|line| line.splitn(3, ' ').nth(2).is_some_and(|l| l.trim().starts_with(message)))
        .count()
}

#[test]
fn a_data_directory_that_cannot_be_written_keeps_new_workers_from_starting_and_harms_none() {
    let cases = [
        (Errno::ROFS, "read-only file system"),
        (Errno::NOSPC, "no space left on device"),
        (Errno::IO, "input/output error"),
    ];
    std::thread::scope(|scope| {
        for (error, text) in cases {
            scope.spawn(move || cannot_be_written(error, text));
        }
    });
}

fn cannot_be_written(error: Errno, text: &str) {
    let disk = Disk::new();
    let mut hive = disk.under(Hive::builder().arg("--restart-limit", 1)).start();
    let id = hive.spawn("mock", "");
    let worker = hive.wait_state(&id, "ready");
    until_well(&hive);

    disk.fail(error, "/data");
    let refused = hive.spawn("mock", "");
    let last = hive.wait_state(&refused, "gone");
    assert_eq!(last["exit"]["reason"], "launch_failed");
    assert_eq!(last["exit"]["message"], format!("its log cannot be opened: {text}"));
    let reason = until_degraded(&hive, "data_dir");
    assert_eq!(reason["message"], format!("the data directory cannot be written: {text}"));
    assert!(reason["count"].as_u64() >= Some(2), "each try counts: {reason}");
    assert_eq!(lines(&hive, "degraded code=data_dir"), 1, "{}", hive.log());
    assert_eq!(hive.worker(&id)["pid"], worker["pid"]);
    assert_eq!(hive.worker(&id)["state"], "ready");

    disk.mend();
    until_well(&hive);
    let next = hive.spawn("mock", "");
    hive.wait_state(&next, "ready");

    disk.fail(error, "/data");
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0), "{}", hive.log());
    assert!(!hive.log().contains("panicked"), "{}", hive.log());
}

#[test]
fn a_data_directory_that_is_gone_is_made_anew_by_the_next_launch() {
    let mut hive = Hive::start();
    let id = hive.spawn("mock", "");
    let worker = hive.wait_state(&id, "ready");
    // Writing that down would make the folder anew.
    eventually("that is written down", || hive.record(&id).contains("serving"));
    let data = hive.folder.path().join("data");
    std::fs::rename(&data, hive.folder.path().join("moved")).unwrap();
    until_degraded(&hive, "data_dir_gone");
    assert_eq!(hive.worker(&id)["state"], "ready");
    assert_eq!(hive.get(&format!("/v1/workers/{id}/logs")).text, "", "its log is not here any more");

    let next = hive.spawn("mock", "");
    let mut log = hive.stream(&format!("/v1/workers/{next}/logs?follow=true"), "");
    hive.wait_state(&next, "ready");
    assert!(!log.next_raw().unwrap().data.is_empty(), "who follows a log in the new folder is told");
    until_well(&hive);
    // The old one has its next log where all logs are.
    kill(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap(), 9);
    hive.wait(&id, "ready again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    assert!(hive.get(&format!("/v1/workers/{id}/logs")).text.starts_with("--- run 2 ---\n"));
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0));
}

/// A small disk in the place of a folder, for as long as it is kept. Only root may do that.
struct Mount(PathBuf);

impl Mount {
    fn small(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "none"]).arg(at);
        mount.output().ok()?.status.success().then(|| Self(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
        assert!(unmounted.success());
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_told_before_it_is_full() {
    let hive = Hive::start();
    let data = hive.folder.path().join("data");
    let Some(_mount) = Mount::small(&data) else {
        println!("SKIPPED: no disk can be mounted here");
        return;
    };
    until_well(&hive);
    let ballast = data.join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 20]).unwrap_err();
    let reason = until_degraded(&hive, "disk_nearly_full");
    assert_eq!(reason["message"], "the disk of the data directory is nearly full: 0 MiB are left");
    std::fs::remove_file(ballast).unwrap();
    until_well(&hive);
}

/// A kind that writes bursts of 24 MiB, and waits after each until its log is within its bound again.
fn bursts(name: &str, before: &str) -> Value {
    let script = format!(
        "echo begun; {before} for n in 1 2 3 4 5 6; do head -c {} /dev/zero; \
         until [ $(stat -L -c %s /proc/self/fd/2) -le {LOG_BYTES_MAX} ]; do sleep 0.01; done; done; \
         echo; echo within its bound; exec sleep 1000",
        24 * MIB
    );
    json!({"kind": name, "protocol": "probe", "program": "/bin/sh", "args": ["-c", script], "backends": ["cpu"],
           "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}})
}

/// The longest that a worker's logs were, until it says that they are within their bound; and how they ended.
fn sizes(hive: &Hive, id: &str) -> (u64, u64) {
    let size = |name: String| std::fs::metadata(hive.log_file(&name)).map_or(0, |meta| meta.len());
    let mut most = 0;
    eventually("it has written all", || {
        most = most.max(size(format!("{id}.log")));
        hive.get(&format!("/v1/workers/{id}/logs?tail=1")).text == "within its bound\n"
    });
    (most, size(format!("{id}.log")) + size(format!("{id}.log.1")))
}

#[test]
fn a_log_that_grows_faster_than_it_can_be_copied_is_within_its_bound_at_once() {
    let hive = Hive::builder().kind(bursts("bursts", "")).start();
    let id = hive.spawn("bursts", "");
    let (most, last) = sizes(&hive, &id);
    let bounds = LOG_CUT_KEPT_BYTES..=3 * LOG_BYTES_MAX;
    assert!(most <= LOG_BYTES_MAX + 24 * MIB && bounds.contains(&last), "{most} {last}");
}

#[test]
fn a_log_whose_file_was_removed_does_not_fill_the_disk_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("go");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let end = folder.path().join("end");
    let kind = bursts("bursts", &format!("read go < {};", fifo.display()));
    let text = kind.to_string().replace("echo within its bound;", &format!("echo > {};", end.display()));
    let hive = Hive::builder().kind(serde_json::from_str(&text).unwrap()).start();
    let id = hive.spawn("bursts", "");
    let log = hive.log_file(&format!("{id}.log"));
    eventually("it writes", || std::fs::read(&log).is_ok_and(|bytes| bytes == b"begun\n"));
    std::fs::remove_file(&log).unwrap();
    std::fs::write(fifo, "\n").unwrap();
    eventually("it has written all", || end.exists());
}

#[test]
fn a_log_that_cannot_be_moved_aside_is_cut() {
    let disk = Disk::new();
    let hive = disk.under(Hive::builder().kind(bursts("bursts", ""))).start();
    disk.fail(Errno::IO, ".log.1");
    let id = hive.spawn("bursts", "");
    let (most, last) = sizes(&hive, &id);
    assert!(most <= 2 * LOG_BYTES_MAX + 24 * MIB && last <= LOG_BYTES_MAX, "{most} {last}");
    assert!(!hive.log_file(&format!("{id}.log.1")).exists());
    assert!(lines(&hive, "log cannot be") <= 1, "{}", hive.log());
}
