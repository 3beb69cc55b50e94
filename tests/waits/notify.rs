//! What a service manager hears of a hive, over a socket as systemd has it: in order, and no sign of life of a hive that
//! hangs.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use crate::support;
use support::{Builder, Hive, PATIENCE, build_library, eventually, kill, variable};

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.to_str().unwrap().to_owned(), _folder: folder }
    }

    /// A socket without a file, as containers and older systems have it.
    fn abstract_one() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("rbee-hive-test{}", folder.path().display());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Self { socket, name: format!("@{name}"), _folder: folder }
    }

    fn hive(&self) -> Builder {
        Hive::builder().env("NOTIFY_SOCKET", &self.name)
    }

    /// The next message that comes within `time`.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8(message[..length].to_vec()).unwrap()),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }

    /// The next message but for signs of life.
    fn next(&self) -> String {
        loop {
            let message = self.within(PATIENCE).expect("a message");
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// Reads on until this comes.
    fn hears(&self, wanted: &str) {
        while self.within(PATIENCE).expect(wanted) != wanted {}
    }
}

#[test]
fn a_manager_hears_that_the_hive_is_ready_how_it_is_that_it_reads_again_and_that_it_ends() {
    let manager = Manager::new();
    let mut hive = manager.hive().start();
    assert_eq!(manager.next(), "READY=1\nSTATUS=0 workers");
    let order = serde_json::json!({"model_ref": hive.model_ref(), "kind": "mock", "extra_args": ["--load-ms", "500"]});
    let id = hive.post("/v1/workers/spawn", &order).json()["worker_id"].as_str().unwrap().to_owned();
    manager.hears("STATUS=1 worker, 1 starting");
    let worker = hive.wait_state(&id, "ready");
    assert_eq!(manager.next(), "STATUS=1 worker");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert_eq!(variable(worker["pid"].as_u64().unwrap(), name), None);
    }

    hive.signal(1);
    let (before, now) = (manager.next(), rustix::time::clock_gettime(rustix::time::ClockId::Monotonic));
    let micros = before.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&before).parse::<i64>().unwrap();
    assert!((0..60_000_000).contains(&(now.tv_sec * 1_000_000 + now.tv_nsec / 1000 - micros)), "{micros}");
    assert_eq!(manager.next(), "READY=1");

    hive.post("/v1/drain", &serde_json::json!({"drain": true}));
    assert_eq!(manager.next(), "STATUS=drained, 1 worker");
    hive.post("/v1/shutdown", &serde_json::json!({}));
    let end = manager.next();
    assert!(end.starts_with("STOPPING=1\nSTATUS=ending, 1 worker"), "{end}");
    assert_eq!(hive.wait_exit().code(), Some(0));
    manager.hears("STATUS=ending, 0 workers");
    assert_eq!(manager.within(Duration::from_millis(1)), None, "that is the last word");
}

#[test]
fn a_hive_that_takes_over_workers_is_ready_when_they_have_answered() {
    let manager = Manager::abstract_one();
    let mut hive = manager.hive().start();
    assert_eq!(manager.next(), "READY=1\nSTATUS=0 workers");
    let ids = [hive.spawn("mock", ""), hive.spawn("mock-probe", "")];
    for id in &ids {
        hive.wait_state(id, "ready");
    }
    manager.hears("STATUS=2 workers");
    let silent = u32::try_from(hive.worker(&ids[1])["pid"].as_u64().unwrap()).unwrap();
    hive.signal(12);
    manager.hears("STOPPING=1\nSTATUS=ending, 2 workers");
    // Not before that: the kernel would send SIGHUP to one that is stopped as its parent ends.
    hive.wait_exit();
    kill(silent, 19);
    let hive = hive.restart(manager.hive());
    assert_eq!(manager.next(), "STATUS=taking over 2 workers");
    kill(silent, 18);
    assert_eq!(manager.next(), "READY=1\nSTATUS=2 workers");
    assert_eq!(hive.workers().len(), 2);
}

/// Threads that hang while a file of their name is there.
struct Threads(tempfile::TempDir);

impl Threads {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        build_library("thread_stub.c", &folder.path().join("thread_stub.so"));
        Self(folder)
    }

    fn preloaded(&self, builder: Builder) -> Builder {
        let library = self.file("thread_stub.so");
        builder
            .env("LD_PRELOAD", library.to_str().unwrap())
            .env("THREAD_STUB", self.0.path().to_str().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn a_hive_whose_supervisor_or_event_loop_hangs_gives_no_sign_of_life() {
    let (manager, threads) = (Manager::new(), Threads::new());
    let builder = manager.hive().env("WATCHDOG_USEC", "400000");
    let hive = threads.preloaded(builder).start();
    for (name, who) in [("supervisor", "supervisor"), ("http-0", "http"), ("http-1", "http")] {
        manager.hears("WATCHDOG=1");
        let said = hive.log().len();
        std::fs::write(threads.file(name), "").unwrap();
        eventually("the thread hangs", || threads.file(&format!("{name}.hangs")).exists());
        let line = format!("who={who}\n");
        eventually("it is said", || hive.log()[said..].contains(&line));
        // One may have been on its way.
        while manager.within(Duration::from_millis(1)).is_some() {}
        assert_eq!(manager.within(Duration::from_secs(1)), None, "while {name} hangs");
        std::fs::remove_file(threads.file(name)).unwrap();
        manager.hears("WATCHDOG=1");
    }
    assert_eq!(hive.get("/v1/health").status, 200);
}

#[test]
fn a_manager_that_does_not_listen_delays_nobody() {
    let manager = Manager::new();
    // Until there is no room for another message.
    while {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        other.send_to(b"STATUS=", &manager.name).is_ok()
    } {}
    let mut hive = manager.hive().env("WATCHDOG_USEC", "200000").start();
    eventually("it is said", || hive.log().contains("the service manager takes no messages"));
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    assert_eq!(hive.log().matches("the service manager").count(), 1, "once: {}", hive.log());
    while manager.within(Duration::from_millis(1)).is_some() {}
    eventually("it is said", || hive.log().contains("the service manager takes messages again"));
    hive.signal(15);
    assert_eq!(hive.wait_exit().code(), Some(0));
}
