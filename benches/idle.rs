//! What a hive costs that has nothing to do, beside nginx where it is installed.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbee_hive::mock::queen;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::daemon::{Hive, kill};
use support::nginx::Nginx;
use support::{Changes, Kept, Times, family, figure, heading, kib, sleeps};

const HIVE: &str = env!("CARGO_BIN_EXE_rbee-hive");
const QUIET: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 4000;

fn main() {
    let health = r#"{"status":"alive","version":"0.1.0","api_version":"v1"}"#;
    let nginx = Nginx::start(&[health]);
    println!("\nidle: a hive that has nothing to do");
    footprint(nginx.as_ref());
    wake_ups();
    connections(nginx.as_ref());
    drop(nginx);
    heading("idle: launch → first 200");
    starts(health);
}

fn quiet() -> support::daemon::Builder {
    Hive::builder().arg("--heartbeat-interval", "30s")
}

fn footprint(nginx: Option<&Nginx>) {
    let bytes = std::fs::metadata(HIVE).unwrap().len();
    figure("binary", format!("{:.2}", bytes as f64 / f64::from(1 << 20)), "MiB", "");
    let hive = quiet().start();
    assert_eq!(hive.get("/health").status, 200);
    let mib = |kib: u64| format!("{:.2}", kib as f64 / 1024.0);
    figure("resident (VmRSS)", mib(kib(hive.pid(), "status", "VmRSS")), "MiB", "wanted: < 6");
    figure("  of which its own (RssAnon)", mib(kib(hive.pid(), "status", "RssAnon")), "MiB", "");
    figure("  proportional (Pss)", mib(kib(hive.pid(), "smaps_rollup", "Pss")), "MiB", "");
    if let Some(nginx) = nginx {
        let sum = |file, line| mib(family(nginx.pid()).into_iter().map(|pid| kib(pid, file, line)).sum());
        figure("  compared with: nginx, master and 2 workers (VmRSS)", sum("status", "VmRSS"), "MiB", "");
        figure("  compared with: the same (Pss)", sum("smaps_rollup", "Pss"), "MiB", "");
    }
    figure("threads", sleeps(hive.pid()).len(), "", "");
}

/// How often threads wake in ten seconds; the hives are watched at once.
fn wake_ups() {
    let court =
        queen::Queen::start(TcpListener::bind("127.0.0.1:0").unwrap(), queen::Options::default()).unwrap();
    let url = format!("http://{}", court.addr());
    let alone = quiet().start();
    let told = quiet().arg("--queen-url", &url).start();
    let busy = quiet().ports(16).arg("--queen-url", &url).start();
    let changes = Changes::of(&busy);
    for _ in 0..16 {
        let id = busy.spawn("mock", "");
        changes.state(&id, "ready");
    }
    // What follows a start is over: first heartbeats, kept connections.
    std::thread::sleep(Duration::from_secs(1));
    let hives = [
        ("wake-ups in 10 s, no queen", "wanted: 0", &alone),
        ("wake-ups in 10 s, a queen every 30 s", "wanted: at most those of one post", &told),
        ("wake-ups in 10 s, 16 ready workers and a queen", "wanted: their own timers'", &busy),
    ];
    let before = hives.map(|(.., hive)| sleeps(hive.pid()));
    std::thread::sleep(QUIET);
    for ((what, wanted, hive), before) in hives.into_iter().zip(before) {
        let before: BTreeMap<String, u64> = before.into_iter().collect();
        let woken = sleeps(hive.pid()).into_iter();
        let woken = woken.map(|(name, count)| (count - before.get(&name).unwrap_or(&0), name));
        let woken: Vec<_> = woken.filter(|(count, _)| *count > 0).collect();
        let who: Vec<_> = woken.iter().map(|(count, name)| format!("{name} {count}")).collect();
        let all: u64 = woken.iter().map(|(count, _)| count).sum();
        figure(
            what,
            all,
            "",
            &format!("{wanted}; {}", if who.is_empty() { "none".into() } else { who.join(", ") }),
        );
    }
}

/// Idle kept connections: the hive was started with the usual soft limit of descriptors.
fn connections(nginx: Option<&Nginx>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
    let hive = quiet().arg("--max-connections", 8192).start();
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    if maximum.is_some_and(|most| most < CONNECTIONS as u64 + 200) {
        println!("SKIPPED: the hard limit of descriptors is too low for {CONNECTIONS} connections");
        return;
    }
    let each = bytes_each(&[hive.pid()], hive.address, "/health");
    figure("an idle connection, of 4000 (VmRSS)", each, "bytes", "wanted: < 4096");
    if let Some(nginx) = nginx {
        let each = bytes_each(&family(nginx.pid()), nginx.address, "/return/0");
        figure("  compared with: nginx", each, "bytes", "");
    }
}

fn bytes_each(pids: &[u32], address: SocketAddr, path: &str) -> u64 {
    let resident = || pids.iter().map(|pid| kib(*pid, "status", "VmRSS")).sum::<u64>() * 1024;
    let kept = |count: usize| -> Vec<Kept> {
        let connections = (0..count).map(|_| {
            let mut kept = Kept::connect(address, None);
            assert_eq!(kept.get(path).0, 200);
            kept
        });
        connections.collect()
    };
    drop(kept(8)); // what is allocated once
    let before = resident();
    let mut kept = kept(CONNECTIONS);
    let each = resident().saturating_sub(before) / CONNECTIONS as u64;
    // None was closed to make room for another.
    assert!(kept.iter_mut().all(|kept| kept.get(path).0 == 200));
    each
}

fn starts(body: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (mut hive, mut nginx) = (Times::default(), Times::default());
    for _ in 0..20 {
        let began = Instant::now();
        let mut command = Command::new(HIVE);
        command.args(["serve", "--bind", "127.0.0.1:0", "--data-dir"]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(Kept::connect(address, None).get("/health").0, 200);
        hive.push(began.elapsed());
        kill(child.id(), 15);
        assert!(child.wait().unwrap().success());
        if let Some(peer) = Nginx::start(&[body]) {
            nginx.push(peer.started_in);
        }
    }
    hive.row("rbee-hive serve", "");
    if nginx.count() > 0 {
        nginx.row("  compared with: nginx", "");
    }
}
