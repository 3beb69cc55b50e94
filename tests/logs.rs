//! `rbee-hive logs`: the end, the run before, and what goes on, through the real daemon.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use rbee_hive::client::HiveClient;
use rbee_hive::limits::FOLLOWER_LINE_BYTES_MAX;
use serde_json::{Value, json};
use support::{Hive, eventually, kill};

fn command(hive: &Hive, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.env_clear().env("RBEE_HIVE_URL", &hive.url).arg("logs").args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn logs(hive: &Hive, args: &[&str]) -> Output {
    command(hive, args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A kind that is no engine, but a shell script.
fn script(name: &str, script: &str) -> Value {
    json!({"kind": name, "protocol": "probe", "program": "/bin/sh", "args": ["-c", script], "backends": ["cpu"],
           "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}})
}

/// Follows, and waits for a first line, which it gives.
fn follow(hive: &Hive, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = command(hive, args).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    (child, out, line)
}

#[test]
fn the_end_of_a_log_by_the_beginning_of_a_name() {
    let hive =
        Hive::builder().kind(script("ten", "seq 10; printf '\\033[2Jend\\n'; exec sleep 1000")).start();
    let id = hive.spawn("ten", "");
    eventually("it has said all", || hive.get(&format!("/v1/workers/{id}/logs")).text.ends_with("end\n"));
    let beginning = &id[..id.len() - 1];
    for args in [&["-n", "2", beginning], &[beginning, "--tail", "2"]] {
        let output = logs(&hive, args);
        assert_eq!(text(&output.stdout), "10\n\u{1b}[2Jend\n", "as it is into a pipe");
    }
    assert_eq!(text(&logs(&hive, &[&id]).stdout).lines().count(), 11);
    let nobody = logs(&hive, &["nobody"]);
    assert_eq!((nobody.status.code(), text(&nobody.stderr)), (Some(1), "error: there is no such worker\n"));
    for wrong in [&["a/b"][..], &[], &[&id, "-f", "--previous"], &[&id, "-x"], &[&id, "-n", "-1"]] {
        assert_eq!(logs(&hive, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_run_before_the_crash() {
    let hive = Hive::builder().kind(script("runs", "echo I am $$; exec sleep 1000")).start();
    let id = hive.spawn("runs", "");
    let said = || hive.get(&format!("/v1/workers/{id}/logs")).text;
    eventually("it has said who it is", || said().starts_with("I am "));
    let (first, pid) = (said(), hive.worker(&id)["pid"].as_u64().unwrap());
    let none = logs(&hive, &[&id, "--previous"]);
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(text(&none.stderr), "error: the log has no run before the last one\n");
    kill(u32::try_from(pid).unwrap(), 9);
    eventually("it runs again", || said().lines().filter(|line| line.starts_with("I am ")).count() == 2);
    assert_eq!(text(&logs(&hive, &[&id, "--previous"]).stdout), first);
}

#[test]
fn following_ends_with_the_worker_and_ctrl_c_ends_it_before() {
    let hive = Hive::builder().kind(script("one", "echo begun; exec sleep 1000")).start();
    let id = hive.spawn("one", "");
    let (mut interrupted, _out, line) = follow(&hive, &[&id, "-f"]);
    assert_eq!(line, "begun\n");
    let (mut followed, mut out, line) = follow(&hive, &["--follow", &id]);
    assert_eq!(line, "begun\n");
    kill(interrupted.id(), 2);
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
    hive.delete(&format!("/v1/workers/{id}"));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!((rest.as_str(), followed.wait().unwrap().code()), ("", Some(0)));
}

#[test]
fn who_comes_back_to_a_stream_goes_on_where_it_broke() {
    let hive = Hive::builder().kind(script("many", "seq 5000; exec sleep 1000")).start();
    let id = hive.spawn("many", "");
    eventually("it has said all", || hive.get(&format!("/v1/workers/{id}/logs?tail=1")).text == "5000\n");
    let client = HiveClient::new(&hive.url).unwrap();
    let (mut last, mut seen) = (None, Vec::new());
    while seen.len() < 5000 {
        // Each stream is left after some lines.
        let lines = client.follow_logs(&id.parse().unwrap(), 10_000, last).unwrap();
        for line in lines.take((5000 - seen.len()).min(777)) {
            let (place, line) = line.unwrap();
            last = place;
            seen.push(line.parse::<u32>().unwrap());
        }
    }
    assert!(seen.iter().copied().eq(1..=5000));
}

#[test]
fn a_line_of_a_megabyte_comes_in_pieces_that_cut_no_character() {
    let long = "yes 'zwölf €' | head -n 90000 | tr -d '\\n'; echo; echo after; exit 0";
    let hive = Hive::builder().arg("--restart-limit", 0).kind(script("long", long)).start();
    let id = hive.spawn("long", "");
    hive.wait_state(&id, "gone");
    let client = HiveClient::new(&hive.url).unwrap();
    let lines: Vec<String> =
        client.follow_logs(&id.parse().unwrap(), 10, None).unwrap().map(|line| line.unwrap().1).collect();
    let (after, pieces) = lines.split_last().unwrap();
    assert_eq!(after, "after");
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() <= FOLLOWER_LINE_BYTES_MAX));
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')));
    // The tail is bounded by a mebibyte: a line that does not fit is left out.
    assert_eq!(text(&logs(&hive, &[&id]).stdout).lines().last(), Some("after"));
}
