//! Workers start, are seen to end, and leave nothing behind.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rbee_hive::id::{Pgid, Run};
use rbee_hive::lifecycle::event::{Event, ExitStatus, LaunchError, LaunchJob, Signal};
use rbee_hive::process::launch::Job;
use rbee_hive::sys;
use rustix::io::FdFlags;

use crate::support::{Hive, PATIENCE, id, job};

const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

fn lives(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// A script whose descendant says its number and then sleeps.
fn with_descendant(launcher: &str, then: &str) -> String {
    format!("{launcher} sh -c 'echo pid $$; exec sleep 1000' & {then}")
}

#[test]
fn a_worker_killed_by_somebody_is_seen_with_its_signal() {
    let hive = Hive::new();
    kill_leader(hive.script("exec sleep 1000"));
    hive.expect_end(ExitStatus::Signal(SIGKILL));
}

#[test]
fn the_last_words_of_a_run_are_its_own() {
    let hive = Hive::new();
    hive.script("echo words of the first; exit 1");
    hive.expect_end(ExitStatus::Code(1));
    let second = LaunchJob { run: Run(2), ..job("w", 0, &["sh", "-c", "echo words of the second; exit 2"]) };
    hive.ask(Job::Launch(second));
    while !matches!(hive.next(), Event::GroupDead { .. }) {}
    hive.ask(Job::ReadLogTail { id: id("w"), run: Run(2), status: None });
    let lines = vec!["words of the second".to_owned()];
    assert_eq!(hive.next(), Event::LogTail { id: id("w"), run: Run(2), lines, reason: None });
    let all = hive.logs.tail(&id("w"), 10, 1000).unwrap();
    assert_eq!(all, ["words of the first", "--- run 2 ---", "words of the second"]);
}

#[test]
fn a_worker_that_ends_by_itself_is_seen_with_its_code_and_its_last_words() {
    let hive = Hive::new();
    hive.script("echo last words; exit 7");
    hive.expect_end(ExitStatus::Code(7));
    hive.ask(Job::ReadLogTail { id: id("w"), run: Run(1), status: None });
    let lines = vec!["last words".to_owned()];
    assert_eq!(hive.next(), Event::LogTail { id: id("w"), run: Run(1), lines, reason: None });
    hive.ask(Job::DeleteLog { id: id("w") });
    hive.ask(Job::ReadLogTail { id: id("w"), run: Run(1), status: None });
    assert_eq!(hive.next(), Event::LogTail { id: id("w"), run: Run(1), lines: Vec::new(), reason: None });
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let hive = Hive::new();
    hive.script(&with_descendant("", "wait"));
    let pid = hive.log_line("pid ");
    hive.signal(Signal::Term);
    hive.expect_end(ExitStatus::Signal(SIGTERM));
    assert!(!lives(&pid));
}

#[test]
fn what_a_leader_leaves_in_its_group_dies_after_it() {
    let hive = Hive::new();
    hive.script("sleep 1000 & echo pid $!; exit 3");
    hive.expect_end(ExitStatus::Code(3));
    assert!(!lives(&hive.log_line("pid ")));
}

#[test]
fn a_descendant_that_left_the_group_dies_too_and_is_reaped() {
    let hive = Hive::new();
    hive.script(&with_descendant("setsid", "wait"));
    let pid = hive.log_line("pid ");
    assert!(lives(&pid));
    hive.signal(Signal::Kill);
    hive.expect_end(ExitStatus::Signal(SIGKILL));
    assert!(!lives(&pid));
}

#[test]
fn a_descendant_with_another_mark_is_left_alone() {
    let hive = Hive::new();
    hive.script(&with_descendant("RBEE_OWNER=somebody setsid", "wait"));
    let pid = hive.log_line("pid ");
    hive.signal(Signal::Kill);
    hive.expect_end(ExitStatus::Signal(SIGKILL));
    assert!(lives(&pid));
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_worker_that_ignores_sigterm_dies_by_sigkill() {
    let hive = Hive::new();
    hive.script("trap 'echo no' TERM; echo pid $$; while :; do sleep 1000 & wait $!; done");
    hive.log_line("pid ");
    hive.signal(Signal::Term);
    hive.log_line("no");
    hive.signal(Signal::Kill);
    hive.expect_end(ExitStatus::Signal(SIGKILL));
}

#[test]
fn what_cannot_be_started_says_why_without_a_path() {
    let hive = Hive::new();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    let text = text.to_str().unwrap();
    let long = "x".repeat(200_000);
    for (command, why) in [
        (&["/does/not/exist"][..], "the program was not found"),
        (&["does-not-exist-on-path"], "the program was not found"),
        (&[text], "the program may not be executed"),
        (&["sh", &long], "its arguments and environment are too long"),
        (&["sh", "a\0b"], "an argument or variable holds a zero byte"),
        (&[], "no program"),
    ] {
        hive.launch("w", 0, command);
        let error = LaunchError::Failed(why.to_owned());
        assert_eq!(hive.next(), Event::LaunchFailed { id: id("w"), run: Run(1), error });
    }
}

#[test]
fn a_port_on_which_somebody_listens_is_not_given_to_a_worker() {
    let hive = Hive::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    hive.launch("w", listener.local_addr().unwrap().port(), &["true"]);
    let error = LaunchError::PortTaken;
    assert_eq!(hive.next(), Event::LaunchFailed { id: id("w"), run: Run(1), error });
}

/// Ends the leader of a group alone.
fn kill_leader(leader: Pgid) {
    let pid = rustix::process::Pid::from_raw(leader.0.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Runs a script as the worker `w`, on a port that is free.
fn script_with_port(hive: &Hive, script: &str) -> (Pgid, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    hive.launch("w", port, &["sh", "-c", script, MOCK, &port.to_string()]);
    match hive.next() {
        Event::Launched { pgid, .. } => (pgid, port),
        other => panic!("not launched: {other:?}"),
    }
}

#[test]
fn a_worker_that_ends_while_somebody_else_listens_on_its_port_has_lost_it() {
    let hive = Hive::new();
    let (leader, port) = script_with_port(&hive, "exec sleep 1000");
    let _thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    kill_leader(leader);
    let status = ExitStatus::Signal(SIGKILL);
    assert_eq!(hive.next(), Event::Exited { id: id("w"), run: Run(1), status, port_lost: true, oom: false });
}

#[test]
fn a_worker_whose_own_child_still_listens_on_its_port_has_not_lost_it() {
    let hive = Hive::new();
    let model = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&model, b"GGUF\x03\0\0\0").unwrap();
    let model = model.path().display();
    for launcher in ["", "setsid"] {
        let worker =
            format!("{launcher} \"$0\" worker --protocol probe --model {model} --host 127.0.0.1 --port $1");
        let (leader, port) = script_with_port(&hive, &format!("{worker} & exec sleep 1000"));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "it never listens");
        }
        kill_leader(leader);
        hive.expect_end(ExitStatus::Signal(SIGKILL));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it was killed");
    }
}

#[test]
fn sixty_four_workers_at_once_all_come_to_their_end() {
    let hive = Hive::new();
    let names: BTreeSet<String> = (0..64).map(|i| format!("w-{i}")).collect();
    for name in &names {
        hive.launch(name, 0, &["sh", "-c", "exec sleep 1000 & exit 5"]);
    }
    let (mut launched, mut exited, mut dead) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    while dead.len() < names.len() {
        match hive.next() {
            Event::Launched { id, .. } => assert!(launched.insert(id.to_string())),
            Event::Exited { id, status, .. } => {
                assert_eq!(status, ExitStatus::Code(5));
                assert!(exited.insert(id.to_string()));
            }
            Event::GroupDead { id, .. } => {
                assert!(exited.contains(id.as_str()) && dead.insert(id.to_string()))
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((&launched, &exited, &dead), (&names, &names, &names));
}

/// Runs in a process of its own, which is given an environment and a descriptor that no worker may see.
#[test]
fn a_worker_gets_neither_secrets_nor_descriptors_of_the_hive() {
    const NAME: &str = "workers::a_worker_gets_neither_secrets_nor_descriptors_of_the_hive";
    if std::env::var_os("INSIDE").is_none() {
        let leaked = tempfile::tempfile().unwrap();
        rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
        let mut inside = Command::new(std::env::current_exe().unwrap());
        inside.args(["--exact", NAME, "--nocapture"]).env("INSIDE", "1").env("RBEE_HIVE_TOKEN", "x");
        for name in ["HF_TOKEN", "NOTIFY_SOCKET", "LLAMA_ARG_HOST", "HIP_VISIBLE_DEVICES", "LISTEN_FDS"] {
            inside.env(name, "x");
        }
        assert!(inside.status().unwrap().success());
        return;
    }
    sys::close_inherited_on_exec().unwrap();
    let hive = Hive::new();
    hive.script("env; echo; exec ls /proc/self/fd");
    hive.expect_end(ExitStatus::Code(0));
    let lines = hive.logs.tail(&id("w"), 1000, u64::MAX).unwrap();
    let (environment, descriptors) = lines.split_at(lines.iter().position(String::is_empty).unwrap());
    assert_eq!(descriptors[1..], ["0", "1", "2", "3"], "3 is the listing's own");
    let has = |entry: &str| environment.iter().any(|line| line == entry);
    assert!(has("FROM_PLAN=plan") && has("FROM_KIND=kind") && has("INSIDE=1"));
    assert!(has("RBEE_WORKER_TOKEN=secret") && has("CUDA_VISIBLE_DEVICES=") && has("ROCR_VISIBLE_DEVICES="));
    assert!(environment.iter().any(|line| line.starts_with("RBEE_OWNER=") && line.ends_with("/w/1")));
    for name in ["RBEE_HIVE", "HF_TOKEN", "NOTIFY_SOCKET", "LLAMA_ARG", "HIP_", "LISTEN_FDS"] {
        assert!(!environment.iter().any(|line| line.starts_with(name)), "{name}");
    }
}
