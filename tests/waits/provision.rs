//! Provision: kinds that are fetched from an artifact server, installed, used, replaced and removed; and what happens
//! when server, archive or disk are not as they should be.

use crate::support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use flate2::Compression;
use flate2::write::GzEncoder;
use rbee_hive::api::{KindInfo, KindSource, ProvisionRequest};
use rbee_hive::client::HiveClient;
use rbee_hive::mock::hub::{Fault, Hub, HubCode, Options, Place, Repository, Times};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use support::{Builder, Hive, eventually};

const HIVE: &str = env!("CARGO_BIN_EXE_rbee-hive");
const MOCK: &str = env!("CARGO_BIN_EXE_rbee-mock");
const PLATFORM: &str = rbee_hive::kinds::provision::PLATFORM;

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server of artifacts: a branch of a repository of the hub.
struct Server {
    hub: Hub,
    repository: std::cell::RefCell<Vec<(String, Vec<u8>)>>,
}

impl Server {
    fn start() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        Self { hub: Hub::start(options).unwrap(), repository: Vec::new().into() }
    }

    fn url(&self) -> String {
        format!("{}/fleet/artifacts/resolve/main", self.hub.url())
    }

    /// A file, from now on.
    fn put(&self, path: &str, bytes: &[u8]) {
        let mut files = self.repository.borrow_mut();
        files.retain(|(other, _)| other != path);
        files.push((path.to_owned(), bytes.to_vec()));
        let all = files.iter().fold(Repository::new(), |all, (path, bytes)| all.with(path, bytes.clone()));
        self.hub.add("fleet/artifacts", all);
    }

    /// An artifact and its checksum.
    fn publish(&self, kind: &str, version: &str, bytes: &[u8]) {
        let path = format!("{kind}/{version}/{PLATFORM}");
        self.put(&format!("{path}.sha256"), format!("{}  {PLATFORM}\n", sha256(bytes)).as_bytes());
        self.put(&path, bytes);
    }

    /// How many bytes of artifacts were sent.
    fn sent(&self) -> u64 {
        let requests = self.hub.requests();
        requests.iter().filter(|seen| seen.path.ends_with(PLATFORM)).map(|seen| seen.sent).sum()
    }

    fn hive(&self) -> Builder {
        Hive::builder().arg("--artifact-url", self.url())
    }
}

fn pack(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A kind whose program is the stand-in, and says that it is of this version.
fn kind_of(name: &str, version: &str) -> Vec<u8> {
    let manifest = json!({"kind": name, "protocol": "native", "program": "bin/run", "backends": ["cpu"],
        "args": ["worker", "--slots", "{parallel}"], "version_args": ["--version"]});
    let program =
        format!("#!/bin/sh\n[ \"$1\" = --version ] && echo version {version} && exit\nexec {MOCK} \"$@\"\n");
    pack(&[
        ("k/kind.json", 0o644, manifest.to_string().as_bytes()),
        ("k/bin/run", 0o755, program.as_bytes()),
        ("k/LICENSE", 0o644, b"do what you like"),
    ])
}

fn program_of(version: &str) -> Vec<u8> {
    format!("#!/bin/sh\necho version {version}\n").into_bytes()
}

fn provision(hive: &Hive, body: Value) -> support::Reply {
    hive.post("/v1/workers/provision", &body)
}

fn listed(hive: &Hive, name: &str) -> Option<KindInfo> {
    let kinds = HiveClient::new(&hive.url).unwrap().kinds().unwrap();
    kinds.into_iter().find(|kind| kind.kind == name)
}

fn kinds_folder(hive: &Hive) -> PathBuf {
    hive.folder.path().join("data/kinds")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The folders of the versions of a kind that are on the disk.
fn versions(hive: &Hive, kind: &str) -> Vec<String> {
    names(&kinds_folder(hive).join(kind)).into_iter().filter(|name| name != "current").collect()
}

#[track_caller]
fn refused(hive: &Hive, body: Value, status: u16, code: &str) -> String {
    let reply = provision(hive, body);
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{}", reply.text);
    reply.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn an_archive_is_installed_and_a_worker_runs_from_it() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.7"));
    let hive = server.hive().start();
    let spawn = json!({"model_ref": hive.model_ref(), "kind": "tiny"});
    assert_eq!(hive.post("/v1/workers/spawn", &spawn).code(), "KIND_NOT_FOUND");
    let reply = provision(&hive, json!({"kind": "tiny"}));
    assert_eq!(reply.status, 200, "{}", reply.text);
    let told = reply.json();
    assert_eq!((&told["kind"], &told["version"]), (&json!("tiny"), &json!("1.7")));
    assert_eq!(told["message"], "version latest is installed");
    let path = told["path"].as_str().unwrap();
    assert!(
        Path::new(path).starts_with(kinds_folder(&hive).join("tiny")) && path.ends_with("/files/k/bin/run"),
        "{path}"
    );

    let kind = listed(&hive, "tiny").unwrap();
    assert_eq!((kind.found, kind.source), (true, KindSource::Installed));
    assert_eq!((kind.path.as_deref(), kind.version.as_deref()), (Some(path), Some("1.7")));
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");

    // It is here: nothing is fetched again, not even its checksum.
    let before = server.hub.requests().len();
    let again = provision(&hive, json!({"kind": "tiny"})).json();
    assert_eq!((&again["path"], &again["message"]), (&told["path"], &json!("it is here already")));
    assert_eq!(server.hub.requests().len(), before);
}

#[test]
fn a_program_is_installed_for_a_kind_that_every_hive_knows_and_outlives_the_hive() {
    let server = Server::start();
    server.publish("llama-server", "b7000", &program_of("7000"));
    let hive = server.hive().start();
    assert!(!listed(&hive, "llama-server").unwrap().found);
    let reply = provision(&hive, json!({"kind": "llama-server", "version": "b7000"}));
    assert_eq!((reply.status, &reply.json()["version"]), (200, &json!("7000")), "{}", reply.text);
    let path = reply.json()["path"].clone();
    hive.signal(15);
    let hive = hive.restart(Hive::builder());
    let kind = listed(&hive, "llama-server").unwrap();
    assert_eq!((kind.source, json!(kind.path)), (KindSource::Installed, path));
    // Without a server: it is here.
    assert_eq!(provision(&hive, json!({"kind": "llama-server", "version": "b7000"})).status, 200);
    let message =
        refused(&hive, json!({"kind": "llama-server", "version": "b7001"}), 409, "KIND_NOT_INSTALLED");
    assert!(message.contains("--artifact-url"), "{message}");

    let local = Command::new(HIVE)
        .args(["kinds", "--local", "--json", "--data-dir"])
        .arg(hive.folder.path().join("data"))
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let local: Value = serde_json::from_slice(&local.stdout).unwrap();
    assert_eq!(local["kinds"][1]["source"], "installed", "{local}");
}

#[test]
fn fifty_who_ask_at_once_cost_one_download_and_no_request_thread() {
    let server = Server::with(Options { rate: Some(8 << 20), ..Options::default() });
    let mut program = program_of("1.0");
    program.resize(6 << 20, b'#');
    server.publish("vllm", "latest", &program);
    let hive = server.hive().arg("--threads", 1).start();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let ask = || {
            let reply = provision(&hive, json!({"kind": "vllm"}));
            done.fetch_add(1, Relaxed);
            (reply.status, reply.text)
        };
        let askers: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        assert!(server.hub.wait_for(support::PATIENCE, |seen| {
            seen.iter().any(|seen| seen.path.ends_with(PLATFORM) && seen.sent > 1 << 20)
        }));
        // The one thread is free meanwhile.
        assert_eq!(hive.get("/v1/models").status, 200);
        assert_eq!(done.load(Relaxed), 0, "nobody was answered before the end");
        let answers: Vec<_> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        assert!(answers.iter().all(|(status, text)| *status == 200 && *text == answers[0].1), "{answers:?}");
    });
    let sent = server.sent();
    let once = (6 << 20)..(6 << 20) + 1024;
    assert!(once.contains(&sent), "{sent} bytes were sent: the artifact, and what tells its length");
    assert_eq!(versions(&hive, "vllm").len(), 1);
}

#[test]
fn a_checksum_that_is_given_needs_no_published_one_and_decides() {
    let server = Server::start();
    let program = program_of("1.0");
    server.put(&format!("vllm/latest/{PLATFORM}"), &program);
    let hive = server.hive().start();
    let message = refused(&hive, json!({"kind": "vllm"}), 502, "UPSTREAM");
    assert!(message.contains("publishes no checksum"), "{message}");
    let wrong = json!({"kind": "vllm", "sha256": "0".repeat(64)});
    assert_eq!(refused(&hive, wrong, 502, "UPSTREAM"), "the bytes that came are not those of the checksum");
    assert!(names(&kinds_folder(&hive)).is_empty());
    let right = json!({"kind": "vllm", "sha256": sha256(&program).to_uppercase()});
    assert_eq!(provision(&hive, right).status, 200);
}

/// What a server may do wrong that no second try mends.
#[test]
fn what_is_wrong_with_an_artifact_is_said_and_nothing_is_left() {
    let manifest = |program: &str, kind: &str| {
        json!({"kind": kind, "protocol": "native", "program": program, "backends": ["cpu"]})
            .to_string()
            .into_bytes()
    };
    let run: (&str, u32, &[u8]) = ("run", 0o755, b"#!/bin/sh\n");
    let with = |manifest: &[u8]| pack(&[("kind.json", 0o644, manifest), run]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "html",
            b"<!doctype html>".to_vec(),
            "it is no archive with a kind.json, and no kind of that name is known without one",
        ),
        (
            "vllm",
            b"<!doctype html>".to_vec(),
            "it is neither a gzipped tar, nor an ELF program, nor a script that begins with #!",
        ),
        ("broken", b"\x1f\x8bno gzip at all".to_vec(), "it is no gzipped tar, or a broken one: "),
        ("none", pack(&[run]), "the archive has no kind.json, at its top or in its one folder"),
        (
            "two",
            pack(&[("a/kind.json", 0o644, b"{}"), ("b/run", 0o755, b"#!")]),
            "the archive has no kind.json",
        ),
        ("json", with(b"{"), "kind.json: "),
        ("other", with(&manifest("./run", "another")), "kind.json: kind: is not other"),
        ("away", with(&manifest("/bin/sh", "away")), "kind.json: program: must be a path in the archive"),
        ("above", with(&manifest("../run", "above")), "kind.json: program: must be a path in the archive"),
        (
            "absent",
            with(&manifest("nowhere", "absent")),
            "kind.json: program: is not in the archive, or no executable",
        ),
        (
            "plain",
            with(&manifest("kind.json", "plain")),
            "kind.json: program: is not in the archive, or no executable",
        ),
    ];
    let server = Server::start();
    let hive = server.hive().start();
    for (kind, bytes, why) in cases {
        server.publish(kind, "latest", &bytes);
        let message = refused(&hive, json!({"kind": kind}), 502, "UPSTREAM");
        let why = format!("the artifact cannot be installed: {why}");
        assert!(message.starts_with(&why), "{kind}: {message}");
    }
    // The pages of the hub's storage: what stands beside the artifact is none of sha256sum's.
    for (kind, text) in
        [("text", "<!doctype html>"), ("empty", ""), ("short", "abc  x"), ("long", &"x".repeat(70_000))]
    {
        server.put(&format!("{kind}/latest/{PLATFORM}"), b"#!");
        server.put(&format!("{kind}/latest/{PLATFORM}.sha256"), text.as_bytes());
        let message = refused(&hive, json!({"kind": kind}), 502, "UPSTREAM");
        assert_eq!(message, "what the artifact server publishes as its checksum is no line of sha256sum's");
    }
    server.publish("empty", "latest", b"");
    let message = refused(&hive, json!({"kind": "empty"}), 502, "UPSTREAM");
    assert!(message.contains("empty") || message.contains("shorter"), "{message}");
    let message = refused(&hive, json!({"kind": "nowhere"}), 404, "KIND_NOT_FOUND");
    assert_eq!(message, format!("the artifact server has no such kind or version for {PLATFORM}"));
    assert!(names(&kinds_folder(&hive)).is_empty(), "{:?}", names(&kinds_folder(&hive)));
    assert!(listed(&hive, "other").is_none() && !listed(&hive, "vllm").unwrap().found);
}

/// What may pass is tried again, six times in all: some of these take half a minute, all at once.
#[test]
fn a_server_that_is_not_well_is_asked_again_and_then_named() {
    const LARGE: usize = 3 << 20;
    const NO_LENGTH: Option<&str> = Some("it does not say how long the file is");
    // Of the bytes of the artifact: the checksum is short, and comes whole.
    let cases: Vec<(&str, Vec<Fault>, Times, Option<&str>)> = vec![
        ("cut once", vec![Fault::Cut(1 << 20)], Times::Once, None),
        ("a wrong byte once", vec![Fault::Corrupt(5)], Times::Once, None),
        ("no ranges", vec![Fault::NoRanges], Times::Always, None),
        ("busy twice", vec![Fault::Status(503)], Times::Count(2), None),
        (
            "a wrong byte always",
            vec![Fault::Corrupt(5)],
            Times::Always,
            Some("are not those of the checksum"),
        ),
        (
            "cut always",
            vec![Fault::Cut(1000)],
            Times::Always,
            Some("the connection to the artifact server failed"),
        ),
        ("stalled always", vec![Fault::Stall(1000)], Times::Always, Some("sent nothing for too long")),
        (
            "busy always",
            vec![Fault::Status(500)],
            Times::Always,
            Some("the artifact server is not well (500)"),
        ),
        ("denied", vec![Fault::Refuse(HubCode::GatedRepo)], Times::Always, Some("denies access")),
        ("endless", vec![Fault::NoRanges, Fault::Endless], Times::Always, NO_LENGTH),
        ("no length", vec![Fault::NoRanges, Fault::Chunked], Times::Always, NO_LENGTH),
        ("a circle", vec![Fault::RedirectLoop], Times::Always, Some("it redirects in a circle")),
        ("another length", vec![Fault::TotalOff(100)], Times::Always, Some("another length")),
        ("html", vec![Fault::Html], Times::Always, Some("are not those of the checksum")),
    ];
    std::thread::scope(|scope| {
        for (what, faults, times, why) in cases {
            scope.spawn(move || {
                let server = Server::start();
                let mut program = program_of("1.0");
                program.resize(LARGE, b'#');
                server.publish("vllm", "latest", &program);
                for fault in faults {
                    let is_of_body = !matches!(
                        fault,
                        Fault::Status(_) | Fault::Refuse(_) | Fault::RedirectLoop | Fault::Html
                    );
                    let place = if is_of_body { Place::Bytes } else { Place::Any };
                    server.hub.fault(place, PLATFORM, fault, times);
                }
                let hive = server.hive().env("HF_HUB_DOWNLOAD_TIMEOUT", "1").start();
                let reply = provision(&hive, json!({"kind": "vllm"}));
                match why {
                    None => {
                        assert_eq!(reply.status, 200, "{what}: {}", reply.text);
                        // From its beginning it would be a MiB more.
                        let sent = server.sent();
                        assert!(
                            what != "cut once" || sent < (LARGE + (512 << 10)) as u64,
                            "{sent} bytes: not resumed"
                        );
                    }
                    Some(why) => {
                        assert_eq!(
                            (reply.status, reply.code().as_str()),
                            (502, "UPSTREAM"),
                            "{what}: {}",
                            reply.text
                        );
                        assert!(reply.text.contains(why), "{what}: {}", reply.text);
                        assert!(names(&kinds_folder(&hive)).is_empty(), "{what}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_full_disk_leaves_nothing_and_later_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (library, room) = (folder.path().join("disk.so"), folder.path().join("room"));
    support::build_library("disk_stub.c", &library);
    let server = Server::start();
    let manifest =
        json!({"kind": "tiny", "protocol": "native", "program": "./run", "backends": ["cpu"]}).to_string();
    // Packed it is short: the disk is full while it is unpacked.
    let zeros = vec![0; 8 << 20];
    let small = pack(&[
        ("kind.json", 0o644, manifest.as_bytes()),
        ("run", 0o755, b"#!/bin/sh\n"),
        ("zeros", 0o644, &zeros),
    ]);
    server.publish("tiny", "latest", &small);
    let mut large = program_of("1.0");
    large.resize(4 << 20, b'#');
    server.publish("vllm", "latest", &large);
    let hive = server
        .hive()
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("DISK_STUB_BYTES", &(2 << 20).to_string())
        .env("DISK_STUB_ROOM", room.to_str().unwrap())
        .start();
    for kind in ["tiny", "vllm"] {
        assert_eq!(refused(&hive, json!({"kind": kind}), 507, "INSUFFICIENT_DISK"), "the disk is full");
        assert!(names(&kinds_folder(&hive)).is_empty(), "{kind}");
    }
    std::fs::write(room, "").unwrap();
    for kind in ["tiny", "vllm"] {
        assert_eq!(provision(&hive, json!({"kind": kind})).status, 200, "{kind}");
    }
}

#[test]
fn a_new_version_takes_the_place_and_the_old_one_stays_while_a_worker_needs_it() {
    let server = Server::start();
    server.publish("tiny", "1.0", &kind_of("tiny", "1.0"));
    server.publish("tiny", "2.0", &kind_of("tiny", "2.0"));
    let hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "1.0"})).status, 200);
    let old = hive.spawn("tiny", "");
    let pid = hive.wait_state(&old, "ready")["pid"].as_u64().unwrap();
    let told = provision(&hive, json!({"kind": "tiny", "version": "2.0"})).json();
    assert_eq!(told["version"], "2.0", "{told}");
    assert_eq!(versions(&hive, "tiny").len(), 2, "the old one is in use");
    // Even after a crash it is started again from what it was started with.
    support::kill(u32::try_from(pid).unwrap(), 9);
    hive.wait(&old, "ready again", |worker| worker["state"] == "ready" && worker["restart_count"] == 1);
    hive.delete(&format!("/v1/workers/{old}"));
    hive.wait_state(&old, "gone");
    eventually("the old version is removed", || versions(&hive, "tiny").len() == 1);
    assert!(versions(&hive, "tiny")[0].starts_with("2.0-"));
    let new = hive.spawn("tiny", "");
    hive.wait_state(&new, "ready");

    // What is the latest is looked up, and fetched only if it is another one.
    server.publish("tiny", "latest", &kind_of("tiny", "2.0"));
    let before = server.sent();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "latest"})).json()["version"], "2.0");
    assert_eq!(server.sent(), before);
    server.publish("tiny", "latest", &kind_of("tiny", "3.0"));
    assert_eq!(
        provision(&hive, json!({"kind": "tiny"})).json()["version"],
        "2.0",
        "nobody asked for another"
    );
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "latest"})).json()["version"], "3.0");
}

#[test]
fn what_was_changed_after_its_installation_is_not_launched() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    let hive = server.hive().start();
    let told = provision(&hive, json!({"kind": "tiny"})).json();
    let id = hive.spawn("tiny", "");
    let pid = hive.wait_state(&id, "ready")["pid"].as_u64().unwrap();
    let license = Path::new(told["path"].as_str().unwrap()).ancestors().nth(2).unwrap().join("LICENSE");
    std::fs::write(&license, "do as WE like!!!").unwrap();
    let spawn = json!({"model_ref": hive.model_ref(), "kind": "tiny"});
    let reply = hive.post("/v1/workers/spawn", &spawn);
    assert_eq!((reply.status, reply.code().as_str()), (409, "KIND_NOT_INSTALLED"), "{}", reply.text);
    assert!(reply.text.contains("damaged; provision it again"), "{}", reply.text);
    // Nor is a worker started again from it.
    support::kill(u32::try_from(pid).unwrap(), 9);
    let last = hive.wait_state(&id, "gone");
    assert!(last["exit"].to_string().contains("damaged; provision it again"), "{last}");
    assert!(hive.log().contains("an installed kind is damaged kind=tiny file=Damaged"), "{}", hive.log());
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).json()["message"], "version latest is installed");
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");
    eventually("the damaged one is removed", || versions(&hive, "tiny").len() == 1);
}

#[test]
fn a_program_that_somebody_else_put_there_is_never_replaced() {
    let server = Server::start();
    server.publish("mock", "1.0", &kind_of("mock", "1.0"));
    server.publish("vllm", "1.0", &program_of("1.0"));
    let hive = server.hive().arg("--worker", "vllm=/nowhere/vllm").start();
    let here = provision(&hive, json!({"kind": "mock"}));
    assert_eq!((here.status, &here.json()["path"]), (200, &json!(MOCK)), "{}", here.text);
    for kind in ["mock", "vllm"] {
        let message = refused(&hive, json!({"kind": kind, "version": "1.0"}), 409, "KIND_NOT_INSTALLED");
        assert!(message.ends_with("is not replaced"), "{message}");
    }
    assert!(server.hub.requests().is_empty());
}

#[test]
fn a_program_that_is_here_and_does_not_run_is_no_answer() {
    let programs = tempfile::tempdir().unwrap();
    let path = programs.path().join("broken");
    std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hive = Hive::builder().arg("--worker", format!("vllm={}", path.display())).start();
    let message = refused(&hive, json!({"kind": "vllm"}), 409, "KIND_NOT_INSTALLED");
    assert!(message.contains("does not tell its version"), "{message}");
}

#[test]
fn wrong_arguments_are_named() {
    let server = Server::start();
    let hive = server.hive().start();
    for (body, field) in [
        (json!({}), "kind"),
        (json!({"kind": "../x"}), "kind"),
        (json!({"kind": "x", "version": "../y"}), "version"),
        (json!({"kind": "x", "version": ""}), "version"),
        (json!({"kind": "x", "sha256": "abc"}), "sha256"),
        (json!({"kind": "x", "sha256": 7}), "sha256"),
    ] {
        let reply = provision(&hive, body);
        assert_eq!(
            (reply.status, &reply.json()["error"]["details"]["field"]),
            (400, &json!(field)),
            "{}",
            reply.text
        );
    }
    assert!(server.hub.requests().is_empty());
}

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
fn the_client_waits_for_the_end_and_tells_a_failure() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    let hive = server.hive().start();
    let client = HiveClient::new(&hive.url).unwrap();
    let request = |kind: &str| ProvisionRequest { kind: kind.to_owned(), version: None, sha256: None };
    let told = client.provision(&request("tiny")).unwrap();
    assert_eq!((told.version.as_deref(), told.kind.as_str()), (Some("1.0"), "tiny"));
    let error = client.provision(&request("nowhere")).unwrap_err();
    assert!(error.to_string().ends_with("(KIND_NOT_FOUND)"), "{error}");
}

#[test]
fn the_end_of_the_hive_ends_a_provision_and_the_next_start_tidies_up() {
    let server = Server::with(Options { rate: Some(1 << 20), ..Options::default() });
    let mut program = program_of("1.0");
    program.resize(64 << 20, b'#');
    server.publish("vllm", "latest", &program);
    let mut hive = server.hive().start();
    std::thread::scope(|scope| {
        let ask = scope.spawn(|| provision(&hive, json!({"kind": "vllm"})));
        assert!(server.hub.wait_for(support::PATIENCE, |seen| seen.iter().any(|seen| seen.sent > 1 << 19)));
        hive.signal(15);
        let reply = ask.join().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (503, "SHUTTING_DOWN"), "{}", reply.text);
    });
    assert!(hive.wait_exit().success());
    assert!(names(&kinds_folder(&hive)).is_empty());
    let mut hive = hive.restart(server.hive());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                provision(&hive, json!({"kind": "vllm"}))
            }))
        });
        eventually("it is under way", || !names(&kinds_folder(&hive)).is_empty());
        hive.signal(9);
    });
    hive.wait_exit();
    assert!(!names(&kinds_folder(&hive)).is_empty(), "a killed hive leaves what it was making");
    let hive = hive.restart(Hive::builder());
    eventually("it is gone", || names(&kinds_folder(&hive)).is_empty());
}

/// A hundred kills, somewhere between the question and the answer; four hives share them.
#[test]
fn a_kill_at_any_moment_leaves_the_old_kind_or_the_new_one_whole() {
    let news = std::thread::scope(|scope| {
        let hives: Vec<_> = (0..4).map(|hive| scope.spawn(move || kill_and_look(hive, 25))).collect();
        hives.into_iter().map(|hive| hive.join().unwrap()).sum::<usize>()
    });
    println!("100 kills: {news} times the new kind was there, {} times the old one", 100 - news);
    assert!((1..100).contains(&news), "both were met");
}

/// Kills a hive so many times while it installs; how often the new version was there afterwards.
fn kill_and_look(hive_number: u64, rounds: u64) -> usize {
    let server = Server::start();
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let version_of = |version: u64| {
        let manifest = json!({"kind": "tiny", "protocol": "native", "program": "./run", "backends": ["cpu"],
            "version_args": ["--version"]});
        let program = format!(
            "#!/bin/sh\n[ \"$(cat \"${{0%/*}}/VERSION\")\" = {version} ] && echo version {version}\n"
        );
        pack(&[
            ("kind.json", 0o644, manifest.to_string().as_bytes()),
            ("run", 0o755, program.as_bytes()),
            ("noise", 0o644, &noise),
            ("VERSION", 0o644, version.to_string().as_bytes()),
        ])
    };
    server.publish("tiny", "0", &version_of(0));
    let mut hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "0"})).status, 200);
    let (mut now, mut news) = (0, 0);
    for round in 1..=rounds {
        server.publish("tiny", &round.to_string(), &version_of(round));
        let address = hive.address;
        let body = json!({"kind": "tiny", "version": round.to_string()}).to_string();
        let (tell, told) = crossbeam_channel::bounded(1);
        let ask = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = format!(
                "POST /v1/workers/provision HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
            let _ = tell.send(());
            let _ = stream.read(&mut [0; 64]);
        });
        told.recv().unwrap();
        // Spread over 160 ms: an install takes about that long beside three others.
        let moment = (hive_number * rounds + round) * 7_919 % 160_000;
        std::thread::sleep(std::time::Duration::from_micros(moment));
        hive.signal(9);
        ask.join().unwrap();
        hive = hive.restart(server.hive());
        let kind = listed(&hive, "tiny").unwrap_or_else(|| panic!("round {round}: neither\n{}", hive.log()));
        let version = kind.version.as_deref().unwrap_or_default().parse().unwrap_or(u64::MAX);
        assert!(version == now || version == round, "round {round}: {kind:?}, {now} was there");
        news += usize::from(version == round);
        now = version;
        assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200, "it is whole");
        eventually("nothing else is left", || {
            names(&kinds_folder(&hive)) == ["tiny"] && versions(&hive, "tiny").len() == 1
        });
    }
    news
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
    support::kill(server.id(), 15);
    assert!(server.wait().unwrap().success());
    let checked = Command::new("sha256sum")
        .args(["--check", &format!("{PLATFORM}.sha256")])
        .current_dir(out.join("tiny/latest"))
        .output();
    assert!(checked.unwrap().status.success());
}

/// A hive that has installed `tiny` and was stopped, and the name of the install's folder.
fn stopped_with_tiny(server: &Server) -> (Hive, String) {
    server.publish("tiny", "1.0", &kind_of("tiny", "1.0"));
    let mut hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny", "version": "1.0"})).status, 200);
    hive.signal(15);
    hive.wait_exit();
    let name = versions(&hive, "tiny").remove(0);
    (hive, name)
}

#[test]
fn what_somebody_else_put_beside_the_installs_is_left_alone() {
    let (hive, _) = stopped_with_tiny(&Server::start());
    let elsewhere = tempfile::tempdir().unwrap();
    let kinds = kinds_folder(&hive);
    let theirs = ["my-kind.json", ".hidden", "Notes/todo", "tiny/README", "tiny/.notes", "new/1.0/engine"];
    let theirs = theirs.map(|path| kinds.join(path)).into_iter();
    let theirs: Vec<_> = theirs.chain([elsewhere.path().join("1.0-0123abcd/engine")]).collect();
    let hex = "0123456789abcdef".repeat(2);
    let ours =
        [format!(".new-{hex}/files/x"), format!(".old-{hex}/x"), "tiny/0.9-0123abcd/files/x".to_owned()];
    let ours = ours.map(|path| kinds.join(path));
    for file in theirs.iter().chain(&ours) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "of worth").unwrap();
    }
    // Through these nothing is removed either.
    std::os::unix::fs::symlink(elsewhere.path(), kinds.join("linked")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), kinds.join("tiny/0.8-0123abcd")).unwrap();
    let hive = hive.restart(Hive::builder());
    eventually("what is ours is removed", || {
        !ours.iter().any(|path| path.exists()) && !kinds.join("tiny/0.8-0123abcd").is_symlink()
    });
    for file in &theirs {
        assert!(file.exists(), "{}", file.display());
    }
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200, "what counts is still there");
}

#[test]
fn an_install_that_leads_out_of_its_folder_is_none_and_is_not_removed() {
    let leads: [fn(&Path, &Path, &str); 3] = [
        |home, elsewhere, name| {
            std::fs::rename(home, elsewhere.join("tiny")).unwrap();
            std::os::unix::fs::symlink(elsewhere.join("tiny"), home).unwrap();
            assert!(home.join(name).exists());
        },
        |home, elsewhere, name| {
            std::fs::rename(home.join(name), elsewhere.join(name)).unwrap();
            std::fs::remove_file(home.join("current")).unwrap();
            std::os::unix::fs::symlink(elsewhere.join(name), home.join("current")).unwrap();
        },
        |home, elsewhere, name| {
            std::fs::rename(home.join(name), elsewhere.join(name)).unwrap();
            std::fs::remove_file(home.join("current")).unwrap();
            let up = Path::new("../../..").join(elsewhere.file_name().unwrap()).join(name);
            std::os::unix::fs::symlink(up, home.join("current")).unwrap();
            assert!(home.join("current/install.json").exists());
        },
    ];
    for (number, lead) in leads.into_iter().enumerate() {
        let server = Server::start();
        let (hive, name) = stopped_with_tiny(&server);
        let elsewhere = hive.folder.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        lead(&kinds_folder(&hive).join("tiny"), &elsewhere, &name);
        let hive = hive.restart(server.hive());
        assert!(listed(&hive, "tiny").is_none(), "{number}");
        assert!(hive.log().contains("leads to no install in its own folder"), "{}", hive.log());
        let reply = provision(&hive, json!({"kind": "tiny", "version": "1.0"}));
        if number == 0 {
            // Where others may have their own, nothing is installed.
            assert_eq!((reply.status, reply.code().as_str()), (500, "INTERNAL"), "{}", reply.text);
            assert_eq!(names(&elsewhere.join("tiny")), [name.as_str(), "current"]);
        } else {
            assert_eq!(reply.status, 200, "{}", reply.text);
            hive.delete("/v1/workers/kinds?kind=tiny");
            eventually("what was installed anew is removed", || names(&kinds_folder(&hive)).is_empty());
            assert!(elsewhere.join(&name).join("install.json").exists());
        }
    }
}

#[test]
fn a_record_that_names_what_is_not_in_its_folder_is_none() {
    let (mut hive, name) = stopped_with_tiny(&Server::start());
    let file = kinds_folder(&hive).join("tiny").join(name).join("install.json");
    let record: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let edits: [fn(&mut Value); 4] = [
        |record| record["entry"] = json!("../../../../../kind-0.json"),
        |record| record["files"][0]["path"] = json!("/etc/passwd"),
        |record| record["files"][0]["path"] = json!("k/../../x"),
        |record| record["files"] = json!([]),
    ];
    for edit in edits {
        let mut edited = record.clone();
        edit(&mut edited);
        std::fs::write(&file, edited.to_string()).unwrap();
        hive = hive.restart(Hive::builder());
        assert!(listed(&hive, "tiny").is_none(), "{edited}");
        assert!(hive.log().contains("its record names what cannot be in it"), "{}", hive.log());
        hive.signal(15);
        hive.wait_exit();
    }
}

#[test]
fn what_an_operator_did_to_the_folder_is_told_and_no_trap() {
    let server = Server::start();
    server.publish("tiny", "latest", &kind_of("tiny", "1.0"));
    let hive = server.hive().start();
    let home = kinds_folder(&hive).join("tiny");
    std::fs::create_dir_all(home.join("current")).unwrap();
    let message = refused(&hive, json!({"kind": "tiny"}), 500, "INTERNAL");
    assert_eq!(message, "the data directory cannot be written: is a directory");
    assert_eq!(names(&home), ["current"], "nothing is left of it");
    std::fs::remove_dir(home.join("current")).unwrap();
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200);
    std::fs::remove_dir_all(&home).unwrap();
    assert_eq!(hive.delete("/v1/workers/kinds?kind=tiny").status, 202, "it has gone already");
    assert!(listed(&hive, "tiny").is_none());
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

/// What was written just now is not read again before the first launch.
#[test]
fn a_spawn_after_an_installation_reads_no_files_again() {
    let server = Server::start();
    let manifest = json!({"kind": "tiny", "protocol": "native", "program": "./run", "backends": ["cpu"],
        "args": ["worker"]});
    let program = format!("#!/bin/sh\nexec {MOCK} \"$@\"\n");
    let zeros = vec![0; 64 << 20];
    let manifest = manifest.to_string();
    let files: [(&str, u32, &[u8]); 3] = [
        ("kind.json", 0o644, manifest.as_bytes()),
        ("run", 0o755, program.as_bytes()),
        ("zeros", 0o644, &zeros),
    ];
    server.publish("tiny", "latest", &pack(&files));
    let hive = server.hive().start();
    assert_eq!(provision(&hive, json!({"kind": "tiny"})).status, 200);
    let bytes_read = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", hive.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let before = bytes_read();
    let id = hive.spawn("tiny", "");
    hive.wait_state(&id, "ready");
    let read = bytes_read() - before;
    assert!(read < 32 << 20, "{read} bytes were read");
}

/// Two versions, removals, spawns and SIGHUPs, all at once and again and again.
#[test]
fn installing_removing_and_launching_at_once_leaves_one_or_none_and_whole() {
    let server = Server::start();
    for version in ["1.0", "2.0"] {
        server.publish("tiny", version, &kind_of("tiny", version));
    }
    let hive = server.hive().ports(40).start();
    let hive = &hive;
    let again = |what: &dyn Fn() -> u16, good: &[u16]| {
        for _ in 0..30 {
            let status = what();
            assert!(good.contains(&status), "{status}\n{}", hive.log());
        }
    };
    std::thread::scope(|scope| {
        for version in ["1.0", "2.0"] {
            let ask = move || provision(hive, json!({"kind": "tiny", "version": version})).status;
            // 409: somebody removed it at once.
            scope.spawn(move || again(&ask, &[200, 409]));
        }
        scope.spawn(move || again(&|| hive.delete("/v1/workers/kinds?kind=tiny").status, &[202, 404]));
        scope.spawn(|| {
            let body = json!({"model_ref": hive.model_ref(), "kind": "tiny"});
            let spawn = || {
                hive.signal(1);
                let reply = hive.post("/v1/workers/spawn", &body);
                if reply.status == 201 || reply.status == 202 || reply.status == 200 {
                    let id = reply.json()["worker_id"].as_str().unwrap().to_owned();
                    hive.delete(&format!("/v1/workers/{id}?force=true"));
                    return 200;
                }
                reply.status
            };
            again(&spawn, &[200, 404, 409]);
        });
    });
    eventually("all workers are gone", || hive.processes().is_empty());
    let is_there = listed(hive, "tiny").is_some();
    eventually("what nobody uses is removed", || versions(hive, "tiny").len() == usize::from(is_there));
    // Out of sight first, then off the disk.
    eventually("nothing else is left", || names(&kinds_folder(hive)).iter().all(|name| name == "tiny"));
    assert!(!hive.log().contains("damaged") && !hive.log().contains("panic"), "{}", hive.log());
    assert_eq!(provision(hive, json!({"kind": "tiny"})).status, if is_there { 200 } else { 404 });
}
