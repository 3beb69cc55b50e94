//! The commands that ask a hive, through the real program and the real daemon.

mod support;

use std::io::{BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use support::{Hive, eventually, kill};

const SIGINT: i32 = 2;

fn command(hive: &Hive, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-hive"));
    command.env_clear().env("RBEE_HIVE_URL", &hive.url).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The exit code, stdout and stderr of a command.
fn run(hive: &Hive, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(hive, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// What a command that succeeds prints.
fn out(hive: &Hive, args: &[&str]) -> String {
    let (code, out, err) = run(hive, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    for line in out.lines().filter(|line| !line.starts_with(['{', '"'])) {
        assert!(line.chars().count() <= 80 || args.contains(&"events"), "{args:?} is wider than 80: {line}");
    }
    out
}

fn as_json(hive: &Hive, args: &[&str]) -> Value {
    serde_json::from_str(&out(hive, &[args, &["--json"]].concat())).unwrap()
}

/// A kind that is no engine, but a shell script.
fn script(name: &str, script: &str) -> Value {
    json!({"kind": name, "protocol": "probe", "program": "/bin/sh", "args": ["-c", script], "backends": ["cpu"],
           "probe": {"path": "/health", "interval": "50ms", "timeout": "500ms"}})
}

/// A command that runs, its stdout line by line.
fn begin(hive: &Hive, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command(hive, args).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn line_with(out: &mut impl std::io::BufRead, words: &[&str]) -> String {
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
        line.clear();
    }
    panic!("the output ends without {words:?}");
}

#[test]
fn from_a_spawn_that_is_waited_for_to_a_stop_by_the_beginning_of_a_name() {
    let hive = Hive::start();
    let (code, id, err) =
        run(&hive, &["spawn", &hive.model_ref(), "--kind", "mock", "--wait", "--device", "cpu"]);
    assert_eq!(code, 0, "{err}");
    let id = id.strip_suffix('\n').unwrap();
    assert_eq!(hive.worker(id)["state"], "ready");
    // It may have been launched before the command heard of it.
    for word in ["ready on cpu", &format!("{id} serves at http://")] {
        assert!(err.contains(word), "{word}: {err}");
    }
    let listed = out(&hive, &["ps"]);
    assert!(listed.starts_with("ID ") && listed.contains(id) && listed.contains(" ready "), "{listed}");
    assert_eq!(as_json(&hive, &["ps"])["workers"][0]["worker_id"], id);
    assert_eq!(out(&hive, &["__candidates", "ID"]), format!("{id}\n"));
    assert!(out(&hive, &["__candidates", "DEVICE"]).starts_with("cpu\n"));
    let lines = out(&hive, &["logs", id, "--json", "-n", "1"]);
    assert!(serde_json::from_str::<String>(&lines).unwrap().ends_with('\n'), "{lines}");
    let (code, _, err) = run(&hive, &["stop", "w-", "nobody"]);
    assert_eq!((code, hive.workers().len()), (1, 1), "a slip stops nobody: {err}");
    assert_eq!(out(&hive, &["stop", &id[..id.len() - 2], id]), format!("{id}\n"));
    assert_eq!((hive.workers().len(), hive.processes()), (0, vec![]), "it is gone when the command is");
    let (code, _, err) = run(&hive, &["stop", id]);
    assert!(code == 1 && err.contains("hint: `rbee-hive ps` lists the workers"), "{err}");
}

#[test]
fn a_worker_that_does_not_get_ready_says_why_with_its_last_lines() {
    let hive = Hive::builder()
        .arg("--restart-limit", 0)
        .kind(script("torn", "echo reading; printf '\\033[2Jnonsense\\n' >&2; exit 7"))
        .start();
    let (code, id, err) =
        run(&hive, &["spawn", &hive.model_ref(), "--kind", "torn", "--wait", "--memory", "1MiB"]);
    assert_eq!((code, id.as_str()), (1, ""), "{err}");
    for word in [
        "  | reading\n",
        "  | ?[2Jnonsense\n",
        " did not become ready: ",
        "exit code 7",
        "hint: `rbee-hive logs w-",
    ] {
        assert!(err.contains(word), "{word:?}: {err}");
    }
}

#[test]
fn ctrl_c_leaves_a_worker_that_is_starting_alone_and_says_so() {
    let hive = Hive::builder().kind(script("slow", "exec sleep 1000")).start();
    let args = ["spawn", &hive.model_ref(), "--kind", "slow", "--wait", "--memory", "1MiB"];
    let mut child = command(&hive, &args).spawn().unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    line_with(&mut err, &["loading on cpu"]);
    kill(child.id(), SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    err.read_to_string(&mut said).unwrap();
    let workers = hive.workers();
    let id = workers[0]["worker_id"].as_str().unwrap();
    assert_eq!(workers[0]["state"], "spawning");
    assert!(said.contains(&format!("{id} goes on starting; `rbee-hive stop {id}` ends it")), "{said}");
}

#[test]
fn one_screen_shows_a_hive() {
    let hive = Hive::builder().arg("--hive-id", "box-7").start();
    let text = out(&hive, &["status"]);
    for word in ["hive   box-7: ready", "queen  none", "DEVICE", "cpu ", "no workers"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let id = hive.spawn("mock", "");
    hive.wait_state(&id, "ready");
    assert!(out(&hive, &["status"]).contains(&id));
    assert_eq!(as_json(&hive, &["status"])["workers"][0]["worker_id"], id);
    assert!(out(&hive, &["drain", "--stop-idle"]).starts_with("drained: it takes no new workers"));
    assert!(out(&hive, &["status"]).contains("box-7: draining"));
    assert_eq!(run(&hive, &["spawn", &hive.model_ref()]).0, 1);
    eventually("it was idle, and is gone", || hive.workers().is_empty());
    assert_eq!(as_json(&hive, &["undrain"])["draining"], false);
    assert!(out(&hive, &["status"]).contains("box-7: ready"));
}

#[test]
fn events_are_followed_until_nobody_reads_them() {
    let hive = Hive::start();
    assert_eq!(out(&hive, &["events"]).lines().count(), 2, "the picture, and what the hive does");
    let (mut child, mut lines) = begin(&hive, &["events", "-f"]);
    line_with(&mut lines, &["hive "]);
    let id = hive.spawn("mock", "");
    line_with(&mut lines, &["worker ", &id, " ready "]);
    hive.delete(&format!("/v1/workers/{id}"));
    line_with(&mut lines, &["worker ", &id, " gone ", ": stopped"]);
    drop(lines);
    // The next line meets a closed pipe.
    hive.spawn("mock", "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err, "", "no panic, no complaint");
    let (mut child, mut lines) = begin(&hive, &["events", "--follow", "--json"]);
    let first: Value = serde_json::from_str(&line_with(&mut lines, &[])).unwrap();
    assert_eq!(first["event"], "picture");
    kill(child.id(), SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_doctor_tells_what_would_keep_a_hive_from_its_work() {
    let hive = Hive::start();
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name).display().to_string();
    let (data, models) = (dir("data"), dir("models"));
    let bind = hive.url.strip_prefix("http://").unwrap().to_owned();
    // Nobody answers there: no test reaches beyond loopback.
    let doctor = |args: &[&str]| {
        let args = [&["doctor", "--data-dir", &data, "--model-dir", &models][..], args].concat();
        let output = command(&hive, &args).env("HF_HUB_OFFLINE", "1").env("HOME", &data).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = doctor(&["--bind", &bind]);
    assert_eq!(code, 0, "{text}");
    for word in ["ok    hive         one runs, version ", "ok    disk ", "ok    hub          not asked"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (code, text) = doctor(&["--bind", "0.0.0.0:1"]);
    assert!(code == 1 && text.contains("FAIL  settings     API token required"), "{text}");
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = somebody.local_addr().unwrap().port().to_string();
    let (code, text) = doctor(&[
        "--bind",
        "127.0.0.1:0",
        "--worker-ports",
        &taken,
        "--queen-url",
        "http://127.0.0.1:1",
        "--json",
    ]);
    let found: Value = serde_json::from_str(&text).unwrap();
    let verdict = |check: &str| {
        let findings = found["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == check).map(|finding| finding["verdict"].clone())
    };
    assert_eq!(code, 1);
    assert_eq!(verdict("ports"), Some("failure".into()), "{text}");
    assert_eq!(verdict("queen"), Some("warning".into()), "{text}");
}

#[test]
fn no_hive_no_answer_and_a_hint() {
    let mut hive = Hive::start();
    hive.kill();
    for args in [&["status"][..], &["ps"], &["events"], &["drain"], &["stop", "w-1"], &["spawn", "hf:o/r"]] {
        let (code, out, err) = run(&hive, args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(
            err.contains("error: no hive answers at ") && err.contains("\nhint: is it running?"),
            "{args:?}: {err}"
        );
    }
}
