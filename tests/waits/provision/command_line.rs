//! For people: `rbee-hive provision`, `kinds rm`, and artifacts of one's own.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::support::{Hive, eventually, kill};
use super::{HIVE, MOCK, PLATFORM, Server, kind_of, kinds_folder, listed, names, provision};

fn cli(hive: &Hive, args: &[&str]) -> Output {
    let mut command = Command::new(HIVE);
    command.args(args).args(["--url", &hive.url]).env("TERM", "xterm").stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn the_command_line_provisions_shows_and_removes() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    server.publish("tiny", "0.9", &kind_of("tiny", "0.9"));
    let hive = server.hive().start();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let done = cli(&hive, &["provision", "tiny", "--version", "0.9"]);
    let (out, err) = (text(done.stdout), text(done.stderr));
    assert!(
        done.status.success() && out.ends_with("/files/k/bin/run\n") && out.lines().count() == 1,
        "{out} {err}"
    );
    assert!(!err.contains('\r') && !err.contains('\x1b'), "no bar where there is no terminal: {err:?}");

    let done = cli(&hive, &["provision", "tiny", "--version", "latest", "--json"]);
    let events: Vec<Value> =
        text(done.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.last().unwrap()["stage"], "complete", "{events:?}");

    let done = cli(&hive, &["kinds"]);
    let table = text(done.stdout);
    let line = table.lines().find(|line| line.starts_with("tiny ")).unwrap();
    assert!(line.ends_with("1.0      installed") && line.contains("native"), "{table}");

    let done = cli(&hive, &["provision", "nowhere"]);
    let err = text(done.stderr);
    assert_eq!(done.status.code(), Some(1));
    assert!(err.ends_with(&format!(
        "error: the artifact server has no such kind or version for {PLATFORM}\nhint: `rbee-hive kinds` lists the kinds that this hive knows\n"
    )), "{err}");
    for (args, wrong) in [
        (vec!["provision"], "KIND is missing"),
        (vec!["provision", "T"], "KIND: \"T\" must be"),
        (vec!["provision", "t", "--sha256", "x"], "--sha256: \"x\" must be 64 hex digits"),
    ] {
        let done = cli(&hive, &args);
        assert_eq!(done.status.code(), Some(2));
        let err = text(done.stderr);
        assert!(err.contains(wrong), "{err}");
    }

    let done = cli(&hive, &["kinds", "rm", "tiny"]);
    assert_eq!((done.status.code(), text(done.stdout).as_str()), (Some(0), "removed tiny\n"));
    assert!(listed(&hive, "tiny").is_none());
    eventually("its files are removed", || names(&kinds_folder(&hive)).is_empty());
    assert_eq!(cli(&hive, &["kinds", "rm", "tiny"]).status.code(), Some(1));
}

#[test]
fn the_command_line_tells_the_whole_path_of_a_program_that_is_here_and_runs() {
    let programs = tempfile::tempdir().unwrap();
    for (name, text) in [("llama-server", "echo version: 5000"), ("vllm", "exit 1")] {
        let path = programs.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", programs.path().display());
    let hive = Hive::builder().env("PATH", &path).start();
    let done = cli(&hive, &["provision", "llama-server"]);
    let out = String::from_utf8(done.stdout).unwrap();
    assert_eq!(out, format!("{}\n", programs.path().join("llama-server").display()));
    let done = cli(&hive, &["provision", "vllm"]);
    let err = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{err}");
    assert!(err.contains("does not tell its version"), "{err}");
}

#[test]
fn a_fleet_can_have_its_own_artifacts() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("engine"), folder.path().join("artifacts"));
    std::fs::create_dir_all(source.join("bin")).unwrap();
    let manifest = json!({"kind": "tiny", "protocol": "native", "program": "bin/run", "backends": ["cpu"],
        "args": ["worker"], "version_args": ["--version"]});
    std::fs::write(source.join("kind.json"), manifest.to_string()).unwrap();
    std::fs::copy(MOCK, source.join("bin/mock")).unwrap();
    std::os::unix::fs::symlink("mock", source.join("bin/run")).unwrap();
    let mut server = Command::new(MOCK)
        .arg("artifacts")
        .arg(&out)
        .args(["--bind", "127.0.0.1:0", "--add", &format!("tiny/0.1={}", source.display())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    assert!(lines.next().unwrap().unwrap().ends_with("  tiny/0.1"));
    let url = lines.next().unwrap().unwrap();
    let url = url.strip_prefix("artifacts at ").unwrap();
    let hive = Hive::builder().arg("--artifact-url", url).start();
    let reply = provision(&hive, json!({"kind": "tiny"}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");
    kill(server.id(), 15);
    assert!(server.wait().unwrap().success());
    let checked = Command::new("sha256sum")
        .args(["--check", &format!("{PLATFORM}.sha256")])
        .current_dir(out.join("tiny/latest"))
        .output();
    assert!(checked.unwrap().status.success());
}
