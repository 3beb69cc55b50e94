//! Kinds: what is listed and asked for its version, what a mistake in a manifest says, and what SIGHUP changes.

use crate::support;

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rbee_hive::api::{KindInfo, KindList, KindProtocol, KindSource};
use rbee_hive::client::HiveClient;
use rbee_hive::id::{Backend, Token};
use rbee_hive::kinds::{Protocol, manifest};
use serde_json::{Value, json};
use support::{Hive, descendants_of, eventually};

const HIVE: &str = env!("CARGO_BIN_EXE_rbee-hive");
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kinds");
const SIGHUP: i32 = 1;

fn run(args: &[&str]) -> Output {
    Command::new(HIVE).args(args).env_remove("RBEE_HIVE_KIND_FILE").stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A program for `sh`.
fn program(folder: &Path, name: &str, lines: &str) -> PathBuf {
    let path = folder.join(name);
    // A new file each time: one that is being written cannot be executed.
    let new = folder.join(format!("{name}.new"));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&new).unwrap();
    write!(file, "#!/bin/sh\n{lines}\n").unwrap();
    drop(file);
    std::fs::rename(&new, &path).unwrap();
    path
}

/// A kind of this name whose program is asked for its version.
fn kind(name: &str, program: &Path) -> Value {
    json!({"kind": name, "protocol": "native", "program": program, "backends": ["cpu"],
           "version_args": ["--version"]})
}

fn listed(hive: &Hive) -> Vec<KindInfo> {
    let reply = hive.get("/v1/workers/kinds");
    assert_eq!(reply.status, 200, "{}", reply.text);
    serde_json::from_str::<KindList>(&reply.text).unwrap().kinds
}

fn one(hive: &Hive, name: &str) -> KindInfo {
    listed(hive).into_iter().find(|kind| kind.kind == name).unwrap_or_else(|| panic!("no kind {name}"))
}

fn logged(hive: &Hive, what: &str) {
    eventually(what, || hive.log().contains(what));
}

#[test]
fn every_example_is_a_good_manifest() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(EXAMPLES).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let kind = manifest::read(&path).unwrap_or_else(|mistake| panic!("{mistake}"));
            assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(kind.name.as_str()));
            assert!(matches!(kind.protocol, Protocol::Probe(_)), "{}", kind.name);
            names.push(kind.name);
        }
    }
    names.sort();
    assert_eq!(names, ["plain-script", "sd-server", "text-embeddings-inference", "whisper-server"]);
}

#[test]
fn the_plain_script_runs_as_a_worker() {
    let file = format!("{EXAMPLES}/plain-script.json");
    let path = std::env::var("PATH").unwrap();
    let hive = Hive::builder().arg("--kind-file", file).env("PATH", &path).start();
    assert_eq!(one(&hive, "plain-script").version.as_deref(), Some("plain-script 1.0"));
    let id = hive.spawn("plain-script", "");
    let worker = hive.wait_state(&id, "ready");
    let url = worker["url"].as_str().unwrap();
    let size = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
    let model = hive.models.join("tiny.gguf");
    assert_eq!(size.trim(), std::fs::metadata(model).unwrap().len().to_string());
}

#[test]
fn a_mistake_keeps_serve_from_starting_and_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("my\nkind.json");
    let cases = [
        (
            json!({"kind": "k", "protocol": "native", "progam": "k", "backends": ["cpu"]}),
            "program: is missing; is it `progam`?",
        ),
        (
            json!({"kind": "k", "protocol": "probe", "program": "k", "backends": ["cpu"], "args": [],
                   "probe": {"path": "/", "timeout": "1h"}}),
            "probe.timeout: is out of bounds; it must be from 10ms to 1m",
        ),
        (
            json!({"kind": "k", "protocol": "native", "program": "k", "backends": ["cpu", 1]}),
            "backends[1]: must be a text",
        ),
    ];
    for (manifest, mistake) in cases {
        std::fs::write(&file, manifest.to_string()).unwrap();
        let name = format!("{}/my\\nkind.json", folder.path().display());
        let path = file.to_str().unwrap();
        let data = folder.path().join("data");
        let serve = run(&[
            "serve",
            "--bind",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
            "--kind-file",
            path,
        ]);
        assert_eq!(serve.status.code(), Some(2));
        assert_eq!(stderr(&serve), format!("error: --kind-file: {name}: {mistake}\n"));
        assert!(!data.exists(), "nothing was begun");
        let check = run(&["kinds", "check", path]);
        assert_eq!((check.status.code(), stderr(&check)), (Some(2), format!("error: {name}: {mistake}\n")));
    }
}

#[test]
fn a_file_that_is_no_manifest_is_named_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let good = kind("mine", Path::new("/nowhere/mine")).to_string();
    let nested = r#"{"kind":"k","env":"#.to_owned() + &r#"{"a":"#.repeat(1000);
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("mark", &[b"\xef\xbb\xbf", good.as_bytes()].concat()),
        ("utf16", &utf16),
        ("nul", b"{\"kind\": \"a\0b\"}"),
        ("deep", nested.as_bytes()),
        ("mebibyte", &vec![b' '; 1 << 20]),
        ("twice", br#"{"kind":"k","env":{"A":"1","A":"2"}}"#),
    ] {
        std::fs::write(path(name), bytes).unwrap();
    }
    std::fs::create_dir(path("folder")).unwrap();
    for (link, target) in
        [("loop", "loop"), ("dangling", "nowhere"), ("zero", "/dev/zero"), ("null", "/dev/null")]
    {
        std::os::unix::fs::symlink(target, path(link)).unwrap();
    }
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for (name, mistake) in [
        ("empty", "no valid JSON: it is empty"),
        ("mark", "no valid JSON: it begins with a byte order mark; save it as UTF-8 without one"),
        ("utf16", "no valid JSON: "),
        ("nul", "no valid JSON: control character"),
        ("deep", "no valid JSON: recursion limit exceeded at line 1 column "),
        ("mebibyte", "is larger than 262144 bytes"),
        ("twice", "no valid JSON: the field `A` stands there twice at line 1 column "),
        ("folder", "cannot be read: Is a directory"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("dangling", "cannot be read: No such file or directory"),
        ("zero", "is larger than 262144 bytes"),
        ("null", "no valid JSON: it is empty"),
        ("pipe", "no valid JSON: it is empty"),
        ("socket", "cannot be read: "),
    ] {
        let file = path(name);
        let file = file.to_str().unwrap();
        let data = path("data");
        let serve =
            ["serve", "--bind", "127.0.0.1:0", "--data-dir", data.to_str().unwrap(), "--kind-file", file];
        for (args, prefix) in [(&serve[..], "--kind-file: "), (&["kinds", "check", file], "")] {
            let output = run(args);
            let line = stderr(&output);
            assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{name}: {line}");
            assert!(line.starts_with(&format!("error: {prefix}{file}: {mistake}")), "{line}");
        }
        assert!(!data.exists(), "nothing was begun");
    }
    drop(socket);
    // A pipe that somebody writes to is read to its end.
    let mut check = Command::new(HIVE);
    check.args(["kinds", "check", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(good.as_bytes()).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(0));
}

#[test]
fn check_names_each_bad_file_and_praises_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (good, same, bad) = (path("good.json"), path("same.json"), path("bad.json"));
    let manifest = kind("mine", Path::new("/nowhere/mine"));
    std::fs::write(&good, manifest.to_string()).unwrap();
    std::fs::write(&same, manifest.to_string()).unwrap();
    std::fs::write(&bad, "{").unwrap();
    let alone = run(&["kinds", "check", &good]);
    assert_eq!(alone.status.code(), Some(0));
    assert_eq!(stdout(&alone), format!("{good}: good, kind mine; its program is not on this machine\n"));
    let all = run(&["kinds", "check", &good, &same, &bad]);
    assert_eq!((all.status.code(), stdout(&all)), (Some(2), String::new()));
    let lines = stderr(&all);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.starts_with(&format!("error: {same}: kind: another file has `mine` already\n")), "{lines}");
    assert!(lines.contains(&format!("\nerror: {bad}: no valid JSON: ")), "{lines}");
    let told = run(&["kinds", "check", "--json", &good, &same]);
    let told: Value = serde_json::from_str(&stdout(&told)).unwrap();
    assert_eq!(
        told,
        json!({"files": [
            {"file": good, "good": true, "kind": "mine", "found": false, "path": null},
            {"file": same, "good": false, "field": "kind", "message": "another file has `mine` already"},
        ]})
    );
    assert_eq!(run(&["kinds", "check"]).status.code(), Some(2));
    assert_eq!(run(&["kinds", "schema", "--kind-file", &good]).status.code(), Some(2));
    let schema: Value = serde_json::from_str(&stdout(&run(&["kinds", "schema"]))).unwrap();
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn whoever_does_not_read_what_is_wrong_gets_the_exit_code() {
    for (args, code) in [(&["kinds", "check", "/nowhere"][..], 2), (&["no-such-command"], 2), (&[], 2)] {
        let (nobody, stderr) = std::io::pipe().unwrap();
        drop(nobody);
        let status = Command::new(HIVE).args(args).stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn a_hive_lists_its_kinds_to_whoever_has_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let here = program(folder.path(), "here", "echo loading things >&2; echo mine version 1.2.3");
    let hive = Hive::builder()
        .token("s3cret")
        .kind(kind("here", &here))
        .kind(kind("absent", &folder.path().join("absent")))
        .kind(json!({"kind": "vllm", "protocol": "native", "program": here, "backends": ["cpu", "cuda"]}))
        .start();
    let reply = hive.request("GET", "/v1/workers/kinds", &[("Authorization", "Bearer other")], None);
    assert_eq!((reply.status, reply.code().as_str()), (401, "INVALID_API_KEY"));
    let client = HiveClient::new(&hive.url).unwrap().with_token(Token::parse("s3cret").unwrap());
    let kinds = client.kinds().unwrap();
    assert_eq!(kinds, listed(&hive));
    let names: Vec<&str> = kinds.iter().map(|kind| kind.kind.as_str()).collect();
    let expected = ["llm-worker-rbee", "llama-server", "vllm", "mock", "mock-probe", "here", "absent"];
    assert_eq!(names, expected);
    let path = Some(here.to_str().unwrap().to_owned());
    assert_eq!(
        kinds[5],
        KindInfo {
            kind: "here".to_owned(),
            protocol: KindProtocol::Native,
            backends: vec![Backend::Cpu],
            found: true,
            path: path.clone(),
            version: Some("1.2.3".to_owned()),
            source: KindSource::File,
        }
    );
    let absent =
        KindInfo { kind: "absent".to_owned(), found: false, path: None, version: None, ..kinds[5].clone() };
    assert_eq!(kinds[6], absent);
    // A manifest in the place of a built-in kind, which is not asked for a version.
    let vllm = &kinds[2];
    assert_eq!((vllm.source, &vllm.version, &vllm.path), (KindSource::File, &None, &path));
    assert_eq!(kinds[1].source, KindSource::Builtin);
    let table = Command::new(HIVE)
        .args(["kinds", "--url", &hive.url])
        .env("RBEE_HIVE_TOKEN", "s3cret")
        .output()
        .unwrap();
    let table = stdout(&table);
    assert!(table.starts_with("KIND ") && table.contains("absent "), "{table}");
    assert!(
        table.lines().any(|line| line.starts_with("here ") && line.ends_with("1.2.3    file")),
        "{table}"
    );
}

#[test]
fn kinds_are_shown_without_a_hive_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let vllm = program(folder.path(), "vllm", "echo INFO something; echo 0.11.0");
    let file = folder.path().join("k.json");
    std::fs::write(&file, kind("mine", &program(folder.path(), "mine", "exit 3")).to_string()).unwrap();
    let worker = format!("vllm={}", vllm.display());
    let args = ["kinds", "--local", "--json", "--worker", &worker, "--kind-file", file.to_str().unwrap()];
    let shown = run(&args);
    assert_eq!(shown.status.code(), Some(0), "{}", stderr(&shown));
    let kinds = serde_json::from_str::<KindList>(&stdout(&shown)).unwrap().kinds;
    let versions: Vec<_> = kinds.iter().map(|kind| (kind.kind.as_str(), kind.version.as_deref())).collect();
    assert_eq!(versions[2..], [("vllm", Some("0.11.0")), ("mine", None)]);
    assert!(kinds[3].found);
}

#[test]
fn many_who_ask_at_once_run_a_program_once_and_again_when_it_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let lines = |version: u32| format!("echo run >> {}; sleep 0.2; echo {version}.0", runs.display());
    let path = program(folder.path(), "mine", &lines(1));
    let hive = Hive::builder().kind(kind("mine", &path)).start();
    let count = || std::fs::read_to_string(&runs).unwrap().lines().count();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(one(&hive, "mine").version.as_deref(), Some("1.0")));
        }
    });
    assert_eq!(count(), 1);
    program(folder.path(), "mine", &lines(2));
    assert_eq!(one(&hive, "mine").version.as_deref(), Some("2.0"));
    assert_eq!(one(&hive, "mine").version.as_deref(), Some("2.0"));
    assert_eq!(count(), 2);
}

#[test]
fn a_program_that_hangs_holds_no_request_and_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(folder.path(), "hangs", "sleep 600 & sleep 600");
    let endless = program(folder.path(), "endless", "yes");
    let sound = program(folder.path(), "sound", "echo 1.0");
    let hive = Hive::builder()
        .kind(kind("hangs", &path))
        .kind(kind("endless", &endless))
        .kind(kind("sound", &sound))
        .arg("--threads", 1)
        .start();
    std::thread::scope(|scope| {
        let ask = scope.spawn(|| listed(&hive));
        eventually("the program and its child run", || hive.processes().len() >= 3);
        // The one request thread is free: a spawn is answered, and refused.
        let refused = hive.post("/v1/workers/spawn", &json!({"model_ref": "file:/nowhere.gguf"}));
        assert_eq!(refused.status / 100, 4, "{}", refused.text);
        let kinds = ask.join().unwrap();
        let version = |name: &str| kinds.iter().find(|kind| kind.kind == name).unwrap().version.clone();
        assert_eq!((version("hangs"), version("endless")), (None, None));
        assert_eq!(version("sound").as_deref(), Some("1.0"));
    });
    logged(&hive, "no answer in time");
    assert!(hive.log().contains("it prints too much"), "{}", hive.log());
    eventually("all of the group is dead", || hive.processes().is_empty());
    assert_eq!(one(&hive, "hangs").version, None);
}

#[test]
fn a_program_that_is_asked_dies_with_the_hive() {
    let programs = tempfile::tempdir().unwrap();
    let path = program(programs.path(), "hangs", "sleep 600 & sleep 600");
    let mut hive = Hive::builder().kind(kind("hangs", &path)).start();
    let folder = hive.folder.path().to_owned();
    std::thread::scope(|scope| {
        let url = &hive.url;
        scope.spawn(move || drop(HiveClient::new(url).unwrap().kinds()));
        eventually("the program and its child run", || hive.processes().len() >= 4);
        hive.signal(9);
        eventually("nothing is left", || descendants_of(&folder).is_empty());
    });
    hive.wait_exit();
}

#[test]
fn sighup_reads_kinds_again_and_a_mistake_leaves_the_old_ones() {
    let hive = Hive::builder().kind(kind("first", Path::new("/nowhere/first"))).start();
    let running = hive.spawn("mock", "");
    hive.wait_state(&running, "ready");
    let file = hive.folder.path().join("kind-2.json");
    let names = || listed(&hive).into_iter().map(|kind| kind.kind).collect::<Vec<_>>();
    assert!(names().contains(&"first".to_owned()));

    std::fs::write(&file, kind("second", Path::new("/nowhere/second")).to_string()).unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "kinds read again changed=true");
    assert!(names().contains(&"second".to_owned()) && !names().contains(&"first".to_owned()));

    std::fs::write(&file, r#"{"kind": "third"}"#).unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "kinds not read again, the old ones stay");
    assert!(hive.log().contains("protocol: is missing"), "{}", hive.log());
    assert!(names().contains(&"second".to_owned()));

    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "is no file any more");
    assert!(names().contains(&"second".to_owned()));
    assert_eq!(hive.worker(&running)["state"], "ready");
}

#[test]
fn a_worker_keeps_the_kind_that_it_was_started_with() {
    let hive = Hive::start();
    let file = hive.folder.path().join("kind-0.json");
    let id = hive.spawn("mock", "");
    let first = hive.wait_state(&id, "ready");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    manifest["program"] = json!("/nowhere/mock");
    std::fs::write(&file, manifest.to_string()).unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "kinds read again changed=true");
    let refused = hive.post("/v1/workers/spawn", &json!({"model_ref": hive.model_ref(), "kind": "mock"}));
    assert_eq!((refused.status, refused.code().as_str()), (409, "KIND_NOT_INSTALLED"));
    support::kill(u32::try_from(first["pid"].as_u64().unwrap()).unwrap(), 9);
    hive.wait(&id, "ready again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
}

#[test]
fn sighup_reads_tokens_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let queen = attentive_queen();
    let hive = Hive::builder().arg("--token-file", file.display()).arg("--queen-url", &queen.url).start();
    let ask = |token: &str| {
        hive.request("GET", "/v1/workers/list", &[("Authorization", &format!("Bearer {token}"))], None).status
    };
    assert_eq!((ask("first"), ask("second")), (200, 401));
    queen.wait_for("Bearer first");
    std::fs::write(&file, "second\n").unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "the API's token read again token=token:");
    assert_eq!((ask("first"), ask("second")), (401, 200));
    // Without a token of its own the queen is shown the hive's.
    queen.wait_for("Bearer second");
    std::fs::write(&file, "two words\n").unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "the API's token not read again, the old one stays");
    assert_eq!(ask("second"), 200);
    assert!(!hive.log().contains("second") && !hive.log().contains("two words"));
}

#[test]
fn sighup_reads_the_queens_own_token_again_and_a_mistake_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queens-token");
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("hers\n");
    let queen = attentive_queen();
    let hive = Hive::builder()
        .token("ours")
        .arg("--queen-token-file", file.display())
        .arg("--queen-url", &queen.url)
        .start();
    queen.wait_for("Bearer hers");
    write("hers-too\n");
    hive.signal(SIGHUP);
    queen.wait_for("Bearer hers-too");
    assert_eq!(hive.get("/v1/workers").status, 200, "the hive's own is another one, and stays");
    std::fs::remove_file(&file).unwrap();
    hive.signal(SIGHUP);
    logged(&hive, "the queen's token not read again, the old one stays");
    queen.wait_for("Bearer hers-too");
}

/// A queen that keeps what she is shown.
struct Queen {
    url: String,
    shown: crossbeam_channel::Receiver<String>,
}

fn attentive_queen() -> Queen {
    use std::io::{BufRead as _, BufReader, Read as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, shown) = crossbeam_channel::unbounded();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(stream);
            let (mut token, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                match line.trim().split_once(": ") {
                    Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                        value.clone_into(&mut token)
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.parse().unwrap()
                    }
                    _ => {}
                }
            }
            let _ = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink());
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = reader.get_mut().write_all(answer.as_bytes());
            if tell.send(token).is_err() {
                break;
            }
        }
    });
    Queen { url, shown }
}

impl Queen {
    fn wait_for(&self, token: &str) {
        let deadline = std::time::Instant::now() + support::PATIENCE;
        while self.shown.recv_deadline(deadline).expect("she is shown it") != token {}
    }
}
