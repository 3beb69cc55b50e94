//! `rbee-hive logs`: the end, the run before, and what goes on, through the real daemon.

use crate::support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
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
    assert_eq!(
        (nobody.status.code(), text(&nobody.stderr)),
        (Some(1), "error: there is no such worker\nhint: `rbee-hive ps` lists the workers\n")
    );
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
    // It may have spoken before the hive was told that it runs.
    let worker = hive.wait(&id, "launched", |worker| worker["pid"].is_u64());
    let (first, pid) = (said(), worker["pid"].as_u64().unwrap());
    let none = logs(&hive, &[&id, "--previous"]);
    assert_eq!(none.status.code(), Some(1));
    assert_eq!(text(&none.stderr), "error: the log has no run before the last one\n");
    kill(u32::try_from(pid).unwrap(), 9);
    eventually("it runs again", || said().lines().filter(|line| line.starts_with("I am ")).count() == 2);
    assert_eq!(text(&logs(&hive, &[&id, "--previous"]).stdout), first);
}

#[test]
fn a_run_that_broke_off_within_a_line_is_told_from_the_next() {
    let hive = Hive::builder().kind(script("half", "printf 'half %s' $$; exec sleep 1000")).start();
    let id = hive.spawn("half", "");
    let said = || hive.get(&format!("/v1/workers/{id}/logs")).text;
    let mut runs: Vec<String> = Vec::new();
    for run in 1..=3 {
        let worker = hive.wait(&id, "running", |w| w["restart_count"] == run - 1 && w["phase"] == "loading");
        let line = format!("half {}\n", worker["pid"]);
        eventually("it has said so", || said().ends_with(&line));
        if let Some(before) = runs.last() {
            assert_eq!(said().lines().rev().nth(1), Some(&*format!("--- run {run} ---")));
            assert_eq!(text(&logs(&hive, &[&id, "--previous"]).stdout), before);
        }
        runs.push(line);
        kill(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap(), 9);
    }
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
    assert_eq!((rest(&mut out).as_str(), followed.wait().unwrap().code()), ("", Some(0)));
    // It is gone already: what is there, and then the end.
    assert_eq!(logs(&hive, &[&id, "-f"]).stdout, b"begun\n");
    assert_eq!(logs(&hive, &[&id, "-f", "-n", "0"]).stdout, b"");
    assert_eq!(logs(&hive, &[&id, "-n", "0"]).stdout, b"");
}

fn rest(out: &mut impl Read) -> String {
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn following_ends_with_the_hive_and_says_so_where_it_was_not_asked_to() {
    let kind = script("one", "echo begun; exec sleep 1000");
    let [mut asked, mut killed] = [(); 2].map(|()| Hive::builder().kind(kind.clone()).start());
    let (mut of_asked, mut out, line) = follow(&asked, &["-f", &asked.spawn("one", "")]);
    assert_eq!(line, "begun\n");
    asked.signal(15);
    assert_eq!((rest(&mut out).as_str(), of_asked.wait().unwrap().code()), ("", Some(0)));
    asked.wait_exit();

    let (of_killed, mut out, line) = follow(&killed, &["-f", &killed.spawn("one", "")]);
    assert_eq!(line, "begun\n");
    let left = killed.processes();
    killed.signal(9);
    killed.wait_exit();
    left.into_iter().filter(|pid| *pid != of_killed.id()).for_each(|pid| kill(pid, 9));
    // It comes back for 30 s, and then gives up.
    assert_eq!(rest(&mut out), "");
    let ended = of_killed.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).starts_with("error: "), "{}", text(&ended.stderr));
}

#[test]
fn whoever_reads_no_further_ends_it_quietly() {
    let hive =
        Hive::builder().kind(script("lines", "seq 50000; while sleep 0.01; do echo more; done")).start();
    let id = hive.spawn("lines", "");
    eventually("it has said much", || hive.get(&format!("/v1/workers/{id}/logs?tail=1")).text == "more\n");
    for args in [&["-n", "10000", &id][..], &["-n", "10000", &id, "-f"]] {
        let (mut child, out, _) = follow(&hive, args);
        drop(out);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
        assert_eq!(rest(&mut child.stderr.take().unwrap()), "");
    }
    // A full disk is another matter.
    for args in [&[&*id][..], &[&id, "-f"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(&hive, args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).starts_with("error: stdout cannot be written: "));
    }
}

#[test]
fn what_is_no_plain_text_comes_through() {
    let odd = r"printf 'NUL \000 end\r\n\033[31mred\033[0m\n'; printf 'a\303\244\342\202\254\360\237\220\235z\n\377\376\n\342\202\n'; printf last; exit 1";
    let hive = Hive::builder().arg("--restart-limit", 0).kind(script("odd", odd)).start();
    let id = hive.spawn("odd", "");
    hive.wait_state(&id, "gone");
    let expected = "NUL \0 end\n\u{1b}[31mred\u{1b}[0m\naä€\u{1f41d}z\n\u{fffd}\u{fffd}\n\u{fffd}\nlast\n";
    assert_eq!(text(&logs(&hive, &[&id]).stdout), expected);
    assert_eq!(text(&logs(&hive, &[&id, "-f"]).stdout), expected);
}

/// Both ends of a terminal: ours, and that of who writes to it.
fn terminal() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    (ours.into(), File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap())
}

#[test]
fn a_log_does_not_own_the_terminal() {
    let rude = r"printf '\033]0;title\007\033[2Jtop\tz\303\266\n\302\233red \000\n'; exit 1";
    let hive = Hive::builder().arg("--restart-limit", 0).kind(script("rude", rude)).start();
    let id = hive.spawn("rude", "");
    hive.wait_state(&id, "gone");
    for args in [&[&*id][..], &[&id, "-f"]] {
        let (mut ours, theirs) = terminal();
        let mut child = command(&hive, args).stdout(theirs).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut seen = Vec::new();
        let end =
            ours.read_to_end(&mut seen).expect_err("a terminal that nobody has open is no file that ends");
        assert_eq!(end.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let expected = "\\u{1b}]0;title\\u{7}\\u{1b}[2Jtop\tzö\r\n\\u{9b}red \\u{0}\r\n";
        assert_eq!(text(&seen), expected, "{args:?}");
    }
}

/// Whether this file system can take blocks out of a file's beginning. Without that, what is written in the very
/// moment of a rotation is lost.
fn takes_blocks(folder: &std::path::Path) -> bool {
    let path = folder.join("blocks");
    std::fs::write(&path, vec![0; 200_000]).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::COLLAPSE_RANGE, 0, 65_536).is_ok()
}

#[test]
fn a_flood_is_followed_across_rotations_without_a_line_lost_or_twice() {
    const BURST: u32 = 100_000;
    let flood = format!("echo begun; while read from; do seq $from $((from + {BURST} - 1)); done");
    let folder = tempfile::tempdir().unwrap();
    if !takes_blocks(folder.path()) {
        return;
    }
    let fifo = folder.path().join("go");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let flood = format!("{flood} < {}; exit 1", fifo.display());
    let hive = Hive::builder().arg("--restart-limit", 0).kind(script("flood", &flood)).start();
    let id = hive.spawn("flood", "");
    let mut go = File::options().write(true).open(&fifo).unwrap();
    let (mut child, out, _) = follow(&hive, &[&id, "-f"]);
    let mut lines = out.lines();
    let older = hive.log_file(&format!("{id}.log.1"));
    // It writes as fast as it can, and never further ahead than a log holds.
    let (mut asked, mut seen, mut more) = (0, 0, 3);
    while more > 0 {
        while asked < seen + 4 * BURST {
            writeln!(go, "{}", asked + 1).unwrap();
            asked += BURST;
        }
        for _ in 0..BURST {
            seen += 1;
            assert_eq!(lines.next().unwrap().unwrap(), seen.to_string());
        }
        more -= u32::from(older.exists());
    }
    drop(go);
    for line in lines {
        seen += 1;
        assert_eq!(line.unwrap(), seen.to_string());
    }
    assert_eq!((seen, child.wait().unwrap().code()), (asked, Some(0)));
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
            seen.push(line.trim_end().parse::<u32>().unwrap());
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
    assert_eq!(after, "after\n");
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() <= FOLLOWER_LINE_BYTES_MAX + 1));
    let whole = "zwölf €".repeat(90_000) + "\n";
    assert!(pieces.concat() == whole, "the pieces are the line");
    assert!(logs(&hive, &[&id, "-f"]).stdout == (whole + "after\n").as_bytes(), "put together again");
    // The tail is bounded by a mebibyte: a line that does not fit is left out.
    assert_eq!(text(&logs(&hive, &[&id]).stdout).lines().last(), Some("after"));
}
