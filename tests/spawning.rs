//! What a spawn makes of a model, a kind, a port and a key, and what its process is given.

mod support;

use std::collections::HashSet;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use support::{Hive, Reply, eventually, gguf, kill, variable};

const SPAWN: &str = "/v1/workers/spawn";

fn spawn_model(hive: &Hive, model: &str) -> Reply {
    hive.post(SPAWN, &json!({"model_ref": model, "kind": "mock"}))
}

fn id_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{}", reply.text);
    reply.json()["worker_id"].as_str().unwrap().to_owned()
}

/// A repository in the cache as `huggingface_hub` leaves it.
fn cache_repository(models: &Path, files: &[(&str, &[u8])]) {
    let repository = models.join("models--org--tiny");
    let snapshot = repository.join("snapshots/c0ffee");
    for folder in [&snapshot, &repository.join("refs"), &repository.join("blobs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("refs/main"), "c0ffee").unwrap();
    for (n, (name, bytes)) in files.iter().enumerate() {
        std::fs::write(repository.join(format!("blobs/{n}")), bytes).unwrap();
        symlink(format!("../../blobs/{n}"), snapshot.join(name)).unwrap();
    }
}

#[test]
fn a_spawn_says_what_it_made() {
    let hive = Hive::start();
    let body = json!({"model_ref": hive.model_ref(), "kind": "mock", "parallel": 3, "device": 7, "backend": "cpu",
        "extra_args": ["--load-ms", "1"], "model_path": "/etc/passwd", "nobody knows": {"this": ["field"]}});
    let reply = hive.post(SPAWN, &body);
    let id = id_of(&reply);
    assert_eq!(reply.header("Location"), format!("/v1/workers/{id}"));
    assert_eq!(reply.json()["state"], "spawning");
    let worker = hive.wait_state(&id, "ready");
    assert_eq!(worker["url"], reply.json()["url"]);
    assert_eq!(worker["model_ref"], hive.model_ref());
    assert_eq!((&worker["device"], &worker["backend"]), (&json!("cpu"), &json!("cpu")));
    assert_eq!((&worker["slots_total"], &worker["slots_available"]), (&json!(3), &json!(3)));
    assert_eq!((&worker["kind"], &worker["restart_count"]), (&json!("mock"), &json!(0)));
    assert!(hive.ports.contains(&u16::try_from(worker["port"].as_u64().unwrap()).unwrap()));
    // Its first heartbeat may come between two questions.
    eventually("all ways to ask for it say the same", || {
        let lists = ["/v1/workers", "/v1/workers/list"].map(|path| hive.get(path).json()["workers"].clone());
        lists == [json!([hive.worker(&id)]), json!([hive.worker(&id)])]
    });
}

#[test]
fn files_that_are_no_models_and_files_from_elsewhere_are_refused() {
    let hive = Hive::start();
    let elsewhere = hive.folder.path().join("elsewhere.gguf");
    gguf::TINY.write(&elsewhere);
    symlink(&elsewhere, hive.models.join("link.gguf")).unwrap();
    symlink(hive.folder.path(), hive.models.join("folder")).unwrap();
    symlink("nowhere", hive.models.join("dangling.gguf")).unwrap();
    symlink("circle.gguf", hive.models.join("circle.gguf")).unwrap();
    std::fs::create_dir(hive.models.join("dir.gguf")).unwrap();
    for (name, bytes) in [
        ("empty.gguf", &b""[..]),
        ("short.gguf", b"GGU"),
        ("magic.gguf", b"GGUF"),
        ("other.gguf", b"PK\x03\x04\0\0\0\0"),
        ("old.gguf", b"GGUF\x01\0\0\0"),
        ("new.gguf", b"GGUF\xff\0\0\0"),
        ("short.safetensors", b"\xff\0\0\0\0\0\0\0{"),
    ] {
        std::fs::write(hive.models.join(name), bytes).unwrap();
    }
    gguf::TINY.write(&hive.models.join("shut.gguf"));
    std::fs::set_permissions(hive.models.join("shut.gguf"), Permissions::from_mode(0o000)).unwrap();
    let root = std::fs::read(hive.models.join("shut.gguf")).is_ok();
    for (name, status, code) in [
        ("none.gguf", 404, "MODEL_NOT_FOUND"),
        ("link.gguf", 404, "MODEL_NOT_FOUND"),
        ("folder/elsewhere.gguf", 404, "MODEL_NOT_FOUND"),
        ("dangling.gguf", 404, "MODEL_NOT_FOUND"),
        ("circle.gguf", 404, "MODEL_NOT_FOUND"),
        ("dir.gguf", 404, "MODEL_NOT_FOUND"),
        ("", 404, "MODEL_NOT_FOUND"),
        ("empty.gguf", 422, "MODEL_INVALID"),
        ("short.gguf", 422, "MODEL_INVALID"),
        ("magic.gguf", 422, "MODEL_INVALID"),
        ("other.gguf", 422, "MODEL_INVALID"),
        ("old.gguf", 422, "MODEL_INVALID"),
        ("new.gguf", 422, "MODEL_INVALID"),
        ("short.safetensors", 422, "MODEL_INVALID"),
        ("shut.gguf", if root { 202 } else { 422 }, if root { "" } else { "MODEL_INVALID" }),
    ] {
        let reply = spawn_model(&hive, &format!("file:{}/{name}", hive.models.display()));
        let code_seen = if reply.status == 202 { String::new() } else { reply.code() };
        assert_eq!((reply.status, code_seen.as_str()), (status, code), "{name}: {}", reply.text);
        assert!(!reply.text.contains("elsewhere") && !reply.text.contains("/models"), "{}", reply.text);
    }
    // A link within the model directory is what the hub's cache is made of.
    symlink("tiny.gguf", hive.models.join("inside.gguf")).unwrap();
    let inside = spawn_model(&hive, &format!("file:{}/inside.gguf", hive.models.display()));
    hive.wait_state(&id_of(&inside), "ready");
}

#[test]
fn a_repository_of_the_cache_is_served_by_quantisation_path_and_revision() {
    let hive = Hive::start();
    let gguf = std::fs::read(hive.models.join("tiny.gguf")).unwrap();
    cache_repository(
        &hive.models,
        &[("tiny-Q8_0.gguf", &gguf), ("tiny-Q4_K_M.gguf", &gguf), ("tiny-bad.gguf", b"no model")],
    );
    let argument = |pid: u64| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let args: Vec<_> =
            line.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let at = args.iter().position(|arg| arg == "--model").unwrap();
        args[at + 1].clone()
    };
    for (reference, file) in [
        ("hf:org/tiny", "tiny-Q4_K_M.gguf"),
        ("HF:org/tiny:Q8_0", "tiny-Q8_0.gguf"),
        ("hf:org/tiny:q8_0", "tiny-Q8_0.gguf"),
        ("hf:org/tiny:tiny-Q8_0.gguf@main", "tiny-Q8_0.gguf"),
        ("hf:org/tiny@c0ffee", "tiny-Q4_K_M.gguf"),
    ] {
        let id = id_of(&spawn_model(&hive, reference));
        let worker = hive.wait_state(&id, "ready");
        let path = argument(worker["pid"].as_u64().unwrap());
        assert!(path.ends_with(&format!("models--org--tiny/snapshots/c0ffee/{file}")), "{reference}: {path}");
        assert_eq!(hive.delete(&format!("/v1/workers/{id}?force=true")).status, 202);
    }
    for (reference, status, code) in [
        ("hf:org/none", 404, "MODEL_NOT_FOUND"),
        ("hf:org/tiny:Q2_K", 404, "MODEL_NOT_FOUND"),
        ("hf:org/tiny@dev", 404, "MODEL_NOT_FOUND"),
        ("hf:org/tiny:tiny-bad.gguf", 422, "MODEL_INVALID"),
    ] {
        let reply = spawn_model(&hive, reference);
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{reference}: {}", reply.text);
    }
    assert!(spawn_model(&hive, "hf:org/tiny:Q2_K").text.contains("Q4_K_M"), "what there is, is said");
}

#[test]
fn safetensors_want_vllm_and_a_gguf_wants_llama_server() {
    let hive = Hive::start();
    cache_repository(&hive.models, &[("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"), ("config.json", b"{}")]);
    for (model, kind) in [("hf:org/tiny", "vllm"), (hive.model_ref().as_str(), "llama-server")] {
        let reply = hive.post(SPAWN, &json!({"model_ref": model}));
        assert_eq!((reply.status, reply.code().as_str()), (409, "KIND_NOT_INSTALLED"), "{}", reply.text);
        assert_eq!(reply.json()["error"]["details"]["kind"], kind);
    }
    let mock = env!("CARGO_BIN_EXE_rbee-mock");
    let hive = Hive::builder().arg("--worker", format!("llm-worker-rbee={mock}")).start();
    let id = id_of(&hive.post(SPAWN, &json!({"model_ref": hive.model_ref(), "kind": "llm-worker-rbee"})));
    assert_eq!(hive.wait_state(&id, "ready")["kind"], "llm-worker-rbee");
}

#[test]
fn the_same_key_gives_the_same_worker_also_at_once_and_after_its_end() {
    let hive = Hive::builder().arg("--threads", 16).start();
    let body = json!({"model_ref": hive.model_ref(), "kind": "mock"}).to_string();
    let with_key = |key: &str| {
        let reply = hive.request("POST", SPAWN, &[("Idempotency-Key", key)], Some(&body));
        (id_of(&reply), reply.json()["state"].clone())
    };
    let ids: HashSet<String> = thread::scope(|scope| {
        let all: Vec<_> = (0..16).map(|_| scope.spawn(|| with_key("one").0)).collect();
        all.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1, "{ids:?}");
    let first = ids.into_iter().next().unwrap();
    hive.wait_state(&first, "ready");
    assert_eq!(with_key("one"), (first.clone(), json!("ready")));
    assert_ne!(with_key("two").0, first);
    assert_eq!(hive.workers().len(), 2);
    hive.delete(&format!("/v1/workers/{first}?force=true"));
    hive.wait_state(&first, "gone");
    assert_eq!(with_key("one"), (first, json!("gone")));
    assert_eq!(hive.workers().len(), 1, "nothing was started for a worker that ended");
}

#[test]
fn sixty_four_at_once_get_ids_and_ports_of_their_own_and_all_become_ready() {
    let hive = Hive::builder().ports(64).start();
    let mut events = hive.events();
    let spawned: Vec<Value> = thread::scope(|scope| {
        let all: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let reply = spawn_model(&hive, &hive.model_ref());
                    id_of(&reply);
                    reply.json()
                })
            })
            .collect();
        all.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let distinct =
        |field: &str| spawned.iter().map(|worker| worker[field].to_string()).collect::<HashSet<_>>().len();
    assert_eq!((distinct("worker_id"), distinct("url")), (64, 64));
    let mut ready = HashSet::new();
    while ready.len() < 64 {
        let (_, worker) = events.next_event().unwrap();
        if worker["state"] == "ready" {
            ready.insert(worker["worker_id"].to_string());
        }
    }
    let listed = hive.workers();
    assert_eq!(listed.len(), 64);
    assert!(listed.iter().all(|worker| worker["state"] == "ready" && worker["restart_count"] == 0));
    let names: Vec<_> = listed.iter().map(|worker| worker["worker_id"].to_string()).collect();
    assert!(names.is_sorted());
    // Each answers on its own port.
    let pids: HashSet<u64> = listed.iter().map(|worker| worker["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), 64);
    let reply = spawn_model(&hive, &hive.model_ref());
    assert_eq!((reply.status, reply.code().as_str()), (503, "NO_FREE_PORT"));
}

#[test]
fn a_port_is_given_once_and_never_one_on_which_somebody_listens() {
    let hive = Hive::builder().ports(4).start();
    let (first, last) = (*hive.ports.start(), *hive.ports.end());
    let _mine = TcpListener::bind(("127.0.0.1", first)).unwrap();
    let _everywhere = TcpListener::bind(("0.0.0.0", first + 1)).unwrap();
    let hinted = hive.post(SPAWN, &json!({"model_ref": hive.model_ref(), "kind": "mock", "port_hint": last}));
    assert_eq!(hinted.json()["url"], format!("http://127.0.0.1:{last}"));
    let other = spawn_model(&hive, &hive.model_ref());
    assert_eq!(other.json()["url"], format!("http://127.0.0.1:{}", last - 1));
    let full = spawn_model(&hive, &hive.model_ref());
    assert_eq!((full.status, full.code().as_str()), (503, "NO_FREE_PORT"));
    assert_eq!(hive.workers().len(), 2);
    // What has ended gives its port to the next one.
    let id = id_of(&hinted);
    hive.wait_state(&id, "ready");
    hive.delete(&format!("/v1/workers/{id}"));
    hive.wait_state(&id, "gone");
    let again = spawn_model(&hive, &hive.model_ref());
    assert_eq!(again.json()["url"], format!("http://127.0.0.1:{last}"));
    hive.wait_state(&id_of(&again), "ready");
}

#[test]
fn a_worker_is_not_ready_by_the_answer_of_another_process_on_its_port() {
    // The worker never listens; somebody else takes its port meanwhile, and answers 200.
    let sleeper = json!({"kind": "sleeper", "protocol": "probe", "program": "/bin/sh", "backends": ["cpu"],
        "args": ["-c", "echo on {port}; exec sleep 60"], "probe": {"path": "/health", "timeout": "500ms"}});
    let hive = Hive::builder().kind(sleeper).ports(4).start();
    let mut events = hive.events();
    let reply = hive.post(SPAWN, &json!({"model_ref": hive.model_ref(), "kind": "sleeper"}));
    let id = id_of(&reply);
    let loading = hive.wait(&id, "loading", |worker| worker["phase"] == "loading");
    let port = u16::try_from(loading["port"].as_u64().unwrap()).unwrap();
    let stranger = Hive::builder().arg("--bind", format!("127.0.0.1:{port}")).start();
    loop {
        let (_, worker) = events.next_event().unwrap();
        assert_ne!(worker["state"], "ready", "a stranger's answer made it ready");
        if worker["worker_id"] == id.as_str() && worker["phase"] == "loading" && worker["port"] != port {
            assert_eq!(worker["restart_count"], 0, "that is no crash");
            break;
        }
    }
    drop(stranger);
}

/// A kind whose program writes down what it was given, and then waits.
fn witness(args: &[&str]) -> Value {
    let script = r#"{ echo ARGC=$#; for arg in "$@"; do printf 'ARG=<%s>\n' "$arg"; done; env | sed 's/^/ENV /'; ls -l /proc/self/fd | sed 's/^/FD /'; pwd | sed 's/^/PWD /'; }; echo DONE; exec sleep 600"#;
    let mut all = vec!["-c", script, "witness"];
    all.extend(args);
    json!({"kind": "witness", "protocol": "native", "program": "/bin/sh", "backends": ["cpu"], "args": all,
        "env": {"FROM_KIND": "kind", "BOTH": "kind"}, "env_allow": ["LLAMA_ARG_*"], "args_allow": ["--load-ms"]})
}

fn testimony(hive: &Hive, id: &str) -> Vec<String> {
    let mut log = hive.stream(&format!("/v1/workers/{id}/logs?follow=true"), "");
    let mut lines = Vec::new();
    loop {
        let line = log.next_raw().expect("the witness says all").data;
        if line == "DONE" {
            return lines;
        }
        lines.push(line);
    }
}

#[test]
fn a_worker_gets_its_own_environment_and_no_descriptor_of_the_hive() {
    let hidden = [
        "HF_TOKEN",
        "LLAMA_ARG_MODEL",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "RBEE_HIVE_QUEEN_TOKEN",
        "CUDA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    ];
    let mut builder = Hive::builder().kind(witness(&[])).token("s3cret-of-the-hive").env("KEPT", "yes");
    for name in hidden {
        // NOTIFY_SOCKET and the others name nothing that is there.
        builder = builder.env(name, "zq7marker");
    }
    let hive = builder.start();
    let body = json!({"model_ref": hive.model_ref(), "kind": "witness",
        "env": {"MINE": "a 'b' $(c) \"d\"", "BOTH": "spawn", "LLAMA_ARG_THREADS": "4", "EMPTY": ""}});
    let id = id_of(&hive.post(SPAWN, &body));
    let lines = testimony(&hive, &id);
    let has = |line: &str| lines.iter().any(|other| other == line);
    for line in [
        "ENV KEPT=yes",
        "ENV MINE=a 'b' $(c) \"d\"",
        "ENV LLAMA_ARG_THREADS=4",
        "ENV EMPTY=",
        "ENV FROM_KIND=kind",
        "ENV CUDA_VISIBLE_DEVICES=",
        "ENV ROCR_VISIBLE_DEVICES=",
    ] {
        assert!(has(line), "{line} is not in {lines:#?}");
    }
    assert!(has("ENV BOTH=kind"), "the operator's word holds: {lines:#?}");
    let whole = lines.join("\n");
    assert!(!whole.contains("zq7marker") && !whole.contains("s3cret"), "{whole}");
    let ours: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("ENV RBEE_")).collect();
    assert!(
        ours.iter().all(|name| name.starts_with("WORKER_TOKEN=") || name.starts_with("OWNER=")),
        "{ours:?}"
    );
    assert_eq!(ours.len(), 2);
    // stdin, stdout, stderr; `ls` itself has the folder open.
    let descriptors: Vec<_> =
        lines.iter().filter(|line| line.starts_with("FD ") && line.contains(" -> ")).collect();
    assert_eq!(descriptors.len(), 4, "{descriptors:#?}");
    assert!(descriptors[0].ends_with("0 -> /dev/null"), "{descriptors:#?}");
    let log = format!("/data/logs/{id}.log");
    // Its standard output goes into a pipe here; what is left of the hive's would show.
    assert!(
        descriptors.iter().any(|line| line.contains(" 2 -> ") && line.ends_with(&log)),
        "{descriptors:#?}"
    );
    assert!(!descriptors.iter().any(|line| line.contains("socket:") || line.contains("eventpoll")));
    // A group of its own, and no token on the command line.
    let pid = hive.wait(&id, "launched", |worker| worker["pid"].is_u64())["pid"].as_u64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
    assert_eq!(group, pid);
    // In the middle of the exec that follows DONE it shows none.
    eventually("it shows its environment", || variable(pid, "RBEE_WORKER_TOKEN").is_some());
    let token = variable(pid, "RBEE_WORKER_TOKEN").unwrap();
    for pid in hive.processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&token));
    }
    let mode = std::fs::metadata(hive.log_file(&format!("{id}.log"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "a log is its owner's alone");
}

#[test]
fn arguments_are_passed_as_they_are() {
    let kind = witness(&["{model_path}", "{model_ref}|{host}:{port}", "$(touch {port})", "a b"]);
    let hive = Hive::builder().kind(kind).start();
    let name = "we ird '$(touch X)' `id` {port} \"q\" ; & * %s #.gguf";
    gguf::TINY.write(&hive.models.join(name));
    let reference = format!("file:{}/{name}", hive.models.display());
    let reply = hive.post(
        SPAWN,
        &json!({"model_ref": reference, "kind": "witness", "extra_args": ["--load-ms", "$(id)"]}),
    );
    let id = id_of(&reply);
    let lines = testimony(&hive, &id);
    let port = hive.worker(&id)["port"].as_u64().unwrap();
    let args: Vec<_> =
        lines.iter().filter_map(|line| line.strip_prefix("ARG=<")?.strip_suffix('>')).collect();
    let path = hive.models.canonicalize().unwrap().join(name);
    for wanted in [
        path.to_str().unwrap().to_owned(),
        format!("{reference}|127.0.0.1:{port}"),
        format!("$(touch {port})"),
        "a b".to_owned(),
        "$(id)".to_owned(),
    ] {
        assert!(args.contains(&wanted.as_str()), "{wanted} is not in {args:#?}");
    }
    assert_eq!(hive.worker(&id)["model_ref"], reference);
    kill(u32::try_from(hive.worker(&id)["pid"].as_u64().unwrap()).unwrap(), 9);
}

#[test]
fn a_program_that_cannot_run_is_told_without_a_path() {
    let broken = json!({"kind": "broken", "protocol": "native", "program": "/bin/true", "backends": ["cpu"]});
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("zq7marker");
    std::fs::write(&program, "\x7fELF this is no program").unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let hive = Hive::builder()
        .kind(broken)
        .arg("--worker", format!("broken={}", program.display()))
        .arg("--restart-limit", 0)
        .start();
    let mut events = hive.events();
    let id = id_of(&hive.post(SPAWN, &json!({"model_ref": hive.model_ref(), "kind": "broken"})));
    let (story, last) = hive.story(&mut events, &id);
    assert_eq!(story, ["spawning", "stopping", "gone"]);
    assert_eq!(last["exit"]["reason"], "launch_failed");
    assert!(!last["exit"]["message"].as_str().unwrap().contains("zq7marker"), "{last}");
    std::fs::remove_file(&program).unwrap();
    let reply = hive.post(SPAWN, &json!({"model_ref": hive.model_ref(), "kind": "broken"}));
    assert_eq!((reply.status, reply.code().as_str()), (409, "KIND_NOT_INSTALLED"));
}
