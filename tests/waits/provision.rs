//! Provision: kinds that are fetched from an artifact server, installed, used, replaced and removed; and what happens
//! when server, archive or disk are not as they should be.

use crate::support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use flate2::Compression;
use flate2::write::GzEncoder;
use rbee_hive::api::{KindInfo, KindSource, ProvisionRequest};
use rbee_hive::client::HiveClient;
use rbee_hive::mock::hub::{Fault, Hub, HubCode, Options, Place, Repository, Times};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use support::{Builder, Hive};

mod broken_off;
mod command_line;
mod shelf;

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
